"""Overlay mounts, and taking mounts away again."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from triune.domain.names import single_line
from triune.host import syscalls

# mount(2) passes one page of options.
_MAX_OPTIONS = 4095


def options(lower: Path, upper: Path, work: Path) -> str:
    """The option string; `:`, `,` and `\\` in a path are escaped as overlayfs reads them.

    Raises Invalid on control characters, ValueError when it is too long.
    """
    parts = []
    for key, path in (("lowerdir", lower), ("upperdir", upper), ("workdir", work)):
        parts.append(f"{key}={_escaped(path, key)}")
    text = ",".join(parts)
    if len(os.fsencode(text)) > _MAX_OPTIONS:
        raise ValueError("The paths of this overlay are too long")
    return text


def _escaped(path: Path, key: str) -> str:
    text = single_line(str(path), f"The path {key}")
    # The option parser takes a backslash before any character as quoting it; lowerdir is split at colons.
    escaped = text.replace("\\", "\\\\").replace(",", "\\,")
    return escaped.replace(":", "\\:") if key == "lowerdir" else escaped


def mount(lower: Path, upper: Path, work: Path, target: Path, *, devices: bool = False) -> None:
    """Mount the overlay at `target`; device files in it work only with `devices`. Raises OSError."""
    flags = 0 if devices else syscalls.MS_NODEV
    syscalls.mount("overlay", target, "overlay", flags, options(lower, upper, work))


def holds_layers(folder: Path) -> bool:
    """Whether an overlay's changes can lie in this folder of ours, tried: not every file system can hold them."""
    with tempfile.TemporaryDirectory(prefix=".triune-layers-", dir=folder) as place:
        lower, upper, work, target = (Path(place, name) for name in ("lower", "upper", "work", "merged"))
        for path in (lower, upper, work, target):
            path.mkdir()
        try:
            mount(lower, upper, work, target)
        except OSError:
            return False
        unmount(target)
        return True


def mount_view(layers: Sequence[Path], target: Path) -> None:
    """Mount layers, the uppermost first, at `target` to be read only. Raises OSError, Invalid, ValueError."""
    text = f"lowerdir={':'.join(_escaped(path, 'lowerdir') for path in layers)}"
    if len(os.fsencode(text)) > _MAX_OPTIONS:
        raise ValueError("The paths of this overlay are too long")
    syscalls.mount("overlay", target, "overlay", syscalls.MS_RDONLY | syscalls.MS_NODEV | syscalls.MS_NOSUID, text)


def is_mounted(path: Path) -> bool:
    """Whether `path` (trusted) is a mount point; a bind within one file system counts. Gone: False."""
    try:
        return _mount_id(path) != _mount_id(path.parent)
    except FileNotFoundError:
        return False


def _mount_id(path: Path) -> int:
    """The mount that a path is on: `mnt_id` of proc_pid_fdinfo(5)."""
    fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        lines = Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines()
    finally:
        os.close(fd)
    return next(int(line.split()[1]) for line in lines if line.startswith("mnt_id:"))


def unmount(path: Path) -> None:
    """Take away every mount at `path`, lazily where it is still in use. Not mounted or gone: succeed."""
    while True:
        try:
            syscalls.umount(path)
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.ENOENT):
                return
            if error.errno != errno.EBUSY:
                raise
            syscalls.umount(path, syscalls.UMOUNT_NOFOLLOW | syscalls.MNT_DETACH)
