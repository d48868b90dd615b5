"""A CRIU that works on this kernel: the host's own, or one of a newer Debian, unpacked beside its libraries.

Nothing is installed: the packages are fetched by apt with lists and a state of its own, and run by their own loader.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from tests.live.daemon import CACHE
from triune.host import criu

_SUITE = "forky"  # with CRIU 4.2: 4.1 refuses all network sockets of kernel 6.18
_FOLDER = CACHE / "criu"
_SOURCE = """Types: deb
URIs: {uri}
Suites: {suite}
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
"""
_LOADERS = ("usr/lib64/ld-linux-x86-64.so.2", "usr/lib/ld-linux-aarch64.so.1")


def working() -> tuple[Path | None, str]:
    """The folder of a CRIU that `criu check` is content with, to be put on PATH; else None, and why."""
    own = criu.find()
    if own is not None and criu.trouble(own) is None:
        return own.parent, ""
    try:
        fetched = _fetched()
    except (OSError, LookupError, subprocess.SubprocessError) as error:
        said = str(getattr(error, "stderr", None) or error).strip().splitlines()
        return None, f"no newer CRIU could be fetched: {said[-1] if said else error!r}"
    trouble = criu.trouble(fetched)
    return (None, trouble) if trouble else (fetched.parent, "")


def _fetched() -> Path:
    program = _FOLDER / "bin/criu"
    if not program.exists():
        shutil.rmtree(_FOLDER, ignore_errors=True)
        for part in ("state/lists/partial", "cache/archives/partial", "root", "bin"):
            (_FOLDER / part).mkdir(parents=True)
        for package in _download():
            subprocess.run(["dpkg-deb", "--extract", package, _FOLDER / "root"], check=True, timeout=60)
        shutil.rmtree(_FOLDER / "state")
        shutil.rmtree(_FOLDER / "cache")
        _write_launcher(program)
    return program


def _download() -> list[Path]:
    uri = _apt("indextargets", "--format", "$(REPO_URI)", "Label: Debian").split()[0]
    (_FOLDER / "status").touch()
    (_FOLDER / "debian.sources").write_text(_SOURCE.format(uri=uri, suite=_SUITE))
    own = {
        "Dir::Etc::sourcelist": _FOLDER / "debian.sources",
        "Dir::Etc::sourceparts": "-",
        "Dir::Etc::preferencesparts": "-",
        "Dir::State": _FOLDER / "state",
        "Dir::State::status": _FOLDER / "status",
        "Dir::Cache": _FOLDER / "cache",
        "APT::Sandbox::User": "root",
        "Acquire::Languages": "none",
    }
    options = [word for key, value in own.items() for word in ("-o", f"{key}={value}")]
    _apt(*options, "update")
    # As for a host that has nothing yet: all that it needs, to the C library.
    _apt(*options, "install", "--yes", "--download-only", "--no-install-recommends", "criu")
    return sorted((_FOLDER / "cache/archives").glob("*.deb"))


def _apt(*words: str) -> str:
    env = {**os.environ, "LC_ALL": "C.UTF-8"}
    return subprocess.run(
        ["apt-get", "--quiet", *words], capture_output=True, text=True, check=True, timeout=120, env=env
    ).stdout


def _write_launcher(program: Path) -> None:
    root = _FOLDER / "root"
    loader = next(root / one for one in _LOADERS if (root / one).exists())
    libraries = ":".join(str(one) for one in (root / "usr/lib").glob("*-linux-gnu"))
    program.write_text(f'#!/bin/sh\nexec {loader} --library-path {libraries} {root}/usr/sbin/criu "$@"\n')
    program.chmod(0o755)
