"""A file's bytes, by way of its FD's block map, on a healthy volume as on a damaged one.

What an FD and its pointer blocks say is not believed: a block beyond the volume, an address of the wrong kind, a
pointer block that is none make the bytes missing, with the reason, and never zeros.
"""

from __future__ import annotations

import threading
from array import array
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from triune.disks.content import Run
from triune.disks.source import Held
from triune.disks.vmfs.address import Address, Kind, decode
from triune.disks.vmfs.allocation import Allocation
from triune.disks.vmfs.damaged import Damaged
from triune.disks.vmfs.descriptor import Descriptor, Layout, numbers
from triune.disks.vmfs.geometry import Geometry
from triune.disks.vmfs.resolver import Resolver, read, within

_MOST_POINTER_BLOCKS = 1 << 17  # of a file of 62 TB
_MANY = 2048  # addresses that are worth numpy's start
_MOST_EXTENTS, _MOST_TWICE = 1 << 20, 1 << 16
_CACHED = 16  # pointer blocks of one file: 1 MiB at most
_PAGE = 4096  # damage comes in sectors or pages: one bad pointer makes its neighbours doubtful
_DATA = frozenset({Kind.FILE_BLOCK, Kind.LARGE_BLOCK, Kind.SUB_BLOCK})
_POINTERS = frozenset({Kind.POINTER_BLOCK, Kind.POINTER_BLOCK2, Kind.SUB_BLOCK, Kind.FILE_BLOCK})
_POINTERS_NARROW = frozenset({Kind.POINTER_BLOCK, Kind.POINTER_BLOCK2})
_DOUBT = -1  # stands in a table for a pointer that is not believed; no address is negative


@dataclass(frozen=True, slots=True)
class Census:
    """What a block map holds: data `blocks`, `large` ones among them, `pointer_blocks`.

    `lost` of the pointer blocks before the file's end can't be read. `repeated`: a pointer block stands in the map
    twice. Not `complete` where there are more than anybody counts. `zeroed` blocks are to be read as zeros. `twice` are
    the numbers of file blocks that the map leads to more than once; `last` is one more than the place of the last block
    in the file. `extents` are (number, count) of its file blocks, `items` the addresses of its sub-blocks and pointer
    blocks.
    """

    blocks: int = 0
    large: int = 0
    pointer_blocks: int = 0
    lost: int = 0
    repeated: bool = False
    complete: bool = True
    zeroed: int = 0
    twice: frozenset[int] = frozenset()
    last: int = 0
    extents: tuple[tuple[int, int], ...] = ()
    items: frozenset[int] = frozenset()


class FileContent:
    """The content of a file: `Content` of `disks.content`.

    With `counted`, the map is counted before it is used, and what the count speaks against is missing: an FD tells how
    many blocks its map has (so it was in every file of every volume looked at). Fewer make holes doubtful, more make
    all of it doubtful; such runs keep their source, and say why. So do blocks that `allocations` speak against.
    """

    def __init__(
        self,
        descriptor: Descriptor,
        resolver: Resolver,
        *,
        counted: bool = False,
        allocations: Mapping[Kind, Allocation] | None = None,
    ) -> None:
        self.descriptor, self.resolver, self._counted = descriptor, resolver, counted
        self._allocations = allocations or {}
        self._geometry = resolver.geometry
        self._tables: OrderedDict[tuple[int, int], Sequence[int] | Damaged] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def size(self) -> int:
        """In bytes, as the FD says."""
        return self.descriptor.length

    def runs(self, start: int = 0, end: int | None = None) -> Iterator[Run]:
        """Where the bytes [start, end) are."""
        end = self.size if end is None else min(end, self.size)
        if start >= end:
            return
        if self._is_resident:
            yield from joined(self._resident(start, end))
            return
        of_holes, of_all = self.doubts if self._counted else ("", "")
        for run in joined(self._listed(start, end)):
            why = run.why or of_all or (of_holes if run.source is None else "")
            yield replace(run, why=why) if why else run

    @cached_property
    def census(self) -> Census:
        """All of the map, counted."""
        if self._is_resident or self.descriptor.layout == Layout.NONE:
            return Census()
        end = -(-self.size // self.descriptor.block_size)
        counting = _Counting(self._pointers, self._geometry, end)
        complete = counting.count(self.descriptor.addresses(self._geometry), self.descriptor.levels, 0)
        return Census(
            counting.blocks,
            counting.large,
            counting.pointer_blocks,
            counting.lost,
            counting.repeated,
            complete,
            counting.zeroed,
            counting.twice(),
            counting.last,
            tuple(counting.extents),
            frozenset(counting.items | counting.seen),
        )

    @cached_property
    def doubts(self) -> tuple[str, str]:
        """What the count says against the map's holes, and against all of it; empty where it says nothing."""
        if self.descriptor.small_for(self._geometry):
            return "", f"its layout does not have blocks of {self.descriptor.block_size} bytes"
        census, wanted = self.census, self.descriptor.blocks
        if not census.complete:
            return "", "it has more pointer blocks than are looked at"
        if census.repeated:
            return "", "one of its pointer blocks is in its map twice"
        if self.beyond:
            return "", self.beyond
        if census.zeroed != self.descriptor.zeroed_blocks and not census.lost:
            return "", f"{census.zeroed} blocks are to be zeroed, its file descriptor tells of another count"
        # Nobody has seen how large blocks are counted: as themselves, or as the file blocks they stand for.
        counts = {census.blocks, census.blocks + census.large * ((1 << self._geometry.large_shift) - 1)}
        if wanted in counts:
            return "", ""
        why = f"its map has {census.blocks} blocks, its file descriptor tells of {wanted}"
        if wanted < min(counts):
            return "", why
        room = census.lost * self._geometry.pointers ** max(1, self.descriptor.levels)
        return ("" if wanted <= max(counts) + room else why), ""

    @cached_property
    def beyond(self) -> str:
        """What says that the file is longer than its FD tells, or nothing."""
        return beyond(self.descriptor, self._geometry, self.census.last)

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
        elif address.kind == Kind.FILE_BLOCK and (count > 1 or Kind.FILE_BLOCK in self._allocations):
            yield from self._file_blocks(address.item, offset, length)
        else:
            begin, why = offset % _size(address.kind, self._geometry), self._doubt(address)
            for run in self.resolver.runs(address, begin, length):
                yield replace(run, offset=run.offset - begin + offset, why=run.why or why)

    def _doubt(self, address: Address) -> str:
        """What speaks against a sub-block or pointer block of the map."""
        allocation = self._allocations.get(address.kind) if address.kind != Kind.FILE_BLOCK else None
        return allocation.doubt(self.descriptor.address, address) if allocation else ""

    def _file_blocks(self, first: int, offset: int, length: int) -> Iterator[Run]:
        """`length` bytes at `offset` of the file, from file block `first` on and those that follow it."""
        size = self._geometry.file_block
        within_first = offset % size
        if within_first + length > size and self.descriptor.block_size != size:
            # One address stands for more than a file block: what is behind it is not known.
            there = size - within_first
            yield from self._file_blocks(first, offset, there)
            yield Run(offset + there, length - there, why=f"file block {first} is shorter")
            return
        blocks = -(-(within_first + length) // size)
        allocation = self._allocations.get(Kind.FILE_BLOCK)
        parts = allocation.doubts(self.descriptor.address, first, blocks) if allocation else ((blocks, ""),)
        place, end = first * size + within_first, offset + length
        for count, why in self._apart(first, parts):
            first += count
            stop = min(end, offset + first * size - place)
            for run in self.resolver.space.pieces(place, stop - offset):
                yield replace(run, offset=run.offset - place + offset, why=run.why or why)
            place, offset = place + stop - offset, stop

    def _apart(self, first: int, parts: Iterable[tuple[int, str]]) -> Iterator[tuple[int, str]]:
        """The same (blocks, why), with those blocks told apart that the map leads to twice."""
        twice = self.census.twice if self._counted else frozenset()
        for count, why in parts:
            if not twice or twice.isdisjoint(range(first, first + count)):
                yield count, why
            else:
                for block in range(first, first + count):
                    yield 1, why or ("its map leads to that block twice" if block in twice else "")
            first += count

    def _pointers(self, value: int, below: int) -> Sequence[int]:
        """The addresses in a pointer block; doubtful ones are replaced. Raises Damaged for one that is none."""
        key = (value, below)
        with self._lock:
            found = self._tables.get(key)
            if found is not None:
                self._tables.move_to_end(key)
        if found is None:
            try:
                found = self._read_pointers(value, below)
            except Damaged as damaged:
                found = damaged
            with self._lock:
                self._tables[key] = found
                if len(self._tables) > _CACHED:
                    self._tables.popitem(last=False)
        if isinstance(found, Damaged):
            raise found
        return found

    def _read_pointers(self, value: int, below: int) -> Sequence[int]:
        geometry = self._geometry
        address = decode(value, geometry)
        allowed = _POINTERS if geometry.wide else _POINTERS_NARROW
        if address.kind not in allowed:
            raise Damaged(f"a {address} is where a pointer block should be")
        if why := self._doubt(address):
            raise Damaged(why)
        table = numbers(read(self.resolver, address, 0, geometry.pointer_block), geometry)
        kinds = _DATA if below == 0 else allowed
        return believed(table, kinds, self.resolver)


def beyond(descriptor: Descriptor, geometry: Geometry, last: int) -> str:
    """What says that a file is longer than its FD tells, or nothing; its map has `last` blocks, holes among them."""
    if descriptor.layout == Layout.RESIDENT:
        kept = not descriptor.length and any(descriptor.resident(geometry))
        return "it is empty, and its file descriptor holds bytes" if kept else ""
    end = -(-descriptor.length // descriptor.block_size) + descriptor.preallocated
    return "its map goes on behind its end" if last > end else ""


class _Counting:
    """Goes through the block map of a file of `end` blocks once."""

    def __init__(self, pointers: Callable[[int, int], Sequence[int]], geometry: Geometry, end: int) -> None:
        self.blocks = self.large = self.pointer_blocks = self.lost = self.zeroed = self.last = 0
        self.repeated = False
        self._pointers, self._geometry, self._end = pointers, geometry, end
        self.seen: set[int] = set()
        self.items: set[int] = set()
        self.extents: list[tuple[int, int]] = []

    def count(self, table: Sequence[int], level: int, base: int) -> bool:
        """Add a table, whose first address is that of block `base` of the file, and what is below it; whether all of
        it was counted."""
        if level == 0:
            self._data(table, base)
            return True
        span = self._geometry.pointers**level
        for index, value in enumerate(table):
            if value in (0, _DOUBT):
                continue
            if value in self.seen:
                self.repeated = True
                continue
            if len(self.seen) >= _MOST_POINTER_BLOCKS:
                return False
            self.seen.add(value)
            self.pointer_blocks += 1
            try:
                below = self._pointers(value, level - 1)
            except Damaged:
                # One behind the file's end would tell of no missing byte, and explain any hole before it.
                self.lost += base + index * span < self._end
                continue
            if not self.count(below, level - 1, base + index * span):
                return False
        return True

    def twice(self) -> frozenset[int]:
        """The file blocks in more than one extent, as many as anybody wants to know."""
        found: set[int] = set()
        end = -1
        for first, count in sorted(self.extents):
            found.update(range(first, min(end, first + count, first + _MOST_TWICE)))
            end = max(end, first + count)
            if len(found) >= _MOST_TWICE:
                break
        return frozenset(found)

    def _data(self, table: Sequence[int], base: int) -> None:
        wide, per_cluster, extents = self._geometry.wide, self._geometry.small_per_cluster, self.extents
        flags = 0x7F80 if wide else 0x20
        begin = following = -1
        for index, value in enumerate(table):
            if value <= 0:
                continue
            self.blocks += 1
            self.last = base + index + 1
            kind = value & 7
            if kind == Kind.LARGE_BLOCK:
                self.large += 1
            elif kind == Kind.SUB_BLOCK:
                self.items.add(value)
                continue
            elif kind != Kind.FILE_BLOCK:
                continue
            if value & flags:
                self.zeroed += 1
            if kind != Kind.FILE_BLOCK:
                continue
            number = (value >> 15 & 0x7FFFFFFF) * per_cluster + (value >> 51) if wide else value >> 6
            if number == following:
                following += 1
                continue
            if begin >= 0 and len(extents) < _MOST_EXTENTS:
                extents.append((begin, following - begin))
            begin, following = number, number + 1
        if begin >= 0 and len(extents) < _MOST_EXTENTS:
            extents.append((begin, following - begin))


def believed(table: array[int], kinds: frozenset[Kind], resolver: Resolver) -> Sequence[int]:
    """The addresses of a pointer block, with those replaced that lie in a page with an impossible one.

    Raises Damaged where every page is like that: it is no pointer block.
    """
    per_page = _PAGE // table.itemsize
    if len(table) - table.count(0) > _MANY:
        bad = _bad_pages(table, kinds, resolver, per_page)
    else:
        bad = {at // per_page for at, value in enumerate(table) if value and not _possible(value, kinds, resolver)}
    if not bad:
        return table
    pages = -(-len(table) // per_page)
    if len(bad) == pages:
        raise Damaged("a pointer block holds something else")
    return [_DOUBT if index // per_page in bad else value for index, value in enumerate(table)]


def _bad_pages(table: array[int], kinds: frozenset[Kind], resolver: Resolver, per_page: int) -> set[int]:
    """As `_possible` for each address, at once."""
    import numpy as np

    geometry, size = resolver.geometry, resolver.space.size
    values = np.frombuffer(table, f"u{table.itemsize}").astype(np.uint64)
    kind = values & np.uint64(7)
    possible = values == 0
    if geometry.wide:
        cluster = values >> np.uint64(15) & np.uint64(0x7FFFFFFF)
        numbers_of = {
            Kind.FILE_BLOCK: cluster * np.uint64(geometry.small_per_cluster) + (values >> np.uint64(51)),
            Kind.LARGE_BLOCK: cluster,
        }
    else:
        numbers_of = {Kind.FILE_BLOCK: values >> np.uint64(6)}
    for one in kinds:
        if one in numbers_of:
            possible |= (kind == one) & (numbers_of[one] < np.uint64(-(-size // _size(one, geometry))))
        elif one != Kind.LARGE_BLOCK:
            possible |= kind == one
    return set((np.flatnonzero(~possible) // per_page).tolist())


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
