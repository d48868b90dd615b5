"""What the distribution installed, and which security holes its changelog says are mended."""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from triune.domain.errors import TriuneError
from triune.domain.isolation import Component
from triune.host.run import run

_DOC = Path("/usr/share/doc")
_CVE = re.compile(r"CVE-\d{4}-\d{4,7}")
_MOST = 1 << 23  # of a changelog
_NAME = re.compile(r"[a-z0-9][a-z0-9+.-]+", re.ASCII)


def component(name: str, version: str, packages: Iterable[str]) -> Component:
    """A program of this version, and the first of these packages that is installed: the one that brought it."""
    for package in packages:
        if found := installed(package):
            return Component(name=name, version=version, package=package, package_version=found, told=mended(package))
    return Component(name=name, version=version)


def installed(package: str) -> str:
    """The version of an installed package of Debian's or Ubuntu's; "" where it is not."""
    if not _NAME.fullmatch(package):
        return ""
    try:
        done = run(["dpkg-query", "-W", "-f=${db:Status-Status} ${Version}", package], check=False, timeout=10)
    except TriuneError:
        return ""
    status, _, version = done.text.partition(" ")
    return version.strip() if status == "installed" else ""


def mended(package: str, folder: Path = _DOC) -> frozenset[str]:
    """The CVE ids in its changelog (Debian Policy 12.7): backported fixes leave the upstream version as it was."""
    if not _NAME.fullmatch(package):
        return frozenset()
    path = folder / package / "changelog.Debian.gz"
    try:
        return _ids(path, path.stat().st_mtime_ns)
    except OSError:
        return frozenset()


@lru_cache(maxsize=32)
def _ids(path: Path, _changed: int) -> frozenset[str]:
    try:
        with gzip.open(path) as file:
            text = file.read(_MOST).decode(errors="replace")
    except (OSError, EOFError, zlib.error):
        return frozenset()
    return frozenset(_CVE.findall(text))
