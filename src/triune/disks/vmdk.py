"""The outside of a VMDK: its kind, and the files its descriptor points to.

Source of the format: "Virtual Disk Format 5.0" (VMware), and block/vmdk.c of QEMU. Numbers are little-endian.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import BinaryIO

from triune.domain.errors import Invalid

_SPARSE = struct.Struct("<4sIIQQQQ")
_SECTOR = 512
_MAX_DESCRIPTOR = 1 << 16
_EXTENT = re.compile(rb'^\s*(?:RW|RDONLY|NOACCESS)\s+(\d{1,19})\s+([A-Z]+)(?:\s+"([^"\r\n]*)")?', re.MULTILINE)
_FIELD = re.compile(rb'^\s*(\w+)\s*=\s*"?([^"\r\n]*?)"?\s*$', re.MULTILINE)
_NO_PARENT = b"ffffffff"


@dataclass(frozen=True, slots=True)
class VmdkInfo:
    """`kind` is sparse, cowd, sesparse or descriptor. `virtual_size` in bytes, 0 where only the descriptor tells.

    `extents` are the file names the descriptor points to; `parent` says that it is a snapshot of another disk.
    """

    kind: str
    virtual_size: int
    extents: tuple[str, ...]
    parent: bool


def inspect(stream: BinaryIO) -> VmdkInfo:
    """Read the header and the descriptor. Raises Invalid("corrupt_image")."""
    stream.seek(0)
    head = stream.read(_SECTOR)
    if head.startswith(b"KDMV"):
        return _sparse(stream, head)
    if head.startswith(b"COWD"):
        return VmdkInfo("cowd", 0, (), parent=False)
    if head.startswith(b"\xbe\xba\xfe\xca"):
        return VmdkInfo("sesparse", 0, (), parent=False)
    stream.seek(0)
    return _descriptor("descriptor", 0, stream.read(_MAX_DESCRIPTOR))


def _sparse(stream: BinaryIO, head: bytes) -> VmdkInfo:
    if len(head) < _SECTOR:
        raise _corrupt("its header is cut off")
    _, version, _, capacity, _, offset, length = _SPARSE.unpack_from(head)
    if not 1 <= version <= 3:
        raise _corrupt(f"version {version} of its header does not exist")
    if capacity > 1 << 54:
        raise _corrupt("its capacity is absurd")
    text = b""
    if offset:
        if offset > 1 << 54:
            raise _corrupt("its descriptor is out of reach")
        stream.seek(offset * _SECTOR)
        text = stream.read(min(length * _SECTOR, _MAX_DESCRIPTOR))
    return _descriptor("sparse", capacity * _SECTOR, text)


def _descriptor(kind: str, virtual_size: int, text: bytes) -> VmdkInfo:
    text = text.split(b"\0", 1)[0]
    extents = [(int(match[1]), (match[3] or b"").decode(errors="replace")) for match in _EXTENT.finditer(text)]
    fields = {match[1].lower(): match[2].strip().lower() for match in _FIELD.finditer(text)}
    parent = fields.get(b"parentcid", _NO_PARENT) != _NO_PARENT or b"parentfilenamehint" in fields
    if not virtual_size:
        virtual_size = min(sum(sectors for sectors, _ in extents), 1 << 54) * _SECTOR
    return VmdkInfo(kind, virtual_size, tuple(name for _, name in extents if name), parent=parent)


def _corrupt(why: str) -> Invalid:
    return Invalid("corrupt_image", f"the VMDK is damaged: {why}", hint="Fetch or export it again.")
