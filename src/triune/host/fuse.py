"""A read-only file system in user space: the kernel's FUSE protocol, as far as reading needs it.

`include/uapi/linux/fuse.h`, protocol 7.31 (Linux 5.4) and newer, little-endian or big: structs are native. Only the
standard library. Who may call mount(2) attaches it with `attach`, anybody else with `attach_by_helper`.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
import struct
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

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
_LSEEK_IN = struct.Struct("=QQII")
_LSEEK_OUT = struct.Struct("=Q")

_LOOKUP, _FORGET, _GETATTR, _READLINK, _OPEN, _READ, _STATFS_OP = 1, 2, 3, 5, 14, 15, 17
_RELEASE, _FLUSH, _INIT, _OPENDIR, _READDIR, _RELEASEDIR = 18, 25, 26, 27, 28, 29
_INTERRUPT, _DESTROY, _BATCH_FORGET, _READDIRPLUS, _LSEEK = 36, 38, 42, 44, 46
_UNANSWERED = frozenset({_FORGET, _BATCH_FORGET, _INTERRUPT})

_MAJOR, _MINOR = 7, 31
_ASYNC_READ, _DO_READDIRPLUS, _MAX_PAGES = 1 << 0, 1 << 13, 1 << 22
_DIRECT_IO, _KEEP_CACHE = 1 << 0, 1 << 1
_PAGES = 256
_LARGEST = 1 << 20
_BUFFER = _LARGEST + 8192
_FOR_EVER = 1 << 30
_BLOCK = 512


@dataclass(frozen=True, slots=True)
class Node:
    """A file (`size` bytes), a folder, or a link (whose target has `size` bytes). Node 1 is the root.

    `time` in nanoseconds is its mtime and ctime. `mode` are permission bits, 0 for those of the owner alone.
    `allocated` bytes are what it takes on disk, its size where nothing is told: programs look for holes in a file only
    where it takes less than its size.
    """

    number: int
    size: int
    time: int
    folder: bool = False
    link: bool = False
    mode: int = 0
    uid: int = 0
    gid: int = 0
    allocated: int | None = None


class Content(Protocol):
    """What the file system shows. All of it may be asked from several threads at once where the server has several."""

    def node(self, number: int) -> Node | None:
        """A node by its number."""

    def find(self, folder: int, name: str) -> Node | None:
        """A node by its name in a folder; names are as `os.fsdecode` gives them, without `/` and NUL."""

    def names(self, folder: int) -> Sequence[tuple[str, Node]]:
        """What a folder holds, always in the same order. Raises OSError."""

    def read(self, number: int, offset: int, length: int) -> bytes:
        """Bytes of a file; fewer at its end. Raises OSError: EIO for bytes that are lost."""


@runtime_checkable
class Rich(Content, Protocol):
    """Content with links and holes."""

    def target(self, number: int) -> str:
        """Where a link points."""

    def data(self, number: int, offset: int) -> tuple[int, int] | None:
        """The next range with data, as [start, end) with end > offset; None where only holes follow."""


def attach(target: Path, name: str = "triune") -> int:
    """Mount at a folder by mount(2), read-only; returns the device's descriptor. Raises OSError."""
    device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    options = f"fd={device},rootmode=40000,user_id={os.getuid()},group_id={os.getgid()},max_read={_LARGEST}"
    flags = syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_RDONLY
    try:
        syscalls.mount(name, target, "fuse", flags, options)
    except OSError:
        os.close(device)
        raise
    return device


def attach_by_helper(target: Path, name: str = "triune") -> int:
    """Mount at a folder as any user, by fusermount3(1); returns the device's descriptor. Raises Failed, Unsupported.

    The helper passes the descriptor back over the socket that `_FUSE_COMMFD` names.
    """
    # Not at the top: the process that shows a backup's pieces starts without them.
    from triune.domain.errors import Failed
    from triune.host.run import run

    ours, theirs = socket.socketpair()
    with ours, theirs:
        options = f"ro,nosuid,nodev,max_read={_LARGEST},fsname={name.replace(',', ' ')},subtype=triune"
        argv = ["fusermount3", "-o", options, "--", str(target)]
        done = run(argv, check=False, env={"_FUSE_COMMFD": str(theirs.fileno())}, keep=[theirs.fileno()])
        theirs.close()
        _, descriptors, _, _ = socket.recv_fds(ours, 1, 1)
    if done.status != 0 or not descriptors:
        said = done.stderr.decode(errors="replace").strip() or "fusermount3 gave no reason"
        raise Failed("mount_failed", f"{target} could not be mounted: {said}", hint="See: ls -l /dev/fuse")
    return descriptors[0]


def release(target: Path) -> None:
    """Unmount, as the user who mounted it. Raises Failed, Unsupported."""
    from triune.domain.errors import Failed
    from triune.host.run import run

    done = run(["fusermount3", "-u", target.absolute()], check=False)
    if done.status != 0:
        said = done.stderr.decode(errors="replace").strip() or "it is not mounted"
        raise Failed(
            "umount_failed", f"{target} can't be taken away: {said}", hint=f"See who uses it: fuser -vm {target}"
        )


class Server:
    """Answers for what is attached, until it is unmounted.

    `cached` lets the kernel keep what it read: the content never changes while it is mounted.
    """

    def __init__(self, content: Content, device: int, *, cached: bool = False) -> None:
        self._content = content
        self._device = device
        opened = _OPEN_OUT.pack(0, _KEEP_CACHE if cached else _DIRECT_IO, 0)
        self._answers: Mapping[int, Callable[[int, bytes], bytes]] = {
            _INIT: self._init,
            _LOOKUP: self._lookup,
            _GETATTR: self._getattr,
            _OPEN: lambda _node, _body: opened,
            _OPENDIR: lambda _node, _body: _OPEN_OUT.pack(0, 0, 0),
            _READ: self._read,
            _READDIR: lambda node, body: self._list(node, body, plus=False),
            _READDIRPLUS: lambda node, body: self._list(node, body, plus=True),
            _RELEASE: lambda _node, _body: b"",
            _RELEASEDIR: lambda _node, _body: b"",
            _FLUSH: lambda _node, _body: b"",
            _DESTROY: lambda _node, _body: b"",
            _STATFS_OP: lambda _node, _body: _STATFS.pack(0, 0, 0, 0, 0, _BLOCK, 255, _BLOCK, 0),
            **self._more(content),
        }

    def _more(self, content: Content) -> Mapping[int, Callable[[int, bytes], bytes]]:
        if not isinstance(content, Rich):
            return {}
        return {
            _READLINK: lambda node, _body: os.fsencode(content.target(node)),
            _LSEEK: lambda node, body: _sought(content, node, body),
        }

    def leave(self) -> None:
        """Let another process be the one that answers."""
        os.close(self._device)

    def serve(self, threads: int = 1) -> None:
        """Answer requests, `threads` at a time; returns when it is unmounted."""
        others = [threading.Thread(target=self._work, daemon=True) for _ in range(threads - 1)]
        for thread in others:
            thread.start()
        self._work()
        for thread in others:
            thread.join()

    def _work(self) -> None:
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


def _sought(content: Rich, number: int, body: bytes) -> bytes:
    """lseek(2) with SEEK_DATA or SEEK_HOLE."""
    _, offset, whence, _ = _LSEEK_IN.unpack_from(body)
    node = content.node(number)
    if node is None or offset >= node.size:
        raise OSError(errno.ENXIO, "beyond the end")
    found = content.data(number, offset)
    if whence == os.SEEK_DATA:
        if found is None:
            raise OSError(errno.ENXIO, "only holes follow")
        return _LSEEK_OUT.pack(max(offset, found[0]))
    if whence != os.SEEK_HOLE:
        raise OSError(errno.EINVAL, "not a way to seek")
    while found is not None and found[0] <= offset < node.size:
        offset = found[1]
        found = content.data(number, offset) if offset < node.size else None
    return _LSEEK_OUT.pack(min(offset, node.size))


def _kind(node: Node) -> int:
    return stat.S_IFDIR if node.folder else stat.S_IFLNK if node.link else stat.S_IFREG


def _attributes(node: Node) -> bytes:
    seconds, rest = divmod(node.time, 10**9)
    mode = _kind(node) | (node.mode & 0o777 or (0o700 if node.folder else 0o600))
    blocks = -(-(node.size if node.allocated is None else node.allocated) // _BLOCK)
    return _ATTR.pack(
        *(node.number, node.size, blocks, seconds, seconds, seconds, rest, rest, rest),
        *(mode, 1, node.uid, node.gid, 0, 4096, 0),
    )


def _entry(node: Node) -> bytes:
    return _ENTRY.pack(node.number, 0, _FOR_EVER, _FOR_EVER, 0, 0) + _attributes(node)


def _listed(name: str, node: Node, following: int, *, plus: bool) -> bytes:
    raw = os.fsencode(name)
    entry = _DIRENT.pack(node.number, following, len(raw), _kind(node) >> 12) + raw
    return (_entry(node) if plus else b"") + entry + b"\0" * (-len(entry) % 8)
