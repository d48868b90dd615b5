"""File systems in files: loop devices by losetup, and their mounts."""

from __future__ import annotations

import os
from pathlib import Path

from triune.domain.errors import Failed
from triune.host import overlay, syscalls
from triune.host.run import run


def make_file(path: Path, size: int) -> None:
    """A file of this many bytes, its blocks reserved, readable by root alone. Raises OSError: ENOSPC."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(fd, 0, size)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    finally:
        os.close(fd)


def devices(path: Path) -> list[str]:
    """The loop devices of a file."""
    return run(["losetup", "--associated", path, "--noheadings", "--output", "NAME"], check=False).text.split()


def mount(path: Path, target: Path, fstype: str, options: str = "") -> None:
    """Mount the file system in a file; the device goes away with the mount. Mounted already: nothing.

    Raises Failed("mount_failed").
    """
    if overlay.is_mounted(target):
        return
    # A crash between the two leaves a device: it is used again.
    device = (devices(path) or [run(["losetup", "--find", "--show", "--", path]).text.strip()])[0]
    try:
        syscalls.mount(device, target, fstype, 0, options)
    except OSError as error:
        raise Failed(
            "mount_failed",
            f"{path} can't be mounted at {target}: {error.strerror}",
            hint=f"See why: dmesg; or try it: mount -o loop {path} {target}",
        ) from None
    finally:
        # While it is mounted this only says that the device goes with the last user.
        run(["losetup", "--detach", device], check=False)


def unmount(path: Path, target: Path) -> None:
    """Take the mount and the device away. Not there: succeed."""
    overlay.unmount(target)
    for device in devices(path):
        run(["losetup", "--detach", device], check=False)
