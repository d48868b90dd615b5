"""Views of overlays whose device number is the same each time.

An overlay gets a device number when it is mounted, the lowest that is free. A program that stores the number with each
file (restic before 0.17) sees every folder changed when it is another. A second overlay over the first can be given a
number of our choice: as many file systems are mounted in a private place as it takes until that number is the next.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from triune.host import syscalls

_OVERLAY = "overlay"
_MOST = 8192


def mount(source: Path, target: Path, scratch: Path, number: int) -> bool:
    """Mount a read-only view of the overlay `source` at `target`, with the minor device `number` where it is free.

    Needs a mount namespace of its own; `scratch` is an empty folder of it. Returns whether there is a view now: False
    for what is no overlay, and where the kernel would not stack another one on it.
    """
    if not _is_overlay(source) or any(char in os.fspath(source) for char in ",:\\"):
        return False
    filling = scratch / "filling"
    empty = scratch / "empty"
    for folder in (filling, empty):
        folder.mkdir()
    syscalls.mount("triune-stage", filling, "tmpfs", 0, "mode=0700")
    try:
        _fill(filling, number)
        syscalls.mount("triune-stage", target, _OVERLAY, syscalls.MS_RDONLY, f"lowerdir={source}:{empty}")
    except OSError:
        return False
    else:
        return True
    finally:
        with suppress(OSError):
            syscalls.umount(filling, syscalls.MNT_DETACH)


def _fill(folder: Path, number: int) -> None:
    """Take every free number below `number`."""
    for count in range(_MOST):
        place = folder / str(count)
        place.mkdir()
        syscalls.mount("triune-stage", place, "tmpfs", 0, "size=4k,nr_inodes=2")
        minor = os.minor(place.stat().st_dev)
        if minor >= number:
            syscalls.umount(place)
            return


def _is_overlay(path: Path) -> bool:
    """Whether what is mounted at `path` is one, or the folder is on one."""
    device = path.stat().st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        if left.split()[2] == wanted:
            return right.split()[0] == _OVERLAY
    return False
