"""A server of read-only disks by NBD on unix sockets, for qemu-img and whoever else reads them.

The protocol: https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md (fixed newstyle, structured replies,
the meta context base:allocation: a reader skips what is known to be zeros).
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from triune.domain.errors import TriuneError

_OPTION = 0x49484156454F5054
_OPTION_REPLY = 0x3E889045565A9
_REQUEST, _SIMPLE, _STRUCTURED = 0x25609513, 0x67446698, 0x668E33EF
_EXPORT_NAME, _ABORT, _INFO, _GO, _OPT_STRUCTURED, _LIST_META, _SET_META = 1, 2, 6, 7, 8, 9, 10
_ACK, _REP_INFO, _REP_META, _UNSUPPORTED, _INVALID = 1, 3, 4, (1 << 31) + 1, (1 << 31) + 3
_READ, _DISCONNECT, _BLOCK_STATUS = 0, 2, 7
_FLAGS = 1 | 2 | 1 << 8  # flags there, read-only, several connections see the same
_ALLOCATION = b"base:allocation"
_HOLE_AND_ZERO = 3
_DONE, _DATA, _STATUS, _ERROR = 1, 1, 5, 32769
_ONE_EXTENT = 1 << 3
_LARGEST_OPTION = 1 << 16
_LARGEST_READ = 32 << 20
_LONGEST_EXTENT = 1 << 31
_MOST_EXTENTS = 1 << 12


class Disk(Protocol):
    """What is served. It is read by several threads."""

    @property
    def size(self) -> int: ...

    def read(self, offset: int, length: int) -> bytes:
        """Exactly these bytes. Raises TriuneError or OSError."""

    def extents(self, start: int, end: int) -> Iterator[tuple[int, bool]]:
        """(length, whether it is zeros) from `start` on, to `end` or before."""


class NbdServer:
    """One disk on one socket, until it is closed. `trouble` is what could not be read first."""

    def __init__(self, disk: Disk, path: Path, export: str) -> None:
        self.path, self.export = path, export
        self.trouble: TriuneError | OSError | None = None
        self._disk = disk
        self._connections: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(os.fspath(path))
        path.chmod(0o600)
        self._listener.listen(8)
        threading.Thread(target=self._accept, name=f"nbd-{export}", daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End all connections; once more does nothing."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            open_now = list(self._connections)
        for connection in open_now:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self.path.unlink(missing_ok=True)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                self._connections.add(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            with contextlib.suppress(OSError, EOFError):
                client = _Connection(connection, self._disk, self.export)
                if client.agree():
                    self._answer(client)
        finally:
            with self._lock:
                self._connections.discard(connection)
            connection.close()

    def _answer(self, client: _Connection) -> None:
        while True:
            try:
                if not client.answer():
                    return
            except (TriuneError, _ReadError) as error:
                told = error.error if isinstance(error, _ReadError) else error
                self.trouble = self.trouble or told
                client.fail(errno.EIO)


class _ReadError(Exception):
    """The disk could not be read, other than the socket."""

    def __init__(self, error: OSError) -> None:
        super().__init__(str(error))
        self.error = error


class _Connection:
    def __init__(self, connection: socket.socket, disk: Disk, export: str) -> None:
        self._socket = connection
        self._disk = disk
        self._export = export.encode()
        self._structured = self._context = False
        self._handle = 0

    def _receive(self, length: int) -> bytes:
        data = bytearray()
        while len(data) < length:
            piece = self._socket.recv(length - len(data))
            if not piece:
                raise EOFError
            data += piece
        return bytes(data)

    # The handshake

    def agree(self) -> bool:
        """Whether the client wants the export; False where it has gone."""
        self._socket.sendall(b"NBDMAGIC" + struct.pack(">QH", _OPTION, 3))
        flags = struct.unpack(">I", self._receive(4))[0]
        while True:
            magic, option, length = struct.unpack(">QII", self._receive(16))
            if magic != _OPTION or length > _LARGEST_OPTION:
                return False
            data = self._receive(length)
            if option == _EXPORT_NAME:
                if data != self._export:
                    return False
                rest = b"" if flags & 2 else bytes(124)
                self._socket.sendall(struct.pack(">QH", self._disk.size, _FLAGS) + rest)
                return True
            if option == _ABORT:
                self._reply(option, _ACK)
                return False
            if self._option(option, data):
                return True

    def _option(self, option: int, data: bytes) -> bool:
        """Answer one; True when the export is opened by it."""
        if option in (_INFO, _GO):
            length = struct.unpack(">I", data[:4])[0] if len(data) >= 4 else 0
            if data[4 : 4 + length] != self._export:
                self._reply(option, _INVALID)
                return False
            self._reply(option, _REP_INFO, struct.pack(">HQH", 0, self._disk.size, _FLAGS))
            self._reply(option, _REP_INFO, struct.pack(">HIII", 3, 1, 1 << 16, _LARGEST_READ))
            self._reply(option, _ACK)
            return option == _GO
        if option == _OPT_STRUCTURED:
            self._structured = True
            self._reply(option, _ACK)
        elif option in (_LIST_META, _SET_META) and self._structured:
            if _ALLOCATION in data or option == _LIST_META:
                self._context = self._context or option == _SET_META
                self._reply(option, _REP_META, struct.pack(">I", 1) + _ALLOCATION)
            self._reply(option, _ACK)
        else:
            self._reply(option, _UNSUPPORTED)
        return False

    def _reply(self, option: int, kind: int, data: bytes = b"") -> None:
        self._socket.sendall(struct.pack(">QIII", _OPTION_REPLY, option, kind, len(data)) + data)

    # Requests

    def answer(self) -> bool:
        """One request; False when it was the last. Raises TriuneError or _ReadError where the disk can't be read."""
        magic, flags, kind, self._handle, offset, length = struct.unpack(">IHHQQI", self._receive(28))
        if magic != _REQUEST or kind == _DISCONNECT:
            return False
        if length <= 0 or offset + length > self._disk.size or (kind == _READ and length > _LARGEST_READ):
            self.fail(errno.EINVAL)
        elif kind == _READ:
            self._data(offset, length)
        elif kind == _BLOCK_STATUS and self._context:
            self._status(offset, length, one=bool(flags & _ONE_EXTENT))
        else:
            self.fail(errno.EPERM if kind in (1, 4, 6) else errno.EINVAL)
        return True

    def _data(self, offset: int, length: int) -> None:
        try:
            data = self._disk.read(offset, length)
        except OSError as error:
            raise _ReadError(error) from None
        if len(data) != length:
            raise _ReadError(OSError(errno.EIO, f"it ended at {offset + len(data)}"))
        if self._structured:
            head = struct.pack(">IHHQIQ", _STRUCTURED, _DONE, _DATA, self._handle, length + 8, offset)
        else:
            head = struct.pack(">IIQ", _SIMPLE, 0, self._handle)
        self._socket.sendall(head)
        self._socket.sendall(data)

    def _status(self, offset: int, length: int, *, one: bool) -> None:
        found: list[list[int]] = []
        at, end = offset, offset + length
        try:
            for run, zero in self._disk.extents(offset, end):
                flags = _HOLE_AND_ZERO if zero else 0
                if found and found[-1][1] == flags and found[-1][0] + run < _LONGEST_EXTENT:
                    found[-1][0] += run
                elif (one and found) or len(found) == _MOST_EXTENTS:
                    break
                else:
                    found.append([min(run, _LONGEST_EXTENT), flags])
                at += run
                if at >= end or run > _LONGEST_EXTENT:
                    break
        except OSError as error:
            raise _ReadError(error) from None
        words = b"".join(struct.pack(">II", *extent) for extent in found or [[length, 0]])
        head = struct.pack(">IHHQI", _STRUCTURED, _DONE, _STATUS, self._handle, 4 + len(words))
        self._socket.sendall(head + struct.pack(">I", 1) + words)

    def fail(self, code: int) -> None:
        """Tell the client that its request failed."""
        if self._structured:
            head = struct.pack(">IHHQI", _STRUCTURED, _DONE, _ERROR, self._handle, 6)
            self._socket.sendall(head + struct.pack(">IH", code, 0))
        else:
            self._socket.sendall(struct.pack(">IIQ", _SIMPLE, code, self._handle))
