"""A file or a folder as a tar stream (POSIX pax), read through descriptors: a hostile tree leads nowhere else.

Links stay links, hard links stay linked, holes stay holes (GNU's sparse format 1.0, which GNU tar, bsdtar, Go's and
Python's readers know: "GNU tar manual", Storing Sparse Files). Owners, modes and times are kept, extended attributes
are not. Left out: sockets, and what is mounted below from a file system of the kernel (proc, sysfs, tmpfs and the like,
whose top has the inode number 1).
"""

from __future__ import annotations

import errno
import os
import stat
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

_CHUNK = 1 << 18
_BLOCK = tarfile.BLOCKSIZE
_KERNEL_TOP = 1
_KINDS = {
    stat.S_IFREG: tarfile.REGTYPE,
    stat.S_IFDIR: tarfile.DIRTYPE,
    stat.S_IFLNK: tarfile.SYMTYPE,
    stat.S_IFIFO: tarfile.FIFOTYPE,
    stat.S_IFCHR: tarfile.CHRTYPE,
    stat.S_IFBLK: tarfile.BLKTYPE,
}

Ids = Callable[[int, int], tuple[int, int]]


@dataclass(slots=True)
class _Walk:
    """What is known on the way: names of files with several links, the ids to write, whom to tell of bytes read."""

    ids: Ids | None
    told: Callable[[int], None] | None
    seen: dict[tuple[int, int], str] = field(default_factory=dict)


def stream(
    parent: int, name: str, as_name: str, *, ids: Ids | None = None, told: Callable[[int], None] | None = None
) -> Iterator[bytes]:
    """The entry `name` of the folder open as `parent`, and what is below it, as a whole tar.

    Its names begin with `as_name`; "" leaves the top folder itself out and gives what is in it. `name` "." is the
    folder itself. `ids` maps owners; without it they are 0:0. `told` hears of bytes read from files. Raises OSError.
    """
    walk = _Walk(ids, told)
    yield from _entry(walk, parent, name, as_name, None)
    yield bytes(2 * _BLOCK)


def size(parent: int, name: str) -> int:
    """Bytes of data that `stream` will read, as far as can be told now."""
    total = 0
    info = os.stat(name, dir_fd=parent, follow_symlinks=False)
    if stat.S_ISREG(info.st_mode):
        return min(info.st_size, info.st_blocks * 512)
    if stat.S_ISDIR(info.st_mode):
        fd = _open_folder(parent, name)
        try:
            for inner in os.listdir(fd):  # noqa: PTH208 - of a descriptor
                try:
                    total += size(fd, inner)
                except OSError:
                    continue
        finally:
            os.close(fd)
    return total


def _open_folder(parent: int, name: str) -> int:
    return os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)


def _entry(walk: _Walk, parent: int, name: str, path: str, device: int | None) -> Iterator[bytes]:
    info = os.stat(name, dir_fd=parent, follow_symlinks=False)
    kind = stat.S_IFMT(info.st_mode)
    if kind not in _KINDS:
        return
    if kind == stat.S_IFDIR:
        if device is None or info.st_dev == device or info.st_ino != _KERNEL_TOP:
            yield from _folder(walk, parent, name, path)
        return
    if kind == stat.S_IFREG:
        yield from _file(walk, parent, name, path)
        return
    member = _member(walk, path, info)
    member.type = _KINDS[kind]
    if kind == stat.S_IFLNK:
        member.linkname = os.readlink(name, dir_fd=parent)
    elif kind in (stat.S_IFCHR, stat.S_IFBLK):
        member.devmajor, member.devminor = os.major(info.st_rdev), os.minor(info.st_rdev)
    yield _header(member)


def _folder(walk: _Walk, parent: int, name: str, path: str) -> Iterator[bytes]:
    try:
        fd = _open_folder(parent, name)
    except (FileNotFoundError, NotADirectoryError):
        return  # it went away, or became something else, since it was listed
    try:
        info = os.fstat(fd)
        if path:
            member = _member(walk, path, info)
            member.type = tarfile.DIRTYPE
            yield _header(member)
        for inner in sorted(os.listdir(fd)):  # noqa: PTH208 - of a descriptor
            try:
                yield from _entry(walk, fd, inner, f"{path}/{inner}" if path else inner, info.st_dev)
            except FileNotFoundError:
                continue
    finally:
        os.close(fd)


def _file(walk: _Walk, parent: int, name: str, path: str) -> Iterator[bytes]:
    # O_NONBLOCK: what was a file when it was listed may be a pipe by now.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        fd = os.open(name, flags, dir_fd=parent)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):
            return
        raise
    try:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode):
            return
        member = _member(walk, path, info)
        first = walk.seen.get((info.st_dev, info.st_ino)) if info.st_nlink > 1 else None
        if first is not None:
            member.type, member.linkname = tarfile.LNKTYPE, first
            yield _header(member)
            return
        if info.st_nlink > 1:
            walk.seen[info.st_dev, info.st_ino] = path
        yield from _content(walk, fd, member, info)
    finally:
        os.close(fd)


def _content(walk: _Walk, fd: int, member: tarfile.TarInfo, info: os.stat_result) -> Iterator[bytes]:
    pieces = [(0, info.st_size)] if info.st_blocks * 512 >= info.st_size else _data(fd, info.st_size)
    given = sum(length for _, length in pieces)
    extra = b""
    if given < info.st_size:
        # The map: how many pieces, then offset and length of each; one of no length at the end tells the size.
        words = [len(pieces) + 1, *(number for piece in [*pieces, (info.st_size, 0)] for number in piece)]
        extra = _padded("".join(f"{word}\n" for word in words).encode())
        member.pax_headers = {
            "GNU.sparse.major": "1",
            "GNU.sparse.minor": "0",
            "GNU.sparse.name": member.name,
            "GNU.sparse.realsize": str(info.st_size),
        }
        folder, _, last = member.name.rpartition("/")
        member.name = f"{folder}/GNUSparseFile.0/{last}".lstrip("/")
    member.size = len(extra) + given
    yield _header(member)
    yield extra
    for offset, length in pieces:
        yield from _piece(walk, fd, offset, length)
    yield bytes(-given % _BLOCK)


def _piece(walk: _Walk, fd: int, offset: int, length: int) -> Iterator[bytes]:
    """So many bytes, whatever happens to the file: what it no longer has is zeros, as GNU tar does."""
    while length:
        data = os.pread(fd, min(_CHUNK, length), offset)
        if not data:
            data = bytes(min(_CHUNK, length))
        if walk.told is not None:
            walk.told(len(data))
        offset += len(data)
        length -= len(data)
        yield data


def _data(fd: int, end: int) -> list[tuple[int, int]]:
    """(offset, length) of what is no hole, by SEEK_DATA and SEEK_HOLE."""
    found: list[tuple[int, int]] = []
    offset = 0
    while offset < end:
        try:
            start = os.lseek(fd, offset, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                break
            raise
        offset = min(os.lseek(fd, start, os.SEEK_HOLE), end)
        if start < end:
            found.append((start, offset - start))
    return found


def _member(walk: _Walk, path: str, info: os.stat_result) -> tarfile.TarInfo:
    member = tarfile.TarInfo(path)
    member.mode = stat.S_IMODE(info.st_mode)
    member.mtime = int(info.st_mtime)
    if walk.ids is not None:
        member.uid, member.gid = walk.ids(info.st_uid, info.st_gid)
    return member


def _header(member: tarfile.TarInfo) -> bytes:
    return member.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % _BLOCK)
