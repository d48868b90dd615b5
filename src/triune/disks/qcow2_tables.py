"""What a qcow2 image stands on, and its internal snapshots.

Source of the format: docs/interop/qcow2.txt of QEMU. All numbers are big-endian.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import BinaryIO

from triune.disks.qcow2 import read_header
from triune.domain.errors import Invalid

_HEADER_FIELDS = struct.Struct(">IQ")  # nb_snapshots, snapshots_offset
_HEADER_OFFSET = 60
_BACKING_FIELDS = struct.Struct(">QI")  # backing_file_offset, backing_file_size
_BACKING_OFFSET = 8
_LONGEST_NAME = 1023
_ENTRY = struct.Struct(">QIHHIIQII")
_MOST = 65536  # the format's own limit
_MOST_BYTES = 64 * 2**20  # and that of the table
_EXTRA_STATE = 8
_MOST_OFFSET = 1 << 56  # the format's own limit


@dataclass(frozen=True, slots=True)
class Qcow2Snapshot:
    """`taken` in seconds since 1970; `state_size`: bytes of the saved running state, 0 for the disk alone."""

    id: str
    name: str
    taken: int
    state_size: int


def read_backing(stream: BinaryIO) -> str | None:
    """The name of the backing file as it is written there, or None. Raises Invalid("corrupt_image")."""
    read_header(stream)
    stream.seek(_BACKING_OFFSET)
    offset, length = _BACKING_FIELDS.unpack(stream.read(_BACKING_FIELDS.size))
    if not offset:
        return None
    if length > _LONGEST_NAME or offset > _MOST_OFFSET:
        raise _corrupt("its backing file's name is longer than the format allows")
    stream.seek(offset)
    return stream.read(length).decode(errors="surrogateescape")


def read_snapshots(stream: BinaryIO) -> tuple[Qcow2Snapshot, ...]:
    """All of them, in the image's order. Raises Invalid("corrupt_image") where it contradicts the format."""
    read_header(stream)
    stream.seek(_HEADER_OFFSET)
    count, offset = _HEADER_FIELDS.unpack(stream.read(_HEADER_FIELDS.size))
    if count > _MOST:
        raise _corrupt(f"{count} snapshots are more than the format allows")
    if offset > _MOST_OFFSET:
        raise _corrupt("its snapshot table lies beyond any file's end")
    found, end = [], offset + _MOST_BYTES
    for _ in range(count):
        if offset > end:
            raise _corrupt("its snapshot table is too long")
        entry, offset = _read_entry(stream, offset)
        found.append(entry)
    return tuple(found)


def _read_entry(stream: BinaryIO, offset: int) -> tuple[Qcow2Snapshot, int]:
    stream.seek(offset)
    raw = stream.read(_ENTRY.size)
    if len(raw) < _ENTRY.size:
        raise _corrupt("its snapshot table is cut off")
    _, _, id_length, name_length, seconds, _, _, state, extra_length = _ENTRY.unpack(raw)
    if extra_length > 1024:
        raise _corrupt("a snapshot's extra data is longer than the format allows")
    rest = stream.read(extra_length + id_length + name_length)
    if len(rest) < extra_length + id_length + name_length:
        raise _corrupt("its snapshot table is cut off")
    if extra_length >= _EXTRA_STATE:
        state = int.from_bytes(rest[:_EXTRA_STATE], "big")
    snapshot = Qcow2Snapshot(
        id=rest[extra_length : extra_length + id_length].decode(errors="replace"),
        name=rest[extra_length + id_length :].decode(errors="replace"),
        taken=seconds,
        state_size=state,
    )
    length = _ENTRY.size + extra_length + id_length + name_length
    return snapshot, offset + (length + 7) // 8 * 8


def _corrupt(why: str) -> Invalid:
    return Invalid("corrupt_image", f"the qcow2 image is damaged: {why}", hint="Check it: qemu-img check FILE")
