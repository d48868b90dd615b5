"""Keeping quotas of btrfs (qgroups) right while subvolumes come and go.

The kernel removes a deleted subvolume in the background. Depending on its version it then leaves the quota group, or
finds that it has lost count, and from there on enforces no limit on the whole file system until somebody has it
counted anew (`btrfs quota rescan`). `tidy` waits for the one and does the other.

Having it count throughout (drop_subtree_threshold) takes minutes with a few dozen snapshots, and it lost count all the
same (Linux 6.18).
"""

from __future__ import annotations

import fcntl
import os
import re
import threading
import time
import uuid
from contextlib import suppress
from pathlib import Path

from triune.domain.errors import TriuneError
from triune.host.run import run

_FS_INFO = 0x8400941F  # BTRFS_IOC_FS_INFO: u64 max_id, u64 num_devices, u8 fsid[16], …
_STALE = re.compile(r"^0/(\d+)\s.*<stale>\s*$", re.MULTILINE)
_GONE_WITHIN_S = 600.0
_LOOK_S = 1.0

_lock = threading.Lock()
# Folders of /sys whose file systems have a thread that tidies, and whether it has to go round again.
_tidying: dict[Path, bool] = {}


def folder(path: Path) -> Path | None:
    """The folder of /sys with the quota state of the btrfs that `path` is on; None where it has no quotas."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        info = fcntl.ioctl(fd, _FS_INFO, bytes(1024))
    except OSError:
        return None
    finally:
        os.close(fd)
    found = Path("/sys/fs/btrfs") / str(uuid.UUID(bytes=info[16:32])) / "qgroups"
    return found if found.is_dir() else None


def tidy(path: Path) -> None:
    """In the background: once the deleted subvolumes are gone, remove their groups; count anew where count was lost."""
    state = folder(path)
    if state is None:
        return
    with _lock:
        if state in _tidying:
            _tidying[state] = True
            return
        _tidying[state] = False
    threading.Thread(target=_tidy, args=(path, state), name="btrfs-quotas", daemon=True).start()


def _tidy(path: Path, state: Path) -> None:
    while True:
        # An error, or a file system that went away: the next deletion or start begins anew.
        with suppress(TriuneError):
            if _settled(path, state):
                _forget(path)
                if inconsistent(state):
                    run(["btrfs", "quota", "rescan", path], check=False)
        with _lock:
            if not _tidying[state]:
                del _tidying[state]
                return
            _tidying[state] = False


def _settled(path: Path, state: Path) -> bool:
    """Wait until deleted subvolumes are gone; False where the file system went away, or where it takes too long.

    Asked again and again: `btrfs subvolume sync` would keep the file system busy when somebody unmounts it.
    """
    deadline = time.monotonic() + _GONE_WITHIN_S
    while time.monotonic() < deadline:
        if folder(path) != state:
            return False
        if not dropping(run(["btrfs", "subvolume", "list", "-d", path], check=False).text):
            return True
        time.sleep(_LOOK_S)
    return False


def inconsistent(state: Path) -> bool:
    """Whether the kernel has lost count; kernels before 6.1 don't say, then it has not."""
    try:
        return (state / "inconsistent").read_text().strip() == "1"
    except OSError:
        return False


def _forget(path: Path) -> None:
    """Remove groups of subvolumes that are gone; of one that is going, it would make the kernel lose count."""
    groups = stale(run(["btrfs", "qgroup", "show", path], check=False).text)
    listed = run(["btrfs", "subvolume", "list", "-d", path], check=False).text if groups else ""
    for number in groups:
        if number not in dropping(listed):
            run(["btrfs", "qgroup", "destroy", f"0/{number}", path], check=False)


def stale(text: str) -> list[int]:
    """The ids of deleted subvolumes in the output of `btrfs qgroup show`."""
    return [int(match[1]) for match in _STALE.finditer(text)]


def dropping(text: str) -> set[int]:
    """The ids of subvolumes that the kernel is still removing, in the output of `btrfs subvolume list -d`."""
    return {int(match[1]) for match in re.finditer(r"^ID (\d+) ", text, re.MULTILINE)}
