"""Pointer blocks that belong to no file any more: deleting a file leaves them as they are.

A pointer block does not say whose it is. It is told by what is in it: nothing but addresses of blocks of this volume,
each once, none of which a file of today has; or, on large files, of other such pointer blocks, in their order.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from triune.disks.content import Content, Lost, read
from triune.disks.source import Unreadable
from triune.disks.vmfs.address import Address, Kind, decode
from triune.disks.vmfs.damaged import Damaged
from triune.disks.vmfs.geometry import Geometry
from triune.disks.vmfs.resolver import ResourceFile
from triune.services.rescue.generations import Generation
from triune.services.rescue.ranges import Ranges
from triune.services.rescue.rebuild_bitmaps import file_blocks
from triune.services.rescue.rebuild_maps import Maps

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_KINDS = {Kind.POINTER_BLOCK: "pb", Kind.POINTER_BLOCK2: "pb2", Kind.SUB_BLOCK: "sb"}
_MOST_TABLES = 1 << 16
_MOST_CLUSTERS = 1 << 17
_WIDE_UNUSED = (0x1F << 46) | 0x58
_NARROW_UNUSED = 0x8


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """A pointer block at `address`. `numbers` are the file blocks it maps, by index, -1 for a hole."""

    address: Address
    numbers: NDArray[np.int64]

    @property
    def order(self) -> tuple[int, int, int]:
        """When it was allocated, as far as addresses are given out in order."""
        return self.address.kind, self.address.cluster, self.address.item

    def block(self, index: int) -> int:
        """The file block there; -1 for none."""
        return int(self.numbers[index]) if 0 <= index < len(self.numbers) else -1

    def row(self, index: int) -> tuple[int, int]:
        """(count, block): so many blocks one behind the other from an index on, or holes for -1."""
        import numpy as np

        first = int(self.numbers[index])
        rest = self.numbers[index:]
        expected = np.full(len(rest), -1) if first < 0 else first + np.arange(len(rest))
        other = np.flatnonzero(rest != expected)
        return (int(other[0]) if len(other) else len(rest)), first


@dataclass(frozen=True, slots=True)
class Upper:
    """A pointer block of pointer blocks: (index, address) of each."""

    address: Address
    below: tuple[tuple[int, Address], ...]


class Orphans:
    """The pointer blocks of a volume that no file claims. `claimed` are ranges of the volume that files have."""

    def __init__(self, generation: Generation, maps: Maps, claimed: Ranges) -> None:
        self._generation, self._maps, self._claimed = generation, maps, claimed
        self._geometry = maps.geometry
        self._blocks = generation.space.size // maps.geometry.file_block
        self.tables: dict[Address, Table] = {}
        self.uppers: list[Upper] = []
        for kind, name in _KINDS.items():
            file = maps.files.get(kind)
            if file is not None and file.header.size == maps.geometry.pointer_block:
                self._search(kind, name, file)

    def _search(self, kind: Kind, name: str, file: ResourceFile) -> None:
        headers = self._generation.clusters.get(name, {})
        count = -(-file.header.count // max(1, file.header.per_cluster))
        for cluster in range(min(count, _MOST_CLUSTERS)):
            header = headers.get(cluster)
            if header is not None and header.bits.bit_count() == file.header.per_cluster:
                continue
            for item, data in self._items(cluster, file):
                if not (header is not None and header.has(item)) and len(self.tables) < _MOST_TABLES:
                    self._take(Address(kind, cluster, item), data)

    def _items(self, cluster: int, file: ResourceFile) -> Iterator[tuple[int, memoryview]]:
        """The resources of a cluster that hold anything."""
        import numpy as np

        size, per_cluster = file.header.size, file.header.per_cluster
        try:
            begin = file.header.offset(cluster, 0)
        except Damaged:
            return
        if not _may_hold(file.content, begin, size * per_cluster):
            return
        data = _bytes(file.content, begin, size * per_cluster)
        words = np.frombuffer(data, "<u8", count=len(data) // size * size // 8).reshape(-1, size // 8)
        for item in np.flatnonzero(words.any(axis=1)).tolist():
            yield item, memoryview(data)[item * size : (item + 1) * size]

    def _take(self, address: Address, data: memoryview) -> None:
        import numpy as np

        values = np.frombuffer(data, "<u8" if self._geometry.wide else "<u4").astype(np.uint64)
        there = values[values != 0]
        kinds = set(np.unique(there & np.uint64(7)).tolist())
        if kinds == {int(Kind.FILE_BLOCK)}:
            numbers = self._numbers(values, there)
            if numbers is not None:
                self.tables[address] = Table(address, numbers)
        elif len(kinds) == 1 and kinds <= {int(kind) for kind in _KINDS}:
            below = []
            for index in np.flatnonzero(values).tolist():
                try:
                    below.append((index, decode(int(values[index]), self._geometry)))
                except Damaged:
                    return
            self.uppers.append(Upper(address, tuple(below)))

    def _numbers(self, values: NDArray[np.uint64], there: NDArray[np.uint64]) -> NDArray[np.int64] | None:
        import numpy as np

        unused = _WIDE_UNUSED if self._geometry.wide else _NARROW_UNUSED
        if np.any(there & np.uint64(unused)):
            return None
        blocks = file_blocks(there, self._geometry)
        if int(blocks.max()) >= self._blocks or len(np.unique(blocks)) != len(blocks):
            return None
        if self._claims(blocks):
            return None
        numbers = np.full(len(values), -1, np.int64)
        zeroed = np.uint64(0x7F80 if self._geometry.wide else 0x20)
        numbers[values != 0] = np.where(there & zeroed, -1, blocks)
        return numbers

    def _claims(self, blocks: NDArray[np.int64]) -> bool:
        """Whether a file of today has one of them."""
        size = self._geometry.file_block
        return any(next(self._claimed.within(block * size, size), None) is not None for block in blocks.tolist())


def _may_hold(content: Content, offset: int, length: int) -> bool:
    """Whether the file system that the source is on knows of any data in a range."""
    for run in content.runs(offset, offset + length):
        data = getattr(run.source, "data", None)
        if run.source is not None and (data is None or next(data(run.at, run.at + run.length), None) is not None):
            return True
    return False


def _bytes(content: Content, offset: int, length: int) -> bytes:
    """What is there of a range, zeros for the rest."""
    try:
        return read(content, offset, length)
    except (Lost, Unreadable):
        return bytes(length)


def span(geometry: Geometry) -> int:
    """How many bytes of a file one pointer block maps."""
    return geometry.pointers * geometry.file_block
