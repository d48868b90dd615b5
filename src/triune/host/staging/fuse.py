"""A read-only file system in user space: the kernel's FUSE protocol, as far as reading needs it.

`include/uapi/linux/fuse.h`, protocol 7.31 (Linux 5.4) and newer, little-endian or big: structs are native. Only the
standard library: it runs as root in a mount namespace of its own, where mount(2) does what fusermount would do.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from triune.host import syscalls

_IN = struct.Struct("=IIQQIIIHH")
_OUT = struct.Struct("=IiQ")
_ATTR = struct.Struct("=QQQQQQIIIIIIIIII")
_ENTRY = struct.Struct("=QQQQII")
_ATTR_OUT = struct.Struct("=QII")
_OPEN_OUT = struct.Struct("=QII")
_INIT_IN = struct.Struct("=IIII")
_INIT_OUT = struct.Struct("=IIIIHHIIHHI28x")
_READ_IN = struct.Struct("=QQIIQII")
_STATFS = struct.Struct("=QQQQQIIII24x")
_DIRENT = struct.Struct("=QQII")

_LOOKUP, _FORGET, _GETATTR, _OPEN, _READ, _STATFS_OP = 1, 2, 3, 14, 15, 17
_RELEASE, _FLUSH, _INIT, _OPENDIR, _READDIR, _RELEASEDIR = 18, 25, 26, 27, 28, 29
_INTERRUPT, _DESTROY, _BATCH_FORGET, _READDIRPLUS = 36, 38, 42, 44
_UNANSWERED = frozenset({_FORGET, _BATCH_FORGET, _INTERRUPT})

_MAJOR, _MINOR = 7, 31
_ASYNC_READ, _DO_READDIRPLUS, _MAX_PAGES = 1 << 0, 1 << 13, 1 << 22
_DIRECT_IO = 1 << 0
_PAGES = 256
_LARGEST = 1 << 20
_BUFFER = _LARGEST + 8192
_FOR_EVER = 1 << 30
_BLOCK = 512


@dataclass(frozen=True, slots=True)
class Node:
    """A file (`size` bytes) or a folder. `time` in nanoseconds is its mtime and ctime."""

    number: int
    size: int
    time: int
    folder: bool = False


class Content(Protocol):
    """What the file system shows. Node 1 is its root."""

    def node(self, number: int) -> Node | None:
        """A node by its number."""

    def find(self, folder: int, name: str) -> Node | None:
        """A node by its name in a folder."""

    def names(self, folder: int) -> Sequence[tuple[str, Node]]:
        """What a folder holds, always in the same order."""

    def read(self, number: int, offset: int, length: int) -> bytes:
        """Bytes of a file; fewer at its end. Raises OSError."""


class Server:
    """Mounts it, and answers until it is unmounted."""

    def __init__(self, content: Content, target: Path) -> None:
        self._content = content
        self._device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        options = f"fd={self._device},rootmode=40000,user_id=0,group_id=0,max_read={_LARGEST}"
        flags = syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_RDONLY
        try:
            syscalls.mount("triune", target, "fuse", flags, options)
        except OSError:
            os.close(self._device)
            raise
        self._answers: Mapping[int, Callable[[int, bytes], bytes]] = {
            _INIT: self._init,
            _LOOKUP: self._lookup,
            _GETATTR: self._getattr,
            _OPEN: lambda _node, _body: _OPEN_OUT.pack(0, _DIRECT_IO, 0),
            _OPENDIR: lambda _node, _body: _OPEN_OUT.pack(0, 0, 0),
            _READ: self._read,
            _READDIR: lambda node, body: self._list(node, body, plus=False),
            _READDIRPLUS: lambda node, body: self._list(node, body, plus=True),
            _RELEASE: lambda _node, _body: b"",
            _RELEASEDIR: lambda _node, _body: b"",
            _FLUSH: lambda _node, _body: b"",
            _DESTROY: lambda _node, _body: b"",
            _STATFS_OP: lambda _node, _body: _STATFS.pack(0, 0, 0, 0, 0, _BLOCK, 255, _BLOCK, 0),
        }

    def leave(self) -> None:
        """Let another process be the one that answers."""
        os.close(self._device)

    def serve(self) -> None:
        """Answer requests, one after the other; returns when it is unmounted."""
        while True:
            try:
                request = os.read(self._device, _BUFFER)
            except OSError as error:
                if error.errno in (errno.EINTR, errno.EAGAIN, errno.ENOENT):  # ENOENT: the request was interrupted
                    continue
                if error.errno == errno.ENODEV:
                    return
                raise
            self._answer(request)

    def _answer(self, request: bytes) -> None:
        _, opcode, unique, node, *_ = _IN.unpack_from(request)
        if opcode in _UNANSWERED:
            return
        answer = self._answers.get(opcode)
        status, body = -errno.ENOSYS, b""
        if answer is not None:
            try:
                status, body = 0, answer(node, request[_IN.size :])
            except OSError as error:
                status = -(error.errno or errno.EIO)
        try:
            os.write(self._device, _OUT.pack(_OUT.size + len(body), status, unique) + body)
        except FileNotFoundError:
            return  # nobody waits for it any more

    def _init(self, _node: int, body: bytes) -> bytes:
        major, minor, readahead, flags = _INIT_IN.unpack_from(body)
        if (major, minor) < (_MAJOR, _MINOR):
            raise OSError(errno.EPROTO, "this kernel's FUSE is too old")
        wanted = flags & (_ASYNC_READ | _DO_READDIRPLUS | _MAX_PAGES)
        return _INIT_OUT.pack(_MAJOR, _MINOR, readahead, wanted, 16, 12, _LARGEST, 1, _PAGES, 0, 0)

    def _lookup(self, folder: int, body: bytes) -> bytes:
        found = self._content.find(folder, os.fsdecode(body.rstrip(b"\0")))
        if found is None:
            raise FileNotFoundError(errno.ENOENT, "no such piece")
        return _entry(found)

    def _getattr(self, node: int, _body: bytes) -> bytes:
        return _ATTR_OUT.pack(_FOR_EVER, 0, 0) + _attributes(self._known(node))

    def _known(self, node: int) -> Node:
        found = self._content.node(node)
        if found is None:
            raise FileNotFoundError(errno.ENOENT, "no such node")
        return found

    def _read(self, node: int, body: bytes) -> bytes:
        _, offset, length, *_ = _READ_IN.unpack_from(body)
        return self._content.read(node, offset, length)

    def _list(self, folder: int, body: bytes, *, plus: bool) -> bytes:
        _, offset, room, *_ = _READ_IN.unpack_from(body)
        listed = b""
        for position, (name, node) in self._rest(folder, offset):
            entry = _listed(name, node, position + 1, plus=plus)
            if len(listed) + len(entry) > room:
                break
            listed += entry
        return listed

    def _rest(self, folder: int, offset: int) -> Iterator[tuple[int, tuple[str, Node]]]:
        names = self._content.names(folder)
        return ((position, names[position]) for position in range(offset, len(names)))


def _attributes(node: Node) -> bytes:
    seconds, rest = divmod(node.time, 10**9)
    mode = stat.S_IFDIR | 0o700 if node.folder else stat.S_IFREG | 0o600
    blocks = -(-node.size // _BLOCK)
    return _ATTR.pack(
        *(node.number, node.size, blocks, seconds, seconds, seconds, rest, rest, rest),
        *(mode, 1, 0, 0, 0, 4096, 0),
    )


def _entry(node: Node) -> bytes:
    return _ENTRY.pack(node.number, 0, _FOR_EVER, _FOR_EVER, 0, 0) + _attributes(node)


def _listed(name: str, node: Node, following: int, *, plus: bool) -> bytes:
    raw = os.fsencode(name)
    kind = (stat.S_IFDIR if node.folder else stat.S_IFREG) >> 12
    entry = _DIRENT.pack(node.number, following, len(raw), kind) + raw
    return (_entry(node) if plus else b"") + entry + b"\0" * (-len(entry) % 8)
