"""btrfs subvolumes by ioctl, together with those that a guest made inside them.

`btrfs subvolume snapshot` leaves an empty folder where a subvolume lies inside another, and systemd, Docker and
machinectl make such ones in a container whose root is a subvolume: here a snapshot has them all. Asking the kernel
directly also costs no process per step. Structures and numbers: include/uapi/linux/btrfs.h.

What lies inside a subvolume is addressed by descriptors and by subvolume ids, and no link in it is followed. It must be
held still meanwhile. Errors are OSError.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from triune.host import syscalls

_ARGS = 4096  # every argument structure here has this size
_SNAP_CREATE_V2 = 0x50009417
_SNAP_DESTROY_V2 = 0x5000943F
_GET_FLAGS = 0x80089419
_SET_FLAGS = 0x4008941A
_GET_SUBVOL_ROOTREF = 0xD000943D
_INO_LOOKUP_USER = 0xD000943E
_READ_ONLY = 1 << 1
_BY_ID = 1 << 4
_NAME_MAX = 255
_INSIDE = syscalls.RESOLVE_BENEATH | syscalls.RESOLVE_NO_SYMLINKS
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW


def snapshot(source: Path, target: Path, *, read_only: bool = False) -> None:
    """Make `target`, which must not exist, a snapshot of a subvolume and of all inside it."""
    with _opened(source) as fd, _opened(target.parent) as parent:
        _snapshot(fd, parent, target.name, read_only)


def _snapshot(source: int, parent: int, name: str, read_only: bool) -> None:
    inner = children(source)
    flags = _READ_ONLY if read_only and not inner else 0
    _ioctl(parent, _SNAP_CREATE_V2, struct.pack("<qQQ32x", source, 0, flags) + _name(name))
    if not inner:
        return
    with _inside(parent, name) as made:
        for _, folder, entry in inner:
            with _inside(source, f"{folder}{entry}") as inner_source, _inside(made, folder or ".") as place:
                times = os.fstat(place)
                # The empty folder that stands for it in the snapshot.
                os.rmdir(entry, dir_fd=place)
                _snapshot(inner_source, place, entry, read_only)
                os.utime(place, ns=(times.st_atime_ns, times.st_mtime_ns))
        if read_only:
            _set_read_only(made, True)


def delete(path: Path) -> None:
    """Delete a subvolume and all inside it. Gone: succeed. What is no subvolume raises OSError."""
    try:
        with _opened(path.parent) as parent, _inside(parent, path.name) as fd:
            _delete_inner(fd)
            number = subvolume_id(fd)
        with _opened(path.parent) as parent:
            _destroy(parent, number)
    except FileNotFoundError:
        return


def _delete_inner(fd: int) -> None:
    inner = children(fd)
    if inner:
        _set_read_only(fd, False)
    for number, folder, entry in inner:
        with _inside(fd, f"{folder}{entry}") as below:
            _delete_inner(below)
        _destroy(fd, number)


def _destroy(fd: int, number: int) -> None:
    _ioctl(fd, _SNAP_DESTROY_V2, struct.pack("<qQQ32xQ", 0, 0, _BY_ID, number))


def subvolume_id(fd: int) -> int:
    """The id of the subvolume that an open folder is in (BTRFS_IOC_INO_LOOKUP with a tree id of 0)."""
    answer = _ioctl(fd, 0xD0009412, struct.pack("<QQ", 0, 256))
    return int(struct.unpack_from("<Q", answer)[0])


def children(fd: int) -> list[tuple[int, str, str]]:
    """(id, folder below the top with a slash at its end or "", name) of each subvolume directly inside this one."""
    found: list[tuple[int, str, str]] = []
    least = 0
    while True:
        try:
            answer = _ioctl(fd, _GET_SUBVOL_ROOTREF, struct.pack("<Q", least))
            more = False
        except _More as full:
            answer, more = full.answer, True
        count = answer[8 + 16 * 255]
        for index in range(count):
            number, folder_id = struct.unpack_from("<QQ", answer, 8 + 16 * index)
            found.append((number, *_place(fd, folder_id, number)))
        if not more:
            return found
        least = struct.unpack_from("<Q", answer)[0]


def _place(fd: int, folder_id: int, number: int) -> tuple[str, str]:
    answer = _ioctl(fd, _INO_LOOKUP_USER, struct.pack("<QQ", folder_id, number))
    name = answer[16 : 16 + _NAME_MAX + 1].split(b"\0", 1)[0]
    folder = answer[16 + _NAME_MAX + 1 :].split(b"\0", 1)[0]
    return os.fsdecode(folder), os.fsdecode(name)


def _set_read_only(fd: int, wanted: bool) -> None:
    flags = struct.unpack("<Q", fcntl.ioctl(fd, _GET_FLAGS, bytes(8)))[0]
    changed = flags | _READ_ONLY if wanted else flags & ~_READ_ONLY
    if changed != flags:
        fcntl.ioctl(fd, _SET_FLAGS, struct.pack("<Q", changed))


def _name(name: str) -> bytes:
    data = os.fsencode(name)
    if not data or len(data) > _NAME_MAX or b"/" in data or b"\0" in data:
        raise OSError(errno.EINVAL, "Not the name of an entry", name)
    return data


class _More(Exception):
    """There are more answers than fit into one."""

    def __init__(self, answer: bytes) -> None:
        super().__init__()
        self.answer = answer


def _ioctl(fd: int, request: int, argument: bytes) -> bytes:
    """The argument as the kernel leaves it."""
    buffer = bytearray(argument.ljust(_ARGS, b"\0"))
    try:
        fcntl.ioctl(fd, request, buffer, True)
    except OSError as error:
        if request == _GET_SUBVOL_ROOTREF and error.errno == errno.EOVERFLOW:
            raise _More(bytes(buffer)) from None
        raise
    return bytes(buffer)


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    fd = os.open(path, _FOLDER)
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def _inside(top: int, path: str) -> Iterator[int]:
    fd = syscalls.openat2(top, path, _FOLDER, resolve=_INSIDE)
    try:
        yield fd
    finally:
        os.close(fd)
