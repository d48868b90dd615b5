"""Whether a VMDK holds all it points to: readers take what lies behind a file's end for zeros.

Source of the format: see `vmdk_layout`. A compressed grain begins with a marker: its place on the disk (8 bytes) and
its length (4 bytes).
"""

from __future__ import annotations

import sys
from array import array
from typing import BinaryIO

from triune.disks.vmdk_layout import FOOTER, SECTOR, Layout, corrupt, read_layout

_MARKER = 12


def require_whole(stream: BinaryIO, size: int) -> None:
    """Raise Invalid("corrupt_image") where a file of `size` bytes lacks a table or a grain.

    SESparse is not looked at.
    """
    stream.seek(0)
    layout = read_layout(stream.read(SECTOR))
    if layout is None:
        return
    if layout.directory is None:
        stream.seek(max(0, size - FOOTER))
        layout = read_layout(stream.read(SECTOR))
        if layout is None:
            raise corrupt("its footer is missing")
    layout.require_sane()
    last = 0
    for place in _numbers(stream, layout.directory or 0, layout.needed_tables):
        if place > 1:
            last = max(last, *_numbers(stream, place, layout.entries))
    if last > 1:
        _require_grain(stream, size, last, layout)


def _numbers(stream: BinaryIO, sector: int, count: int) -> array[int]:
    if sector > 1 << 54:
        raise corrupt("a grain table is out of reach")
    stream.seek(sector * SECTOR)
    data = stream.read(4 * count)
    if len(data) < 4 * count:
        raise corrupt("a grain table is missing")
    found = array("I", data)
    if sys.byteorder == "big":
        found.byteswap()
    return found


def _require_grain(stream: BinaryIO, size: int, place: int, layout: Layout) -> None:
    """The grain furthest back: what was cut off lacks at least that one."""
    begin = place * SECTOR
    if layout.compressed:
        stream.seek(begin)
        marker = stream.read(_MARKER)
        length = int.from_bytes(marker[8:], "little") + _MARKER if len(marker) == _MARKER else _MARKER
    else:
        # The last grain of a disk that ends within it may be stored as far as the disk goes.
        length = min(layout.grain, layout.capacity % layout.grain or layout.grain) * SECTOR
    if begin + length > size:
        raise corrupt("its end is missing")
