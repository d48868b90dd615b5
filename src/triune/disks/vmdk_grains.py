"""Whether a VMDK holds all it points to: readers take what lies behind a file's end for zeros.

Source of the format: "Virtual Disk Format 5.0" (VMware), and block/vmdk.c of QEMU. A grain directory points to grain
tables, and those to grains, all in sectors; 0 and 1 stand for no grain. A compressed grain begins with a marker: its
place on the disk (8 bytes) and its length (4 bytes).
"""

from __future__ import annotations

import struct
import sys
from array import array
from dataclasses import dataclass
from typing import BinaryIO

from triune.domain.errors import Invalid

_SECTOR = 512
_KDMV = struct.Struct("<4sIIQQQQIQQQ")
_COWD = struct.Struct("<4sIIIIII")
_COWD_ENTRIES = 4096
_COMPRESSED = 1 << 16
_AT_END = (1 << 64) - 1
_FOOTER = 1024  # from the end: the footer and the end-of-stream marker
_MARKER = 12
_MOST_TABLES = 1 << 21  # of 512 grains of 64 KiB: 64 TiB


@dataclass(frozen=True, slots=True)
class _Layout:
    """Sizes in sectors."""

    capacity: int
    grain: int
    entries: int
    directory: int
    compressed: bool


def require_whole(stream: BinaryIO, size: int) -> None:
    """Raise Invalid("corrupt_image") where a file of `size` bytes lacks a table or a grain.

    SESparse is not looked at.
    """
    layout = _layout(stream, size)
    if layout is None:
        return
    if not 0 < layout.grain <= 1 << 20 or not 0 < layout.entries <= 1 << 16:
        raise _corrupt("its grains have an absurd size")
    tables = -(-layout.capacity // (layout.grain * layout.entries))
    if tables > _MOST_TABLES:
        raise _corrupt("it has too many grain tables")
    last = 0
    for place in _numbers(stream, layout.directory, tables):
        if place > 1:
            last = max(last, *_numbers(stream, place, layout.entries))
    if last > 1:
        _require_grain(stream, size, last, layout)


def _layout(stream: BinaryIO, size: int) -> _Layout | None:
    stream.seek(0)
    head = stream.read(_SECTOR)
    if head.startswith(b"COWD") and len(head) >= _COWD.size:
        _, _, _, capacity, grain, directory, _ = _COWD.unpack_from(head)
        return _Layout(capacity, grain, _COWD_ENTRIES, directory, compressed=False)
    if not head.startswith(b"KDMV") or len(head) < _KDMV.size:
        return None
    fields = _KDMV.unpack_from(head)
    if fields[9] == _AT_END:
        stream.seek(max(0, size - _FOOTER))
        foot = stream.read(_SECTOR)
        if not foot.startswith(b"KDMV") or len(foot) < _KDMV.size:
            raise _corrupt("its footer is missing")
        fields = _KDMV.unpack_from(foot)
    _, _, flags, capacity, grain, _, _, entries, _, directory, _ = fields
    return _Layout(capacity, grain, entries, directory, compressed=bool(flags & _COMPRESSED))


def _numbers(stream: BinaryIO, sector: int, count: int) -> array[int]:
    if sector > 1 << 54:
        raise _corrupt("a grain table is out of reach")
    stream.seek(sector * _SECTOR)
    data = stream.read(4 * count)
    if len(data) < 4 * count:
        raise _corrupt("a grain table is missing")
    found = array("I", data)
    if sys.byteorder == "big":
        found.byteswap()
    return found


def _require_grain(stream: BinaryIO, size: int, place: int, layout: _Layout) -> None:
    """The grain furthest back: what was cut off lacks at least that one."""
    begin = place * _SECTOR
    if layout.compressed:
        stream.seek(begin)
        marker = stream.read(_MARKER)
        length = int.from_bytes(marker[8:], "little") + _MARKER if len(marker) == _MARKER else _MARKER
    else:
        # The last grain of a disk that ends within it may be stored as far as the disk goes.
        length = min(layout.grain, layout.capacity % layout.grain or layout.grain) * _SECTOR
    if begin + length > size:
        raise _corrupt("its end is missing")


def _corrupt(why: str) -> Invalid:
    return Invalid("corrupt_image", f"the VMDK is damaged: {why}", hint="Fetch or export it again.")
