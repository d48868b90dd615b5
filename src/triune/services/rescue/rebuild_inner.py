"""What looks like a volume and is none of its own: copies of structures, and a volume in a file of another one.

A guest's disk may hold a datastore, that of a nested ESXi. Its blocks lie where the outer volume put them: read in
the order of the medium they would be wrong bytes. It is found by extracting the disk, and scanning that.
"""

from __future__ import annotations

from collections.abc import Sequence

from triune.disks.partitions import read_partitions
from triune.disks.source import Source
from triune.disks.vmfs.geometry import SUPERBLOCK
from triune.services.rescue.generations import DATA_OFFSET, Generation
from triune.services.rescue.rebuild_geometry import geometry_of

_NEAREST = 64 << 20  # a volume that was formatted over another one begins nearer to it than that
_FEW = 4  # copies are this many times fewer than what they are copies of


def outermost(found: Sequence[Generation]) -> list[Generation]:
    """The volumes without copies and without those inside another; where that one may be none, both stay."""
    volumes = [one for one in found if not any(_echoes(one, other) for other in found if other is not one)]
    left = []
    for one in volumes:
        hosts = [other for other in volumes if other is not one and _holds(other, one)]
        if not hosts:
            left.append(one)
            continue
        one.inner = True
        if _told(one) and not any(_told(host) for host in hosts):
            left.append(one)
    return left


def _told(volume: Generation) -> bool:
    """Whether it has more than structures that may be copies."""
    return volume.superblock is not None or any(extent.segments for extent in volume.extents)


def _files(volume: Generation) -> set[tuple[int, int]]:
    return {(address, node.descriptor.generation) for address, node in volume.nodes.items()}


def _echoes(one: Generation, other: Generation) -> bool:
    """Whether all of a volume is known of another, whose few structures were copied elsewhere."""
    head, known = one.extents[0], other.extents[0]
    if _told(one) or one.wide != other.wide or head.source not in {extent.source for extent in other.extents}:
        return False
    few = _votes(one) * _FEW <= _votes(other) or head.base < 0 <= known.base
    return few and _files(one) <= _files(other)


def _votes(volume: Generation) -> int:
    return sum(extent.votes for extent in volume.extents)


def _holds(outer: Generation, one: Generation) -> bool:
    """Whether a volume begins far behind where another does, and where that one keeps files."""
    if outer.extents[0].source != one.extents[0].source or not outer.nodes:
        return False
    first, here = _first(outer), _first(one)
    if here < first + _NEAREST or (one.created and outer.time < one.created):
        return False
    source = outer.session.sources[outer.extents[0].source]
    return here < _end(outer) and not (_told(one) and _is_partition(source, one.extents[0].base))


def _first(volume: Generation) -> int:
    """Where on its source the first of its structures lies."""
    extent = volume.extents[0]
    places = [node.place for node in extent.nodes.values()]
    places += [header.place for headers in extent.clusters.values() for header in headers.values()]
    if extent.superblock is not None:
        places.append(SUPERBLOCK)
    return extent.base + min(places, default=0)


def _end(volume: Generation) -> int:
    """Where on its source a volume ends, by its LVM or by the blocks it counts; 0 where nothing tells."""
    extent = volume.extents[0]
    if extent.segments:
        return max(segment.at + segment.length for segment in extent.segments)
    blocks = sum(header.total for header in volume.clusters.get("fb", {}).values())
    return extent.base + blocks * geometry_of(volume).file_block if blocks else 0


def _is_partition(source: Source, base: int) -> bool:
    """Whether a volume with this base is that of a partition, with an LVM or without."""
    table = read_partitions(source)
    return table is not None and any(base in {part.start, part.start + DATA_OFFSET} for part in table.partitions)
