"""Copies of whole trees with everything in them, sharing blocks where the file system can.

`cp -a` keeps owners, modes, times (nanoseconds, of links too), hard links, symbolic links, devices, pipes, extended
attributes, and with those ACLs and file capabilities; holes stay holes, and `--reflink=auto` shares blocks on btrfs and
xfs, which rsync can't. A tree that a guest can change meanwhile must be held still first (stopped,
frozen, or a snapshot): `cp` walks by path, and a folder swapped for a link would lead it out of the tree.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from triune.domain.errors import Failed
from triune.host.watched import run_watched

FICLONE = 0x40049409  # include/uapi/linux/fs.h
NO_CLONE = (errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY, errno.ENOSYS)


def copy_tree(source: Path, target: Path, check: Callable[[], None] = lambda: None) -> None:
    """Copy a folder and all in it to `target`, which must not exist or be an empty folder. `check` may raise to stop.

    What was copied so far stays when it fails. Raises Failed, and Failed("no_space") on a full disk.
    """
    target.mkdir(exist_ok=True)
    _copy(source, target, check, "auto")


def copy_file(source: Path, target: Path, check: Callable[[], None] = lambda: None) -> None:
    """Copy one regular file the same way, zeros becoming holes; an existing `target` is replaced."""
    _copy(source, target, check, "always")


def _copy(source: Path, target: Path, check: Callable[[], None], sparse: str) -> None:
    # -T: into the target, not below it; and the target gets the source's own owner, mode and times.
    argv = ["cp", "-a", "--preserve=xattr", "--reflink=auto", f"--sparse={sparse}", "-T", "--"]
    try:
        run_watched([*argv, source, target], lambda _: check())
    except Failed as error:
        if os.strerror(errno.ENOSPC) in error.message or os.strerror(errno.EDQUOT) in error.message:
            raise Failed(
                "no_space", f"no space is left for {target}", hint=f"Make room and repeat; see: df -h {target.parent}"
            ) from None
        raise


def clones(folder: Path) -> bool:
    """Whether files in this folder can share blocks (FICLONE), tried out with two small files."""
    names = [folder / f".triune-reflink-{secrets.token_hex(6)}" for _ in range(2)]
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    fds: list[int] = []
    try:
        fds += [os.open(name, flags, 0o600) for name in names]
        os.write(fds[0], bytes(4096))
        fcntl.ioctl(fds[1], FICLONE, fds[0])
    except OSError:
        return False
    else:
        return True
    finally:
        for fd in fds:
            os.close(fd)
        for name in names:
            with suppress(OSError):
                name.unlink()
