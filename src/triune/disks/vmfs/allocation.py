"""What resource files say of their items: which are in use, and of VMFS6's file blocks, whose they are.

Reading needs none of it. It speaks against an address that leads to an item which nobody uses, or to a block which is
another file's; a cluster header that is damaged says nothing.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

from triune.disks.content import Content, read
from triune.disks.vmfs.address import NAMES, Address, Kind
from triune.disks.vmfs.geometry import Geometry
from triune.disks.vmfs.lock import LockType
from triune.disks.vmfs.resource import MOST_OWNERS, ResourceHeader, parse_cluster
from triune.domain.errors import TriuneError

_CACHED = 1024
_LOCKS = {
    Kind.FILE_BLOCK: LockType.FILE_BLOCKS,
    Kind.SUB_BLOCK: LockType.SUB_BLOCKS,
    Kind.POINTER_BLOCK: LockType.POINTER_BLOCKS,
    Kind.POINTER_BLOCK2: LockType.POINTER_BLOCKS2,
}


@dataclass(frozen=True, slots=True)
class _Known:
    """Bit n of `used` is item n of the cluster; `owners` is None where the table may not name all."""

    used: int
    owners: frozenset[int] | None


class Allocation:
    """Looks up items of one kind. `header` is that of the items themselves (of VMFS6's file blocks, the child's)."""

    def __init__(self, kind: Kind, header: ResourceHeader, content: Content, geometry: Geometry) -> None:
        self._kind, self._header, self._content, self._geometry = kind, header, content, geometry
        self._clusters: OrderedDict[int, _Known | None] = OrderedDict()
        self._lock = threading.Lock()

    def doubt(self, owner: int, address: Address) -> str:
        """Why an item that the FD at address `owner` claims is not believed, or nothing. Not for file blocks."""
        return self._doubt(self._cluster(address.cluster), owner, address.item, 1)

    def doubts(self, owner: int, first: int, count: int) -> Iterator[tuple[int, str]]:
        """`count` file blocks from number `first` on that the FD at address `owner` claims, as (count, why) in order;
        `why` is empty where nothing speaks against them."""
        per_cluster, end = self._header.per_cluster, first + count
        while first < end:
            number, item = divmod(first, per_cluster)
            stop = min(end, (number + 1) * per_cluster)
            yield stop - first, self._doubt(self._cluster(number), owner, item, stop - first)
            first = stop

    def _doubt(self, known: _Known | None, owner: int, item: int, count: int) -> str:
        if known is None:
            return ""
        wanted = ((1 << count) - 1) << item
        if known.used & wanted != wanted:
            return f"its map leads to a {NAMES[self._kind]} that is free"
        if known.owners is not None and owner not in known.owners:
            return "its map leads to another file's block"
        return ""

    def _cluster(self, number: int) -> _Known | None:
        with self._lock:
            if number in self._clusters:
                self._clusters.move_to_end(number)
                return self._clusters[number]
        known = self._read(number)
        with self._lock:
            self._clusters[number] = known
            if len(self._clusters) > _CACHED:
                self._clusters.popitem(last=False)
        return known

    def _read(self, number: int) -> _Known | None:
        try:
            data = read(self._content, self._header.header_offset(number), self._geometry.header_size)
            cluster = parse_cluster(data, self._geometry)
        except TriuneError:
            return None
        # A header that contradicts itself proves nothing.
        if cluster.number != number or cluster.lock.type != _LOCKS[self._kind]:
            return None
        if cluster.total - cluster.free != len(cluster.used):
            return None
        all_named = self._kind == Kind.FILE_BLOCK and self._geometry.wide and len(cluster.owners) < MOST_OWNERS
        owners = frozenset(address for address, _ in cluster.owners) if all_named else None
        return _Known(sum(1 << item for item in cluster.used), owners)
