"""A reader of disks that are exported by NBD on a unix socket, or lie there as raw files.

The protocol: https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md (fixed newstyle, NBD_OPT_GO, simple
replies). Only reading; nothing here writes to an export.
"""

from __future__ import annotations

import json
import os
import socket
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from triune.domain.errors import Failed
from triune.host.run import run

_MAGIC = b"NBDMAGICIHAVEOPT"
_OPTION = 0x49484156454F5054
_OPTION_REPLY = 0x3E889045565A9
_REQUEST, _REPLY = 0x25609513, 0x67446698
_OPT_GO, _REP_ACK, _REP_INFO = 7, 1, 3
_CMD_READ, _CMD_DISC = 0, 2
_FIXED, _NO_ZEROES = 1, 2
_LARGEST_REPLY = 1 << 16
_SECONDS = 120.0


class DiskReader(Protocol):
    """A disk that is read at any place."""

    size: int

    def read(self, offset: int, length: int) -> bytes:
        """Exactly these bytes. Raises OSError."""

    def close(self) -> None:
        """Let go of it."""


class NbdReader:
    """One connection to one export. Raises OSError where the server is gone or refuses."""

    def __init__(self, path: Path, export: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.settimeout(_SECONDS)
            self._socket.connect(os.fspath(path))
            self.size = self._agree(export)
        except BaseException:
            self._socket.close()
            raise
        self._number = 0

    def _agree(self, export: str) -> int:
        greeting = self._receive(18)
        if greeting[:16] != _MAGIC or not struct.unpack(">H", greeting[16:])[0] & _FIXED:
            raise OSError("this is no NBD server of the newstyle")
        name = export.encode()
        data = struct.pack(f">I{len(name)}sH", len(name), name, 0)
        self._socket.sendall(
            struct.pack(">I", _FIXED | _NO_ZEROES) + struct.pack(">QII", _OPTION, _OPT_GO, len(data)) + data
        )
        size = -1
        while True:
            magic, _, kind, length = struct.unpack(">QIII", self._receive(20))
            if magic != _OPTION_REPLY or length > _LARGEST_REPLY:
                raise OSError("the NBD server's answer makes no sense")
            body = self._receive(length)
            if kind == _REP_ACK and size >= 0:
                return size
            if kind == _REP_INFO:
                if length >= 10 and struct.unpack(">H", body[:2])[0] == 0:
                    size = struct.unpack(">Q", body[2:10])[0]
            else:
                raise OSError(f"the NBD server has no export {export!r}: {body.decode(errors='replace')}")

    def read(self, offset: int, length: int) -> bytes:
        """Exactly these bytes. Raises OSError."""
        self._number += 1
        self._socket.sendall(struct.pack(">IHHQQI", _REQUEST, 0, _CMD_READ, self._number, offset, length))
        magic, error, number = struct.unpack(">IIQ", self._receive(16))
        if magic != _REPLY or number != self._number:
            raise OSError("the NBD server's answer makes no sense")
        if error:
            raise OSError(error, f"the NBD server could not read {length} bytes at {offset}")
        return self._receive(length)

    def _receive(self, length: int) -> bytes:
        data = bytearray(length)
        view, got = memoryview(data), 0
        while got < length:
            count = self._socket.recv_into(view[got:])
            if not count:
                raise OSError("the NBD server closed the connection")
            got += count
        return bytes(data)

    def close(self) -> None:
        """Say goodbye, where it can still be heard."""
        try:
            self._socket.sendall(struct.pack(">IHHQQI", _REQUEST, 0, _CMD_DISC, 0, 0, 0))
        except OSError:
            pass
        finally:
            self._socket.close()


class RawReader:
    """A raw file or block device."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.size = os.lseek(self._file, 0, os.SEEK_END)

    def read(self, offset: int, length: int) -> bytes:
        """Exactly these bytes. Raises OSError where it is shorter."""
        data = b""
        while len(data) < length:
            piece = os.pread(self._file, length - len(data), offset + len(data))
            if not piece:
                raise OSError(f"it ended at {offset + len(data)}")
            data += piece
        return data

    def close(self) -> None:
        """Close it."""
        os.close(self._file)


def open_disk(path: Path | None, socket_path: Path | None, export: str) -> DiskReader:
    """The reader of a disk that is given as a file or as an export."""
    if socket_path is not None:
        return NbdReader(socket_path, export)
    if path is None:
        raise OSError("a disk has neither a file nor a socket")
    return RawReader(path)


def data_ranges(path: Path | None, socket_path: Path | None, export: str) -> list[tuple[int, int]]:
    """The (offset, length) ranges that may hold something other than zeros, as qemu-img sees them.

    Raises Failed("command_failed"), Unsupported("tool_missing").
    """
    argv: list[str | Path] = ["qemu-img", "map", "--output=json"]
    if socket_path is not None:
        image = f"driver=nbd,server.type=unix,server.path={_escaped(os.fspath(socket_path))}"
        argv += ["--image-opts", image + (f",export={_escaped(export)}" if export else "")]
    else:
        argv += ["-f", "raw", path or ""]
    return parse_map(run(argv, timeout=600).stdout)


def dirty_ranges(socket_path: Path, export: str, bitmap: str) -> list[tuple[int, int]]:
    """The (offset, length) ranges that an exported dirty bitmap tells as written.

    Raises Failed("command_failed"), Unsupported("tool_missing").
    """
    image = f"driver=nbd,server.type=unix,server.path={_escaped(os.fspath(socket_path))},export={_escaped(export)}"
    context = f"x-dirty-bitmap={_escaped(f'qemu:dirty-bitmap:{bitmap}')}"
    told = run(["qemu-img", "map", "--output=json", "--image-opts", f"{image},{context}"], timeout=600)
    return parse_map(told.stdout, _is_dirty)


def _has_data(entry: Mapping[str, Any]) -> bool:
    return not entry["zero"]


def _is_dirty(entry: Mapping[str, Any]) -> bool:
    """qemu-img takes the bits of a bitmap for those of an allocation map, where a one is a hole."""
    return not entry["data"]


def _escaped(value: str) -> str:
    """QEMU's options double a comma in a value."""
    return value.replace(",", ",,")


def parse_map(text: bytes, wanted: Callable[[Mapping[str, Any]], bool] = _has_data) -> list[tuple[int, int]]:
    """The ranges with data in `qemu-img map --output=json`, neighbours joined. Raises Failed("bad_map")."""
    ranges: list[tuple[int, int]] = []
    try:
        entries = json.loads(text)
        for entry in entries:
            start, length = int(entry["start"]), int(entry["length"])
            if start < 0 or length < 0:
                raise ValueError("negative")
            if not wanted(entry) or not length:
                continue
            if ranges and sum(ranges[-1]) == start:
                ranges[-1] = (ranges[-1][0], ranges[-1][1] + length)
            else:
                ranges.append((start, length))
    except (ValueError, KeyError, TypeError, RecursionError):
        raise Failed("bad_map", "qemu-img's map of a disk makes no sense", hint="See: qemu-img map --help") from None
    return ranges
