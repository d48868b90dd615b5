"""Where a volume was hit: zeros or garbage where a structure has to be, and the zeros around it."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

from triune.disks.content import Content
from triune.disks.source import Source, Unreadable
from triune.disks.vmfs.address import Kind
from triune.disks.vmfs.blocks import FileContent
from triune.disks.vmfs.damaged import Damaged
from triune.disks.vmfs.geometry import HEARTBEATS, SUPERBLOCK
from triune.services.rescue.generations import Generation, parsed
from triune.services.rescue.ranges import Ranges
from triune.services.rescue.rebuild_checks import places
from triune.services.rescue.rebuild_maps import Maps

_STEP = 64 << 10
_FARTHEST = 64 << 20
_MOST_READ = 1 << 30
_MOST_ZONES = 1024
_MOST_CLUSTERS = 1 << 16
_KINDS = {
    Kind.POINTER_BLOCK2: "pb2",
    Kind.POINTER_BLOCK: "pb",
    Kind.SUB_BLOCK: "sb",
    Kind.DESCRIPTOR: "fdc",
    Kind.JOURNAL_BLOCK: "jb",
}


def zones(generation: Generation, maps: Maps, folders: Iterable[int]) -> Ranges:
    """The (offset, length) ranges of the volume around its lost structures, and beside and between them where all is
    zeros. `folders` are the addresses of those whose listing is not whole."""
    found: list[tuple[int, int]] = []
    for count, place in enumerate(itertools.chain(_lost(generation, maps), _lost_folders(generation, maps, folders))):
        if count >= _MOST_ZONES:
            break
        if not any(offset <= place < offset + length for offset, length in found):
            found.append(_around(generation, maps, place))
    zeros = _Zeros(generation, _MOST_READ)
    ranges = list(Ranges(_spread(generation, zeros, maps.geometry.file_block, zone) for zone in Ranges(found)))
    between: list[tuple[int, int]] = []
    for (offset, length), (following, _) in itertools.pairwise(ranges):
        gap = following - offset - length
        if gap <= _FARTHEST and zeros.all(offset + length, gap):
            between.append((offset + length, gap))
    return Ranges([*ranges, *between])


class _Zeros:
    """Tells where a volume is all zeros; after so many bytes read, nothing is zeros any more."""

    def __init__(self, generation: Generation, budget: int) -> None:
        self._generation, self._budget = generation, budget

    def all(self, offset: int, length: int) -> bool:
        """Whether a range is, and is there. What the source's file system knows for a hole isn't read."""
        for run in self._generation.space.pieces(offset, length):
            if run.source is None:
                return False
            ranges = getattr(run.source, "data", None)
            data = ranges(run.at, run.at + run.length) if ranges is not None else [(run.at, run.length)]
            for at, size in data:
                if not self._read(run.source, at, size):
                    return False
        return True

    def _read(self, source: Source, at: int, length: int) -> bool:
        self._budget -= length
        try:
            return self._budget > 0 and not any(
                any(source.read(at + step, min(_STEP, length - step))) for step in range(0, length, _STEP)
            )
        except Unreadable:
            return False


def _spread(generation: Generation, zeros: _Zeros, block: int, zone: tuple[int, int]) -> tuple[int, int]:
    """A zone with the blocks beside it that are all zeros, for they were hit as well."""
    begin, end = zone[0], zone[0] + zone[1]
    if not zeros.all(begin, min(block, end - begin)):
        return zone  # garbage: nothing tells how far it goes
    first = max(0, begin - _FARTHEST)
    while begin % block == 0 and begin - block >= first and zeros.all(begin - block, block):
        begin -= block
    last = min(generation.space.size, end + _FARTHEST)
    while end % block == 0 and end + block <= last and zeros.all(end, block):
        end += block
    return begin, end - begin


def _lost_folders(generation: Generation, maps: Maps, folders: Iterable[int]) -> Iterator[int]:
    """Where directories lay of which zeros are left."""
    for address in folders:
        node = generation.nodes.get(address)
        if node is None:
            continue
        loaded = parsed(generation.read(node.place, maps.geometry.descriptor_size), maps.geometry)
        if loaded is None:
            continue
        for run in itertools.islice(FileContent(loaded, maps.resources).runs(), _MOST_ZONES):
            for place, _ in places(generation.space, run) if run.source is not None else ():
                if not any(generation.read(place, 512)):
                    yield place


def _lost(generation: Generation, maps: Maps) -> Iterator[int]:
    """Volume offsets where a structure has to be, and is not."""
    if generation.superblock is None:
        yield SUPERBLOCK
    slots = set(generation.places("heartbeat")) | set(generation.places("heartbeat-free"))
    if slots:
        count = 1024 if generation.wide else 2048
        yield from (
            place
            for place in range(
                HEARTBEATS, HEARTBEATS + count * maps.geometry.heartbeat_size, maps.geometry.heartbeat_size
            )
            if place not in slots
        )
    else:
        yield HEARTBEATS
    for kind, name in _KINDS.items():
        yield from _lost_headers(generation, maps, kind, name)
    yield from _lost_descriptors(generation, maps)


def _lost_headers(generation: Generation, maps: Maps, kind: Kind, name: str) -> Iterator[int]:
    file = maps.files.get(kind)
    if file is None:
        return
    headers = generation.clusters.get(name, {})
    count = min(-(-file.header.count // max(1, file.header.per_cluster)), _MOST_CLUSTERS)
    for number in range(count):
        if number not in headers:
            offset = file.header.header_offset(number)
            place = _placed(file.content, offset, generation)
            if place is not None:
                yield place


def _lost_descriptors(generation: Generation, maps: Maps) -> Iterator[int]:
    """FDs that are in use by their bitmap, and are not there."""
    file = maps.files.get(Kind.DESCRIPTOR)
    if file is None:
        return
    for number, header in generation.clusters.get("fdc", {}).items():
        for item in (item for item in range(header.total) if header.has(item)):
            if (number & 0xFFFF) << 6 | item << 22 | Kind.DESCRIPTOR in generation.nodes:
                continue
            try:
                place = _placed(file.content, file.header.offset(number, item), generation)
            except Damaged:
                continue
            if place is not None:
                yield place


def _placed(content: Content, offset: int, generation: Generation) -> int | None:
    run = next(content.runs(offset, offset + 512), None)
    if run is None or run.source is None:
        return None
    return next((place for place, _ in places(generation.space, run)), None)


def _around(generation: Generation, maps: Maps, place: int) -> tuple[int, int]:
    """The zeros around a place in its file block; around garbage, all of the block."""
    size = maps.geometry.file_block
    start = place // size * size
    if any(generation.read(place, 512)):
        return start, size
    before, after = generation.read(start, place - start), generation.read(place, start + size - place)
    begin = start + len(before.rstrip(b"\0"))
    return begin, place + len(after) - len(after.lstrip(b"\0")) - begin
