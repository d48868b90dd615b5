"""Where a volume was hit: zeros or garbage where a structure has to be, and the zeros around it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from triune.disks.content import Content
from triune.disks.vmfs.address import Kind
from triune.disks.vmfs.damaged import Damaged
from triune.disks.vmfs.geometry import HEARTBEATS, SUPERBLOCK
from triune.services.rescue.generations import Generation
from triune.services.rescue.ranges import Ranges
from triune.services.rescue.rebuild_checks import places
from triune.services.rescue.rebuild_maps import Maps

_STEP = 64 << 10
_FARTHEST = 64 << 20
_MOST_BETWEEN = 2 << 30
_MOST_ZONES = 1024
_MOST_CLUSTERS = 1 << 16
_KINDS = {
    Kind.POINTER_BLOCK2: "pb2",
    Kind.POINTER_BLOCK: "pb",
    Kind.SUB_BLOCK: "sb",
    Kind.DESCRIPTOR: "fdc",
    Kind.JOURNAL_BLOCK: "jb",
}


def zones(generation: Generation, maps: Maps) -> Ranges:
    """The (offset, length) ranges of the volume around its lost structures, and between them where all is zeros."""
    found: list[tuple[int, int]] = []
    for count, place in enumerate(_lost(generation, maps)):
        if count >= _MOST_ZONES:
            break
        if not any(offset <= place < offset + length for offset, length in found):
            found.append(_around(generation, maps, place))
    ranges = list(Ranges(found))
    between: list[tuple[int, int]] = []
    budget = _MOST_BETWEEN
    for (offset, length), (following, _) in itertools.pairwise(ranges):
        gap = following - offset - length
        if gap <= min(_FARTHEST, budget):
            budget -= gap
            if _is_zeros(generation, offset + length, gap):
                between.append((offset + length, gap))
    return Ranges([*ranges, *between])


def _is_zeros(generation: Generation, offset: int, length: int) -> bool:
    for at in range(offset, offset + length, _STEP):
        if any(generation.read(at, min(_STEP, offset + length - at))):
            return False
    return True


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
