"""Compressed grains of streamOptimized VMDKs, and how to find them where the tables are lost.

Source of the format: "Virtual Disk Format 5.0" (VMware). A grain is led by a marker: its first sector on the disk (8
bytes) and its length (4), then the deflated data, padded to a sector. Where the length is 0, the marker tells of
metadata instead: the number counts its sectors, and its type (4 bytes) is 0 end of stream, 1 grain table, 2 grain
directory, 3 footer. So the file can be read from marker to marker without any table.
"""

from __future__ import annotations

import struct
import threading
import zlib
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from triune.disks.content import Content, Lost, Run, read
from triune.disks.source import Unreadable
from triune.disks.vmdk_layout import SECTOR, Layout, read_layout
from triune.disks.vmdk_pieces import Piece
from triune.domain.errors import Invalid

_MARKER = struct.Struct("<QII")
_GRAIN_MARKER = 12
_LENGTH = 4
_END_OF_STREAM, _FOOTER, _LAST_TYPE = 0, 3, 4
_KEPT = 16
_FOOTER_SEARCH = 1 << 16
_MOST_TABLES = 1 << 15  # of 512 numbers: 64 MiB
_MOST_METADATA = 1 << 22  # sectors


@dataclass(frozen=True, slots=True)
class Walk:
    """The map that markers gave: for each grain table, its grains' places in sectors, 0 for none. `complete`: the
    markers went on to the stream's end, so what has no grain is known to be absent."""

    tables: dict[int, NDArray[np.uint32]]
    grains: int
    complete: bool


def find_footer(content: Content, distance: int) -> Layout | None:
    """The footer, `distance` bytes from the end or, where the file was padded, not far before."""
    start = max(0, (content.size - _FOOTER_SEARCH) // SECTOR * SECTOR)
    try:
        tail = read(content, start, content.size - start)
    except (Lost, Unreadable):
        return None
    exact = content.size - distance - start
    for place in (exact, *range(len(tail) // SECTOR * SECTOR - SECTOR, -1, -SECTOR)):
        if place >= 0 and start + place > 0 and tail.startswith(b"KDMV", place):
            try:
                found = read_layout(tail[place : place + SECTOR])
            except Invalid:
                continue
            if found is not None and found.directory is not None:
                return found
    return None


def walk(content: Content, layout: Layout) -> Walk:
    """Go from marker to marker. It ends without a word where they end: see `complete`."""
    tables: dict[int, NDArray[np.uint32]] = {}
    sector, grains, footer = layout.overhead or 1, 0, False
    while layout.markers and sector * SECTOR < content.size:
        try:
            head = read(content, sector * SECTOR, _MARKER.size)
        except (Lost, Unreadable):
            break
        if len(head) < _MARKER.size:
            break
        number, length, kind = _MARKER.unpack(head)
        if length == 0:
            if kind == _END_OF_STREAM:
                # Zeros look like an end; the real one stands behind the footer.
                return Walk(tables, grains, complete=footer and number == 0)
            if kind > _LAST_TYPE or number > _MOST_METADATA:
                break
            sector, footer = sector + 1 + number, footer or kind == _FOOTER
            continue
        table, entry = divmod(number // layout.grain, layout.entries)
        known = tables.get(table)
        if number % layout.grain or number >= layout.capacity or length > _longest(layout):
            break
        if known is None:
            if len(tables) >= _MOST_TABLES:
                break
            known = tables[table] = np.zeros(layout.entries, dtype=np.uint32)
        if known[entry]:  # the same grain twice: nobody knows which one counts
            break
        known[entry], grains = sector, grains + 1
        sector += -(-(_GRAIN_MARKER + length) // SECTOR)
    return Walk(tables, grains, complete=False)


def _longest(layout: Layout) -> int:
    """Deflate never makes data much longer."""
    return 2 * layout.grain * SECTOR + 4096


class Inflater:
    """Grains of one extent, the last few kept. May be used by several threads."""

    def __init__(self, content: Content, layout: Layout) -> None:
        self._content, self._layout = content, layout
        self._kept: OrderedDict[int, bytes | str] = OrderedDict()
        self._lock = threading.Lock()

    def run(self, piece: Piece, size: int) -> Run:
        """A packed grain's run; `size` in bytes of the whole grain. It is missing where it doesn't inflate."""
        data = self.grain(piece.at, piece.offset - piece.skip, size)
        if isinstance(data, str):
            return Run(piece.offset, piece.length, why=data)
        return Run(piece.offset, piece.length, _Grain(self, piece.at, piece.offset - piece.skip, size), piece.skip)

    def grain(self, at: int, offset: int, size: int) -> bytes | str:
        """The inflated grain that lies at the file's byte `at`, of the disk's `offset`; or why there is none."""
        with self._lock:
            found = self._kept.get(at)
            if found is not None:
                self._kept.move_to_end(at)
                return found
        found = self._inflate(at, offset, size)
        with self._lock:
            self._kept[at] = found
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return found

    def _inflate(self, at: int, offset: int, size: int) -> bytes | str:
        lead = _GRAIN_MARKER if self._layout.markers else _LENGTH
        try:
            head = read(self._content, at, lead)
            if len(head) < lead:
                return "the extent's file ends before it"
            length = int.from_bytes(head[-_LENGTH:], "little")
            if not 0 < length <= _longest(self._layout):
                return "the length of its compressed grain is absurd"
            if self._layout.markers and int.from_bytes(head[:8], "little") != offset // SECTOR:
                return "the compressed grain there belongs elsewhere"
            packed = read(self._content, at + lead, length)
        except (Lost, Unreadable) as error:
            return f"its compressed grain can't be read: {error.message}"
        if len(packed) < length:
            return "the extent's file ends before it"
        unpacker = zlib.decompressobj()
        try:
            data = unpacker.decompress(packed, self._layout.grain * SECTOR + 1)
        except zlib.error:
            return "its compressed grain is damaged"
        if not unpacker.eof or not size <= len(data) <= self._layout.grain * SECTOR:
            return "its compressed grain is damaged"
        return data


class _Grain:
    """One inflated grain as a source."""

    def __init__(self, inflater: Inflater, at: int, offset: int, size: int) -> None:
        self._inflater, self._at, self._offset, self.size = inflater, at, offset, size
        self.name = f"the compressed grain at {at}"

    def read(self, offset: int, length: int) -> bytes:
        data = self._inflater.grain(self._at, self._offset, self.size)
        if isinstance(data, str):
            raise Unreadable(self.name, offset, length, data)
        return data[offset : min(offset + length, self.size)]

    def close(self) -> None:
        """Nothing is open."""
