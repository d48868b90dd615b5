"""A file's bytes, by way of its FD's block map, on a healthy volume as on a damaged one.

What an FD and its pointer blocks say is not believed: a block beyond the volume, an address of the wrong kind, a
pointer block that is none make the bytes missing, with the reason, and never zeros.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import replace

from triune.disks.content import Run
from triune.disks.source import Held
from triune.disks.vmfs.address import Kind, decode
from triune.disks.vmfs.damaged import Damaged
from triune.disks.vmfs.descriptor import Descriptor, Layout, numbers
from triune.disks.vmfs.geometry import Geometry
from triune.disks.vmfs.resolver import Resolver, read, within

_CACHED = 16  # pointer blocks of one file: 1 MiB at most
_PAGE = 4096  # damage comes in sectors or pages: one bad pointer makes its neighbours doubtful
_DATA = frozenset({Kind.FILE_BLOCK, Kind.LARGE_BLOCK, Kind.SUB_BLOCK})
_POINTERS = frozenset({Kind.POINTER_BLOCK, Kind.POINTER_BLOCK2, Kind.SUB_BLOCK, Kind.FILE_BLOCK})
_POINTERS_NARROW = frozenset({Kind.POINTER_BLOCK, Kind.POINTER_BLOCK2})
_DOUBT = -1  # stands in a table for a pointer that is not believed; no address is negative


class FileContent:
    """The content of a file: `Content` of `disks.content`."""

    def __init__(self, descriptor: Descriptor, resolver: Resolver) -> None:
        self.descriptor, self.resolver = descriptor, resolver
        self._geometry = resolver.geometry
        self._tables: OrderedDict[tuple[int, int], Sequence[int] | Damaged] = OrderedDict()

    @property
    def size(self) -> int:
        """In bytes, as the FD says."""
        return self.descriptor.length

    def runs(self, start: int = 0, end: int | None = None) -> Iterator[Run]:
        """Where the bytes [start, end) are."""
        end = self.size if end is None else min(end, self.size)
        if start < end:
            yield from joined(self._resident(start, end) if self._is_resident else self._listed(start, end))

    @property
    def _is_resident(self) -> bool:
        return self.descriptor.layout == Layout.RESIDENT

    def _resident(self, start: int, end: int) -> Iterator[Run]:
        held = Held("a file descriptor", self.descriptor.resident(self._geometry))

        def pieces(offset: int, length: int) -> Iterator[Run]:
            yield Run(offset, length, held, offset)

        yield from within(pieces, 0, held.size, start, end - start, "what a file descriptor holds")

    def _listed(self, start: int, end: int) -> Iterator[Run]:
        if self.descriptor.layout == Layout.NONE:
            yield Run(start, end - start, why="the file descriptor points to no content")
            return
        table = self.descriptor.addresses(self._geometry)
        yield from self._table(table, self.descriptor.levels, 0, start, end)

    def _table(self, table: Sequence[int], level: int, base: int, start: int, end: int) -> Iterator[Run]:
        """The part [start, end) of the file as addresses in a row map it; the first one stands for `base`."""
        span = self.descriptor.block_size * self._geometry.pointers**level
        index = (start - base) // span
        while start < end:
            if index >= len(table):
                yield Run(start, end - start, why="the block map is too short")
                return
            value = table[index]
            last = min(len(table), -(-(end - base) // span))
            count = self._stretch(table, index, last, level)
            stop = min(end, base + (index + count) * span)
            if value == 0:
                yield Run(start, stop - start)
            elif value == _DOUBT:
                yield Run(start, stop - start, why="a pointer block is damaged there")
            elif level == 0:
                yield from self._block(value, start, stop - start, count)
            else:
                yield from self._below(value, level, base + index * span, start, stop)
            start, index = stop, index + count

    def _stretch(self, table: Sequence[int], index: int, last: int, level: int) -> int:
        """How many addresses from `index` on are one hole, or file blocks that follow each other."""
        value, begin = table[index], index
        if value <= 0:
            while index < last and table[index] == value:
                index += 1
            return index - begin
        step, mask, plain = self._step
        if level or value & mask != plain:
            return 1
        wide, per_cluster = self._geometry.wide, self._geometry.small_per_cluster
        while index < last and table[index] == value:
            index += 1
            value += step
            if wide and value >> 51 >= per_cluster:  # the next block is in the next cluster
                value = (value & (1 << 51) - 1) + (1 << 15)
        return index - begin

    @property
    def _step(self) -> tuple[int, int, int]:
        """(what the address of the next file block is more, mask of kind and flags, their value in a plain one)."""
        if self.descriptor.block_size != self._geometry.file_block:
            return 0, 0, 1  # never equal: each block stands for itself
        return (1 << 51, 0x7FFF, 1) if self._geometry.wide else (1 << 6, 0x3F, 1)

    def _below(self, value: int, level: int, base: int, start: int, end: int) -> Iterator[Run]:
        try:
            table = self._pointers(value, level - 1)
        except Damaged as damaged:
            yield Run(start, end - start, why=damaged.why)
            return
        yield from self._table(table, level - 1, base, start, end)

    def _block(self, value: int, offset: int, length: int, count: int) -> Iterator[Run]:
        """`length` bytes at `offset` of the file, from the block at an address, or from `count` file blocks there."""
        try:
            address = decode(value, self._geometry)
        except Damaged as damaged:
            yield Run(offset, length, why=damaged.why)
            return
        if address.kind not in _DATA:
            yield Run(offset, length, why=f"a {address} is where data should be")
        elif address.zeroed:
            yield Run(offset, length)
        elif count > 1:
            place = address.item * self._geometry.file_block + offset % self._geometry.file_block
            for run in self.resolver.space.pieces(place, length):
                yield replace(run, offset=run.offset - place + offset)
        else:
            begin = offset % _size(address.kind, self._geometry)
            for run in self.resolver.runs(address, begin, length):
                yield replace(run, offset=run.offset - begin + offset)

    def _pointers(self, value: int, below: int) -> Sequence[int]:
        """The addresses in a pointer block; doubtful ones are replaced. Raises Damaged for one that is none."""
        key = (value, below)
        found = self._tables.get(key)
        if found is None:
            try:
                found = self._read_pointers(value, below)
            except Damaged as damaged:
                found = damaged
            self._tables[key] = found
            if len(self._tables) > _CACHED:
                self._tables.popitem(last=False)
        else:
            self._tables.move_to_end(key)
        if isinstance(found, Damaged):
            raise found
        return found

    def _read_pointers(self, value: int, below: int) -> Sequence[int]:
        geometry = self._geometry
        address = decode(value, geometry)
        allowed = _POINTERS if geometry.wide else _POINTERS_NARROW
        if address.kind not in allowed:
            raise Damaged(f"a {address} is where a pointer block should be")
        table = numbers(read(self.resolver, address, 0, geometry.pointer_block), geometry)
        kinds = _DATA if below == 0 else allowed
        return believed(table, kinds, self.resolver)


def believed(table: array[int], kinds: frozenset[Kind], resolver: Resolver) -> Sequence[int]:
    """The addresses of a pointer block, with those replaced that lie in a page with an impossible one.

    Raises Damaged where every page is like that: it is no pointer block.
    """
    per_page = _PAGE // table.itemsize
    bad = {index // per_page for index, value in enumerate(table) if value and not _possible(value, kinds, resolver)}
    if not bad:
        return table
    pages = -(-len(table) // per_page)
    if len(bad) == pages:
        raise Damaged("a pointer block holds something else")
    return [_DOUBT if index // per_page in bad else value for index, value in enumerate(table)]


def _possible(value: int, kinds: frozenset[Kind], resolver: Resolver) -> bool:
    try:
        address = decode(value, resolver.geometry)
    except Damaged:
        return False
    if address.kind not in kinds:
        return False
    if address.kind in (Kind.FILE_BLOCK, Kind.LARGE_BLOCK):
        return address.item * _size(address.kind, resolver.geometry) < resolver.space.size
    return True


def _size(kind: Kind, geometry: Geometry) -> int:
    return {Kind.FILE_BLOCK: geometry.file_block, Kind.LARGE_BLOCK: geometry.large_block}.get(kind, geometry.sub_block)


def joined(runs: Iterator[Run]) -> Iterator[Run]:
    """The same bytes in as few runs as can be."""
    last: Run | None = None
    for run in runs:
        if last is None:
            last = run
        elif (
            run.source is last.source
            and run.why == last.why
            and run.at == (last.at + last.length if run.source is not None else last.at)
        ):
            last = replace(last, length=last.length + run.length)
        else:
            yield last
            last = run
    if last is not None:
        yield last
