"""What vouches for a file's bytes on a damaged volume, and what speaks against them.

A file's FD tells how many blocks it has; its block map has to map as many. A block belongs to one file. Where a lost
structure lay, nothing around it can be believed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from triune.disks.content import Content, Run
from triune.disks.vmfs.address import Kind, decode
from triune.disks.vmfs.blocks import beyond
from triune.disks.vmfs.damaged import Damaged
from triune.disks.vmfs.descriptor import Descriptor, Layout
from triune.disks.vmfs.geometry import Geometry
from triune.disks.vmfs.resolver import read
from triune.disks.vmfs.space import Space
from triune.services.rescue.ranges import Ranges
from triune.services.rescue.rebuild_bitmaps import Bitmaps, file_blocks
from triune.services.rescue.rebuild_maps import Maps

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_SECTOR = 512
_MANY = 8  # as many blocks as its FD says, none of them another file's: a pointer block that maps these is the file's
_ASSUMED = "nothing proves where that part of a resource file is"
_POINTERS = (Kind.POINTER_BLOCK, Kind.POINTER_BLOCK2, Kind.SUB_BLOCK, Kind.FILE_BLOCK)


@dataclass(slots=True)
class Tally:
    """How many blocks and pointer blocks a file's map has. `lost` tells of pointer blocks that can't be read,
    `foreign` of blocks that belong to the volume's own files, `small` of sub-blocks.

    `zeroed` counts blocks that were promised and never written, and `promised` are the (offset, length) ranges of the
    volume that they are; `free` are (offset, length) ranges of the file whose
    blocks the volume's bitmaps call free, and `freed` tells of a pointer block that they do. `last` is one more than
    the place of the last block in the file.
    """

    blocks: int = 0
    last: int = 0
    pointer_blocks: int = 0
    lost: int = 0
    foreign: bool = False
    small: bool = False
    zeroed: int = 0
    free: list[tuple[int, int]] = field(default_factory=list)
    freed: bool = False
    pointer_places: list[tuple[int, int]] = field(default_factory=list)
    promised: list[tuple[int, int]] = field(default_factory=list)


class Counting:
    """Counts the blocks of files. `system` are the numbers of file blocks that hold the volume's own files."""

    def __init__(self, maps: Maps, system: set[int], bitmaps: Bitmaps) -> None:
        import numpy as np

        self._maps, self._geometry, self._bitmaps = maps, maps.geometry, bitmaps
        self._system = np.array(sorted(system), np.int64)

    def tally(self, descriptor: Descriptor) -> Tally:
        """Of one file, given its FD with all its bytes."""
        import numpy as np

        found = Tally()
        if descriptor.layout in (Layout.RESIDENT, Layout.NONE):
            return found
        table = np.array(descriptor.addresses(self._geometry), np.uint64)
        self._table(found, table, descriptor.levels, 0, descriptor.block_size)
        return found

    def _table(self, found: Tally, table: NDArray[np.uint64], level: int, base: int, size: int) -> None:
        import numpy as np

        if level == 0:
            self._blocks(found, table, base, size)
            return
        span = size * self._geometry.pointers**level
        for index in np.flatnonzero(table).tolist():
            value = int(table[index])
            found.pointer_blocks += 1
            found.freed = found.freed or self._bitmaps.is_free(value)
            below = self._pointers(found, value)
            if below is None:
                found.lost += 1
            else:
                self._table(found, below, level - 1, base + index * span, size)

    def _blocks(self, found: Tally, table: NDArray[np.uint64], base: int, size: int) -> None:
        import numpy as np

        used = np.flatnonzero(table)
        values = table[used]
        found.last = max(found.last, base // size + int(used[-1]) + 1 if len(used) else 0)
        kinds = values & np.uint64(7)
        large = int(np.count_nonzero(kinds == Kind.LARGE_BLOCK)) if self._geometry.wide else 0
        found.blocks += len(values) + large * ((1 << self._geometry.large_shift) - 1)
        found.foreign = found.foreign or self._is_foreign(values)
        found.small = found.small or bool(np.any(kinds == Kind.SUB_BLOCK))
        promised = np.uint64(0x7F80 if self._geometry.wide else 0x20)
        unwritten = values[(kinds != Kind.SUB_BLOCK) & (values & promised != 0)]
        found.zeroed += len(unwritten)
        found.promised.extend(self._in_rows(np.sort(file_blocks(unwritten, self._geometry))))
        for index in self._bitmaps.free(table):
            found.free.append((base + index * size, size))

    def _in_rows(self, numbers: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
        """File blocks as (offset, length) ranges of the volume, those that follow one another as one."""
        import numpy as np

        size = self._geometry.file_block
        for row in np.split(numbers, np.flatnonzero(np.diff(numbers) != 1) + 1) if len(numbers) else ():
            yield int(row[0]) * size, len(row) * size

    def _pointers(self, found: Tally, value: int) -> NDArray[np.uint64] | None:
        import numpy as np

        try:
            address = decode(value, self._geometry)
            if address.kind not in _POINTERS:
                return None
            data = read(self._maps.resources, address, 0, self._geometry.pointer_block)
        except Damaged:
            return None
        for run in self._maps.resources.runs(address, 0, self._geometry.pointer_block):
            found.pointer_places.extend(places(self._maps.resources.space, run))
        return np.frombuffer(data, "<u8" if self._geometry.wide else "<u4").astype(np.uint64)

    def _is_foreign(self, values: NDArray[np.uint64]) -> bool:
        import numpy as np

        if not len(self._system):
            return False
        numbers = file_blocks(values, self._geometry)
        where = np.searchsorted(self._system, numbers)
        where[where == len(self._system)] = 0
        return bool(np.any(self._system[where] == numbers))


def places(space: Space, run: Run) -> Iterator[tuple[int, int]]:
    """Which (offset, length) ranges of the volume a run of a file is."""
    for segment in space.segments:
        if segment.source is not run.source:
            continue
        begin, end = max(run.at, segment.at), min(run.at + run.length, segment.at + segment.length)
        if begin < end:
            yield segment.offset + begin - segment.at, end - begin


@dataclass(frozen=True, slots=True)
class Doubts:
    """Ranges of the volume that can't be believed, each with its reason.

    `assumed` are those that nothing but an assumption makes a resource of: that speaks against what is read as a
    sub-block or a pointer block, and not against a file block.
    """

    kinds: tuple[tuple[Ranges, str], ...]
    assumed: Ranges

    def of(self, place: int, length: int, *, resource: bool) -> Iterator[tuple[int, int, str]]:
        """Those in a range of the volume, which is read as a `resource` or a block."""
        for ranges, why in (*self.kinds, *(((self.assumed, _ASSUMED),) if resource else ())):
            for offset, size in ranges.within(place, length):
                yield offset, size, why

    def __bool__(self) -> bool:
        return bool(self.assumed) or any(ranges for ranges, _ in self.kinds)


@dataclass(slots=True)
class Verdict:
    """What is missing or unproved of a file, and why."""

    missing: list[tuple[int, int]] = field(default_factory=list)
    reasons: dict[str, None] = field(default_factory=dict)

    def add(self, offset: int, length: int, why: str) -> None:
        """A range, with the reason."""
        self.missing.append((offset, length))
        self.reasons[why] = None


def judge(descriptor: Descriptor, content: Content, tally: Tally, doubts: Doubts, maps: Maps) -> Verdict:
    """Look at all of a file."""
    found = Verdict()
    if why := beyond(descriptor, maps.geometry, tally.last):
        found.add(0, descriptor.length, why)
    if descriptor.layout == Layout.RESIDENT:
        _judge_resident(found, descriptor, maps.geometry)
        return found
    if descriptor.small_for(maps.geometry):
        found.add(0, descriptor.length, f"its layout does not have blocks of {descriptor.block_size} bytes")
    _judge_counts(found, descriptor, tally)
    fewer = tally.blocks < descriptor.blocks
    for run in content.runs():
        if run.missing:
            found.add(run.offset, run.length, run.why)
        elif run.source is None:
            if fewer:
                found.add(run.offset, run.length, f"it maps {tally.blocks} blocks, and has {descriptor.blocks}")
        elif doubts:
            _judge_run(found, run, doubts, maps.resources.space, resource=tally.small)
    if descriptor.layout == Layout.SUB_BLOCKS and not descriptor.folder:
        _judge_small(found, content, maps.geometry.sub_block)
    for place, length in tally.pointer_places:
        for why in _doubt_of_pointers(descriptor, tally, doubts, place, length):
            found.add(0, content.size, f"{why}, and a pointer block lies there")
    return found


def _judge_counts(found: Verdict, descriptor: Descriptor, tally: Tally) -> None:
    """What the FD counts against what the block map has, and the map against the volume's bitmaps."""
    size = descriptor.length
    if tally.foreign:
        found.add(0, size, "its blocks are the volume's own")
    if tally.blocks > descriptor.blocks:
        found.add(0, size, f"it maps {tally.blocks} blocks, and has {descriptor.blocks}")
    if tally.freed:
        found.add(0, size, "a pointer block of its is free")
    for offset, length in tally.free:
        if offset < size:
            found.add(offset, min(length, size - offset), "its blocks there are free")
    if tally.zeroed != descriptor.zeroed_blocks and not tally.lost:
        found.add(0, size, f"{tally.zeroed} of its blocks were never written, and should be {descriptor.zeroed_blocks}")


def _doubt_of_pointers(descriptor: Descriptor, tally: Tally, doubts: Doubts, place: int, length: int) -> Iterator[str]:
    """One that maps as many blocks as there are has lost none to zeros, and is the file's own if they are many."""
    if tally.blocks != descriptor.blocks:
        yield from (why for _, _, why in doubts.of(place, length, resource=True))
    elif descriptor.blocks < _MANY and any(doubts.assumed.within(place, length)):
        yield _ASSUMED


def _judge_run(found: Verdict, run: Run, doubts: Doubts, space: Space, *, resource: bool) -> None:
    for place, length in places(space, run):
        for offset, part, why in doubts.of(place, length, resource=resource):
            found.add(run.offset + offset - place, part, why)


def _judge_resident(found: Verdict, descriptor: Descriptor, geometry: Geometry) -> None:
    data = descriptor.resident(geometry)
    if descriptor.length > len(data):
        found.add(0, descriptor.length, "it is longer than a file descriptor")
        return
    for offset in range(0, descriptor.length, _SECTOR):
        end = min(descriptor.length, offset + _SECTOR)
        if not any(data[offset:end]):
            found.add(offset, end - offset, "a sector of its file descriptor is zeros")


def _judge_small(found: Verdict, content: Content, block: int) -> None:
    """Nobody keeps a small file of zeros: a sub-block of zeros is more likely a lost one."""
    for run in content.runs():
        if run.source is None:
            continue
        for offset in range(run.offset, run.offset + run.length, block):
            end = min(run.offset + run.length, offset + block)
            if not any(run.source.read(run.at + offset - run.offset, end - offset)):
                found.add(offset, end - offset, "its sub-block holds nothing but zeros")
