"""libvirt's save files: the domain's XML before the memory, and how to put another before the same memory.

What `virsh save` writes (libvirt 9.0, src/qemu/qemu_saveimage.h), in the byte order of the host:

     0  16  magic: "LibvirtQemudSave" ("LibvirtQemudPart" until it is complete)
    16   4  version: 2
    20   4  length of what lies between this header and the memory
    24   4  1: it was running, so that a restore lets it go on
    28   4  compression of the memory: 0 none, 1 gzip, 2 bzip2, 3 xz, 4 lzop (libvirt's own numbers)
    32   4  offset of the cookie after the header; 0: none
    36  56  14 unused words
    92      XML, NUL; the cookie (an XML of libvirt's own), NUL; zeros up to the length above
            QEMU's migration stream up to the end of the file

libvirt restores no save file under another name than its XML has; a file (or a pipe) with another XML in it and the
same memory behind it is a new domain.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import BinaryIO

from triune.domain.errors import Failed

_HEADER = struct.Struct("=16s5I56x")
_MAGIC = b"LibvirtQemudSave"
_PARTIAL = b"LibvirtQemudPart"
_VERSION = 2
_MOST = 16 * 2**20  # libvirt's own limit of what a call may carry is smaller
_COMPRESSIONS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """All that lies before the memory. `memory` is the memory's offset in the file that it was read from."""

    xml: str
    cookie: str = ""
    running: bool = True
    compression: int = 0
    memory: int = 0

    def packed(self) -> bytes:
        """The bytes to put before the memory. Raises Failed("bad_save_file") where the texts hold a NUL."""
        if "\0" in self.xml + self.cookie:
            raise _bad("a text of it has a NUL byte")
        data = self.xml.encode() + b"\0"
        offset = len(data) if self.cookie else 0
        if self.cookie:
            data += self.cookie.encode() + b"\0"
        return _HEADER.pack(_MAGIC, _VERSION, len(data), self.running, self.compression, offset) + data


def read(file: BinaryIO) -> Head:
    """Read a save file up to its memory. Raises Failed("bad_save_file")."""
    raw = file.read(_HEADER.size)
    if len(raw) < _HEADER.size:
        raise _bad("it is too short")
    magic, version, length, running, compression, offset = _HEADER.unpack(raw)
    if magic == _PARTIAL:
        raise _bad("it was never completed")
    if magic != _MAGIC:
        raise _bad("it does not begin as one")
    if version != _VERSION:
        raise _bad(f"its version {version} is unknown")
    if not 0 < length <= _MOST or compression >= _COMPRESSIONS or offset >= length:
        raise _bad("its header makes no sense")
    data = file.read(length)
    if len(data) < length:
        raise _bad("it ends before its memory")
    try:
        xml = _text(data[:offset] if offset else data)
        cookie = _text(data[offset:]) if offset else ""
    except ValueError:
        raise _bad("a text of it does not end") from None
    return Head(xml=xml, cookie=cookie, running=bool(running), compression=compression, memory=_HEADER.size + length)


def _text(data: bytes) -> str:
    """The text before the first NUL. Raises ValueError (UnicodeDecodeError is one)."""
    end = data.index(b"\0")
    return data[:end].decode()


def _bad(why: str) -> Failed:
    return Failed("bad_save_file", f"this save file of libvirt can't be used: {why}", hint="Make it anew.")
