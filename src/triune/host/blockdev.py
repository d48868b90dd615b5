"""Which disk a folder lies on, by the number that the kernel's limits of disk traffic take."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

_MOUNTINFO = Path("/proc/self/mountinfo")
_BY_NUMBER = Path("/sys/dev/block")
_DEEPEST = 8  # overlays on overlays


def disk_of(path: Path) -> str | None:
    """`MAJOR:MINOR` of the whole disk below a path, through overlays, partitions and btrfs; None where it has none.

    A loop device counts as a disk of its own.
    """
    for _ in range(_DEEPEST):
        found = mount_of(path, _MOUNTINFO.read_text())
        if found is None:
            return None
        kind, source, options = found
        if kind != "overlay":
            return _whole(_number(path, source))
        upper = options.get("upperdir", "")
        if not upper.startswith("/") or Path(upper) == path:
            return None
        path = Path(upper)
    return None


def mount_of(path: Path, mountinfo: str) -> tuple[str, str, Mapping[str, str]] | None:
    """(type, source, options) of the file system a path is on, out of /proc/self/mountinfo (proc_pid_mountinfo(5))."""
    where, best, found = os.path.abspath(path), -1, None  # noqa: PTH100 - links stay: it is compared as written
    for line in mountinfo.splitlines():
        before, dash, after = line.partition(" - ")
        fields, kinds = before.split(" "), after.split(" ")
        if not dash or len(fields) < 5 or len(kinds) < 3:
            continue
        point = _plain(fields[4])
        inside = where == point or where.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= best:  # the last of several at one place is the one that is seen
            options = dict(word.partition("=")[::2] for word in kinds[2].split(","))
            best, found = len(point), (kinds[0], _plain(kinds[1]), {key: _plain(text) for key, text in options.items()})
    return found


def _plain(text: str) -> str:
    for code, char in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(code, char)
    return text


def _number(path: Path, source: str) -> tuple[int, int] | None:
    try:
        device = path.stat().st_dev
        if os.major(device) == 0:  # btrfs numbers its subvolumes; the disk is what is mounted
            device = Path(source).stat().st_rdev
    except OSError:
        return None
    return (os.major(device), os.minor(device)) if os.major(device) else None


def _whole(number: tuple[int, int] | None) -> str | None:
    """A partition's limits are its disk's: the kernel takes none for a partition."""
    if number is None:
        return None
    text = f"{number[0]}:{number[1]}"
    try:
        folder = (_BY_NUMBER / text).resolve(strict=True)
        return (folder.parent / "dev").read_text().strip() if (folder / "partition").exists() else text
    except OSError:
        return None
