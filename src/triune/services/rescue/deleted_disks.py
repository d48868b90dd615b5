"""Deleted disks: from what lies at a guest's first block to its last, and the pointer blocks between.

A guest's GPT tells the disk's size and stands a second time at its end, with the same GUID: where both are found, the
pointer blocks that map them are the disk's first and last one. What lies between is ordered by a pointer block of
pointer blocks where there is one, else by the order in which pointer blocks are given out, and then said to be assumed.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from triune.disks.content import Run
from triune.disks.partitions import read_partitions
from triune.disks.source import Source
from triune.disks.stream import ContentSource
from triune.disks.vmfs.geometry import Geometry
from triune.disks.vmfs.space import Space
from triune.domain.errors import TriuneError
from triune.services.rescue.deleted_guests import Anchor, anchors
from triune.services.rescue.deleted_tables import Orphans, Table
from triune.services.rescue.generations import Generation
from triune.services.rescue.ranges import Ranges
from triune.services.rescue.rebuild_maps import Maps

_SECTOR = 512
_GPT = struct.Struct("<8sIIIIQQQQ16s")
_MBR = struct.Struct("<BBBBBBBBII")
_MOST_DISK = 62 << 40
_MOST_HEADS = 4096
_MOST_LOOKS = 1 << 18


@dataclass(frozen=True, slots=True)
class Gpt:
    """A GPT header in file block `block` of the volume: at sector `here` of a disk of `size` bytes."""

    block: int
    here: int
    size: int
    guid: bytes
    backup: bool


@dataclass(slots=True)
class Disk:
    """A deleted disk. `tables` are its pointer blocks by their place, `single` blocks known one by one.

    `assumed` are the places whose pointer block is the likely one, not the proved one. `ordered` says that a pointer
    block of pointer blocks tells the place of each: where it has none, there are holes, but for those that are `lost`.
    """

    size: int
    head: int
    tables: dict[int, Table] = field(default_factory=dict)
    single: dict[int, int] = field(default_factory=dict)
    assumed: set[int] = field(default_factory=set)
    lost: set[int] = field(default_factory=set)
    reasons: list[str] = field(default_factory=list)
    complete: bool = False
    ordered: bool = False
    tail: bool = False


class Pieced:
    """The content of a deleted disk: `Content` of `disks.content`."""

    def __init__(self, disk: Disk, geometry: Geometry, space: Space) -> None:
        self._disk, self._geometry, self._space = disk, geometry, space

    @property
    def size(self) -> int:
        """In bytes."""
        return self._disk.size

    def runs(self, start: int = 0, end: int | None = None) -> Iterator[Run]:
        """Where the bytes [start, end) are."""
        size, per = self._geometry.file_block, self._geometry.pointers
        end = self.size if end is None else min(end, self.size)
        while start < end:
            number = start // size
            table = self._disk.tables.get(number // per)
            block: int | None
            if table is not None:
                count, block = table.row(number % per)
            elif number in self._disk.single:
                count, block = 1, self._disk.single[number]
            elif self._disk.ordered:
                count, block = per - number % per, None if number // per in self._disk.lost else -1
            else:
                count, block = self._unknown(number) - number, None
            stop = min(end, (number + count) * size)
            if block is None:
                yield Run(start, stop - start, why="nothing tells which blocks it had there")
            elif block < 0:
                yield Run(start, stop - start)
            else:
                for run in self._space.pieces(block * size + start % size, stop - start):
                    yield Run(run.offset - block * size + number * size, run.length, run.source, run.at, run.why)
            start = stop

    def _unknown(self, number: int) -> int:
        """The first block from one on of which something is known."""
        per = self._geometry.pointers
        known = [place for place in self._disk.single if place > number]
        known += [place * per for place in self._disk.tables if place * per > number]
        return min(known, default=1 << 62)


class Disks:
    """The deleted disks of a volume. `sizes` are those that descriptors tell of disks that are not there."""

    def __init__(self, generation: Generation, maps: Maps, claimed: Ranges, sizes: set[int]) -> None:
        self._generation, self._maps, self._claimed, self._sizes = generation, maps, claimed, sizes
        self._block, self._per = maps.geometry.file_block, maps.geometry.pointers
        self._orphans = Orphans(generation, maps, claimed)
        self._tables = dict(self._orphans.tables)
        self._gpts = list(self._headers())
        self._budget = _MOST_LOOKS
        self.found: list[Disk] = []
        self._by_uppers()
        self._by_heads()
        self._by_marks()
        self._by_guests()
        self.rest = sorted(self._tables.values(), key=lambda table: table.order)
        self._fill()

    def _headers(self) -> Iterator[Gpt]:
        """The GPT headers in blocks that no file has."""
        for count, place in enumerate(self._generation.places("gpt")):
            block = place // self._block
            if count > _MOST_HEADS or next(self._claimed.within(block * self._block, self._block), None):
                continue
            data = self._generation.read(place, _GPT.size)
            if len(data) < _GPT.size or not data.startswith(b"EFI PART"):
                continue
            _, _, _, _, _, here, other, _, _, guid = _GPT.unpack(data)
            size = (max(here, other) + 1) * _SECTOR
            if min(here, other) == 1 and size <= _MOST_DISK and place % self._block == here * _SECTOR % self._block:
                yield Gpt(block, here, size, guid, here > other)

    def _tail(self, head: Gpt) -> Gpt | None:
        fits = [one for one in self._gpts if one.backup and (one.guid, one.size) == (head.guid, head.size)]
        return fits[0] if len(fits) == 1 else None

    def _by_uppers(self) -> None:
        """Large disks have a pointer block that orders all others."""
        for upper in self._orphans.uppers:
            tables = {index: self._tables[address] for index, address in upper.below if address in self._tables}
            if not tables or len(tables) * 2 < len(upper.below):
                continue
            for table in tables.values():
                self._tables.pop(table.address, None)
            size, tail = self._size_of(tables.get(0)) or (self._size_for(tables), None)
            disk = Disk(size, self._first(tables), tables, complete=True, ordered=True)
            disk.lost = {index for index, _ in upper.below if index not in tables}
            disk.reasons.append("a pointer block of pointer blocks orders them")
            disk.tail = self._ends(disk, tail)
            self.found.append(disk)

    def _first(self, tables: dict[int, Table]) -> int:
        """The first block there is: it stands for the disk."""
        return next(int(number) for number in tables[min(tables)].numbers if number >= 0)

    def _size_for(self, tables: dict[int, Table]) -> int:
        """The size of the descriptor that these pointer blocks fit into; without one, as far as they reach."""
        last = max(tables)
        end = last * self._per + max(index for index, number in enumerate(tables[last].numbers) if number >= 0) + 1
        fits = sorted(size for size in self._sizes if size > (end - 1) * self._block)
        return fits[0] if fits else end * self._block

    def _by_heads(self) -> None:
        """Disks whose first block is a guest's first one."""
        for table in sorted(self._tables.values(), key=lambda one: one.order):
            head = self._size_of(table)
            if head is None:
                continue
            size, tail = head
            disk = Disk(size, table.block(0), {0: table})
            del self._tables[table.address]
            last = (-(-size // self._block) - 1) // self._per
            if last == 0:
                disk.complete = True
                disk.tail = self._ends(disk, tail)
            elif tail is not None:
                self._give_tail(disk, last, tail)
            self.found.append(disk)

    def _give_tail(self, disk: Disk, last: int, tail: Gpt) -> None:
        index = (-(-disk.size // self._block) - 1) % self._per
        for table in list(self._tables.values()):
            if table.block(index) == tail.block:
                disk.tables[last] = table
                disk.tail = True
                disk.complete = last == 1
                del self._tables[table.address]
                return

    def _ends(self, disk: Disk, tail: Gpt | None) -> bool:
        """Whether the last block is the one with the guest's second GPT."""
        number = -(-disk.size // self._block) - 1
        table = disk.tables.get(number // self._per)
        return tail is not None and table is not None and table.block(number % self._per) == tail.block

    def _size_of(self, table: Table | None) -> tuple[int, Gpt | None] | None:
        """(size, second GPT) of the disk that begins with a table's first block; None where none begins there."""
        if table is None or table.block(0) < 0:
            return None
        block = table.block(0)
        for head in self._gpts:
            if head.block == block and not head.backup:
                return head.size, self._tail(head)
        used = self._mbr_end(block)
        if not used:
            return None
        fits = sorted(size for size in self._sizes if size >= used)
        return (fits[0] if fits else used), None

    def _mbr_end(self, block: int) -> int:
        """Where the last partition of an MBR ends, in bytes; 0 where there is none."""
        data = self._generation.read(block * self._block, _SECTOR)
        if len(data) < _SECTOR or data[510:] != b"\x55\xaa":
            return 0
        end = 0
        for offset in range(446, 510, 16):
            boot, _, _, _, kind, _, _, _, start, count = _MBR.unpack_from(data, offset)
            if boot & 0x7F:
                return 0
            if kind and count:
                end = max(end, start + count)
        return end * _SECTOR if end * _SECTOR <= _MOST_DISK else 0

    def _by_marks(self) -> None:
        """Small disks had no pointer blocks: only their first and last block tell themselves."""
        heads = {disk.head for disk in self.found}
        for head in self._gpts:
            if head.backup or head.block in heads:
                continue
            heads.add(head.block)
            disk = Disk(head.size, head.block, single={0: head.block})
            last = -(-head.size // self._block) - 1
            tail = self._tail(head)
            if tail is not None:
                disk.single[last] = tail.block
                disk.tail = True
                if tail.block - head.block == last and self._is_free(head.block, last + 1):
                    disk.single = {number: head.block + number for number in range(last + 1)}
                    disk.assumed = {0}
                    disk.reasons.append("its blocks are taken to lie one behind the other")
            self.found.append(disk)

    def _by_guests(self) -> None:
        """Place pointer blocks by the copies that guests' file systems keep of their heads."""
        for disk in self.found:
            if disk.complete or not disk.tables:
                continue
            source = ContentSource(Pieced(disk, self._maps.geometry, self._generation.space), "deleted disk")
            for anchor in _anchors(source):
                number = anchor.place // self._block
                if number // self._per not in disk.tables:
                    self._anchor(disk, anchor, number)
            last = (-(-disk.size // self._block) - 1) // self._per
            disk.complete = all(place in disk.tables for place in range(last + 1))

    def _anchor(self, disk: Disk, anchor: Anchor, number: int) -> None:
        fits = []
        for table in itertools.islice(self._tables.values(), _MOST_HEADS):
            block = table.block(number % self._per)
            if block >= 0 and self._budget > 0:
                self._budget -= 1
                data = self._generation.read(block * self._block + anchor.place % self._block, anchor.length)
                if len(data) == anchor.length and anchor.fits(data):
                    fits.append(table)
        if len(fits) == 1:
            disk.tables[number // self._per] = fits[0]
            del self._tables[fits[0].address]
            why = "its guest's file systems tell where some of its pointer blocks belong"
            if why not in disk.reasons:
                disk.reasons.append(why)

    def _is_free(self, block: int, count: int) -> bool:
        return next(self._claimed.within(block * self._block, count * self._block), None) is None

    def _fill(self) -> None:
        """Give the pointer blocks that are left to the disks that lack some, in the order of both."""
        lacking = [disk for disk in self.found if disk.tables and not disk.complete]
        if len(lacking) == 1:
            self._give(lacking[0], self.rest)
        else:
            for disk in lacking:
                self._give(disk, self._behind(disk, lacking))
        sizes = self._sizes - {disk.size for disk in self.found}
        if len(sizes) == 1 and self.rest:
            self._without_guest(sizes.pop())

    def _without_guest(self, size: int) -> None:
        """The one disk that a descriptor misses, where no guest's partition table tells of one."""
        tables = dict(enumerate(self.rest))
        if len(tables) == -(-size // (self._block * self._per)) and self._size_for(tables) == size:
            disk = Disk(size, self._first(tables), tables, assumed=set(tables), complete=True)
            disk.reasons.append("it is the only one that a descriptor misses")
            self.rest = []
            self.found.append(disk)

    def _behind(self, disk: Disk, others: list[Disk]) -> list[Table]:
        """What was allocated between a disk's first pointer block and its last, or else the next disk's first."""
        low, last = disk.tables[0].order, max(disk.tables)
        if last:
            high = disk.tables[last].order
            return [table for table in self.rest if low < table.order < high]
        ends = [other.tables[0].order for other in others if other.tables[0].order > low]
        return [table for table in self.rest if low < table.order and (not ends or table.order < min(ends))]

    def _give(self, disk: Disk, tables: list[Table]) -> None:
        last = (-(-disk.size // self._block) - 1) // self._per
        lacks = [place for place in range(last + 1) if place not in disk.tables]
        if len(lacks) != len(tables) or not lacks:
            return
        for place, table in zip(lacks, tables, strict=True):
            disk.tables[place] = table
            disk.assumed.add(place)
        disk.complete = True
        disk.reasons.append("its pointer blocks are in the order in which they were allocated")
        self.rest = [table for table in self.rest if table not in tables]


def _anchors(source: Source) -> Iterator[Anchor]:
    """Of all partitions of a disk of which not all is known."""

    def read(offset: int, length: int) -> bytes:
        try:
            return source.read(offset, length)
        except TriuneError:
            return b""

    try:
        table = read_partitions(source)
    except TriuneError:
        return
    for partition in table.partitions if table is not None else ():
        yield from anchors(read, partition.start, partition.size)
