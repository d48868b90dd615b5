"""The header of a qcow2 image: what it says of itself, and of other files.

Source of the format: docs/interop/qcow2.txt of QEMU. All numbers are big-endian.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import BinaryIO

from triune.domain.errors import Invalid

_V2 = struct.Struct(">4sIQIIQIIQQIIQ")
_V3 = struct.Struct(">QQQII")
_EXTENSION = struct.Struct(">II")
_EXTERNAL_DATA = 1 << 2
_DATA_FILE_NAME = 0x44415441
_MAX_EXTENSIONS = 64


@dataclass(frozen=True, slots=True)
class Qcow2Header:
    """`virtual_size` in bytes. `backing` and `external_data` say that the image needs another file."""

    version: int
    virtual_size: int
    cluster_bits: int
    backing: bool
    external_data: bool
    encrypted: bool
    snapshots: int


def read_header(stream: BinaryIO) -> Qcow2Header:
    """Read it. Raises Invalid("corrupt_image") where it contradicts the format."""
    stream.seek(0)
    head = stream.read(_V2.size + _V3.size)
    if len(head) < _V2.size:
        raise _corrupt("its header is cut off")
    magic, version, backing, _, cluster_bits, size, crypt, _, _, _, _, snapshots, _ = _V2.unpack_from(head)
    if magic != b"QFI\xfb" or version not in (2, 3):
        raise _corrupt(f"version {version} of qcow2 does not exist")
    if not 9 <= cluster_bits <= 21:
        raise _corrupt(f"a cluster size of 2^{cluster_bits} is not allowed")
    incompatible, length = 0, _V2.size
    if version == 3:
        if len(head) < _V2.size + _V3.size:
            raise _corrupt("its header is cut off")
        incompatible, _, _, _, length = _V3.unpack_from(head, _V2.size)
        if not 104 <= length <= 1 << cluster_bits:
            raise _corrupt(f"a header length of {length} is not allowed")
    return Qcow2Header(
        version=version,
        virtual_size=size,
        cluster_bits=cluster_bits,
        backing=backing != 0,
        external_data=bool(incompatible & _EXTERNAL_DATA) or _names_data_file(stream, length),
        encrypted=crypt != 0,
        snapshots=snapshots,
    )


def _names_data_file(stream: BinaryIO, offset: int) -> bool:
    for _ in range(_MAX_EXTENSIONS):
        stream.seek(offset)
        raw = stream.read(_EXTENSION.size)
        if len(raw) < _EXTENSION.size:
            return False
        kind, length = _EXTENSION.unpack(raw)
        if kind == 0:
            return False
        if kind == _DATA_FILE_NAME:
            return True
        offset += _EXTENSION.size + (length + 7) // 8 * 8
    raise _corrupt("it has too many header extensions")


def _corrupt(why: str) -> Invalid:
    return Invalid("corrupt_image", f"the qcow2 image is damaged: {why}", hint="Fetch or export it again.")
