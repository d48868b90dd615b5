"""Whether a folder may be written to: never what is rescued from, and only where there is room."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from triune.domain.errors import Conflict, Failed
from triune.domain.units import format_size
from triune.host.blockdev import mount_of

_BLOCK = Path("/sys/dev/block")
_DEEPEST = 16


def refuse_sources(folder: Path, sources: Iterable[str]) -> None:
    """Raise Conflict("target_on_source") where a folder lies on what is rescued from, or on a part of it.

    `folder` exists. Looked at are partitions, loop devices, and what the device mapper and RAID make of others.
    """
    below = set(_below(_device(folder)))
    for source in sources:
        try:
            info = Path(source).stat()
        except OSError:
            continue  # another kind of source
        block = stat.S_ISBLK(info.st_mode)
        if info.st_rdev in below if block else (info.st_dev, info.st_ino) in set(_files(below)):
            raise Conflict(
                "target_on_source",
                f"{folder} lies on {source}, which is rescued from",
                hint="Give a folder on another disk: what is written there could overwrite what is still to be read.",
            )


def require_room(folder: Path, needed: int) -> None:
    """Raise Failed("no_space") where a file system has less than `needed` bytes left."""
    state = os.statvfs(folder)
    free = state.f_bavail * state.f_frsize
    if needed > free:
        raise Failed(
            "no_space",
            f"{format_size(needed)} of data do not fit into {folder}: {format_size(free)} are free",
            hint="Give a folder with more room, or name the files you want. Zeros take none: try --no-check-space.",
            needed=needed,
            free=free,
        )


def _device(folder: Path) -> int:
    """The device number of the file system a folder is on; btrfs numbers its subvolumes, and is asked by its mount."""
    device = folder.stat().st_dev
    if os.major(device) == 0:
        found = mount_of(folder, Path("/proc/self/mountinfo").read_text())
        if found is not None and found[1].startswith("/dev/"):
            try:
                return Path(found[1]).stat().st_rdev
            except OSError:
                return device
    return device


def _below(device: int, depth: int = 0) -> Iterator[int]:
    """A block device and all that it is made of."""
    yield device
    place = _BLOCK / f"{os.major(device)}:{os.minor(device)}"
    if depth > _DEEPEST or not place.exists():
        return
    where = place.resolve()
    if (where / "partition").exists():
        yield from _numbered(where.parent, depth)
    if (where / "slaves").is_dir():
        for slave in (where / "slaves").iterdir():
            yield from _numbered(slave.resolve(), depth)
    backing = _backing(device)
    if backing is not None:
        yield from _below(backing.st_dev, depth + 1)


def _numbered(where: Path, depth: int) -> Iterator[int]:
    try:
        major, _, minor = (where / "dev").read_text().strip().partition(":")
    except OSError:
        return
    yield from _below(os.makedev(int(major), int(minor)), depth + 1)


def _files(devices: Iterable[int]) -> Iterator[tuple[int, int]]:
    """The files that loop devices among them are made of, as (device, inode)."""
    for device in devices:
        info = _backing(device)
        if info is not None:
            yield info.st_dev, info.st_ino


def _backing(device: int) -> os.stat_result | None:
    path = _BLOCK / f"{os.major(device)}:{os.minor(device)}" / "loop" / "backing_file"
    try:
        return Path(path.read_text().rstrip("\n")).stat()
    except OSError:
        return None
