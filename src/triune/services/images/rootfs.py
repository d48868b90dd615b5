"""One root tree of a release, made by mmdebstrap."""

from __future__ import annotations

import errno
import os
import shlex
import shutil
import signal
import subprocess
import threading
import time
from collections import deque
from importlib import resources
from pathlib import Path
from typing import Self

from triune.domain.errors import Failed
from triune.domain.operation import Progress
from triune.host import apt
from triune.host.run import Result, command_failed, environment, tool_missing
from triune.services.images.options import BuildOptions
from triune.services.images.releases import Release, sources_text

# Documentation and translations are left out of what is built, as in slim container images; what is installed in an
# instance later comes complete, since this configuration is removed at the end.
_DPKG = """\
path-exclude=/usr/share/doc/*
path-include=/usr/share/doc/*/copyright
path-exclude=/usr/share/man/*
path-exclude=/usr/share/info/*
path-exclude=/usr/share/locale/*
path-include=/usr/share/locale/locale.alias
force-unsafe-io
"""
_APT = 'Acquire::Languages "none";\nAPT::Install-Recommends "false";\n'

# What mmdebstrap says, and how far it is then (measured on a build with a warm cache).
_STAGES = (
    ("running apt-get update", 0.02, "reading package lists"),
    ("downloading packages with apt", 0.12, "downloading the base system"),
    ("extracting archives", 0.2, "unpacking the base system"),
    ("installing essential packages", 0.3, "installing the base system"),
    ("installing remaining packages", 0.5, "installing packages"),
    ("cleaning package lists", 0.97, "cleaning up"),
)
_ARCHIVES = "/var/cache/apt/archives"
# On a full disk apt 2.6 may wait without an end for a helper that could not write. A build that goes on says something
# more often than that, and takes more room than that.
_SILENT = 30.0  # seconds
_LITTLE = 64 << 20


def bootstrap(tree: Path, release: Release, options: BuildOptions, cache: Path, progress: Progress) -> None:
    """Make the tree at `tree` (must not exist). `cache` keeps downloaded packages between builds.

    Raises Failed("bootstrap_failed") with the last lines of what was said, OSError(ENOSPC).
    """
    config = tree.parent / "config"
    config.mkdir()
    (config / "apt.conf").write_text(_APT + apt.handed_on_options())
    (config / "dpkg.cfg").write_text(_DPKG)
    (config / "build.sources").write_text(sources_text(release, options))
    cache.mkdir(parents=True, exist_ok=True)
    wanted = [*release.packages, release.kernels[options.kernel], *options.packages]
    with resources.as_file(resources.files(__package__) / "files") as files:
        early = shlex.quote(str(files / "early"))
        store = shlex.quote(str(cache))
        _run(
            [
                # In their own process and mount namespace, apt and dpkg die with us, and their mounts with them.
                *("setpriv", "--pdeathsig", "KILL"),
                *("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"),
                *("mmdebstrap", "--mode=root", "--format=directory", "--variant=minbase"),
                "--skip=download/empty,essential/unlink",
                f"--aptopt={config / 'apt.conf'}",
                f"--dpkgopt={config / 'dpkg.cfg'}",
                f'--setup-hook=mkdir -p "$1{_ARCHIVES}"',
                f"--setup-hook=sync-in {store} {_ARCHIVES}",
                f"--essential-hook=sync-in {early} /",
                f"--customize-hook=sync-out {_ARCHIVES} {store}",
                f"--include={','.join(wanted)}",
                release.suite,
                str(tree),
                str(config / "build.sources"),
            ],
            {"SOURCE_DATE_EPOCH": str(release.epoch), "TMPDIR": str(config)},
            tree.parent,
            progress,
        )
    for name in ("etc/apt/apt.conf.d/99mmdebstrap", "etc/dpkg/dpkg.cfg.d/99mmdebstrap"):
        (tree / name).unlink(missing_ok=True)
    for path in config.iterdir():
        path.unlink()
    config.rmdir()


def _run(argv: list[str], env: dict[str, str], folder: Path, progress: Progress) -> None:
    said: deque[str] = deque(maxlen=12)
    try:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=environment(env),
            text=True,
            errors="replace",
            start_new_session=True,
        )
    except FileNotFoundError:
        raise tool_missing(argv[0]) from None
    try:
        with _Watch(process.pid, folder) as watch:
            # Its progress bars end in a carriage return, which text mode takes for the end of a line.
            for line in process.stderr or ():
                watch.heard = time.monotonic()
                _tell(line.strip(), said, progress)
        status = process.wait()
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise
    if watch.full:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
    if status == 127:
        raise tool_missing("mmdebstrap")
    if status != 0:
        error = command_failed(["mmdebstrap"], Result(status, b"", "\n".join(said).encode()))
        raise Failed(
            "bootstrap_failed",
            f"the base system could not be built: {error.message}",
            hint="Check the host's package sources (apt-get update), or give a mirror: triune image build --mirror URL",
        )


class _Watch:
    """Ends a group of processes that has said nothing for long and has filled its disk."""

    def __init__(self, group: int, folder: Path) -> None:
        self._group, self._folder = group, folder
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, name="build-watch", daemon=True)
        self.heard = time.monotonic()
        self.full = False

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(1):
            silent = time.monotonic() - self.heard
            if silent > _SILENT and shutil.disk_usage(self._folder).free < _LITTLE:
                self.full = True
                os.killpg(self._group, signal.SIGKILL)
                return


def _tell(line: str, said: deque[str], progress: Progress) -> None:
    if not line or line.startswith("done") or "%" in line:
        progress.check()
        return
    said.append(line)
    for mark, fraction, text in _STAGES:
        if mark in line:
            progress.report(fraction, text)
            return
    progress.check()
