"""Where the resources of a damaged volume are: from the FDs of its resource files, or from what lies in them.

A cluster's header names its own number and its own place, so it anchors a file block of its resource file on the
volume. What lies between two anchors that are as far apart on the volume as in the file is where it should be; what
lies behind one that is not is assumed to follow it, and is said to be assumed.
"""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from triune.disks.content import Content, Run
from triune.disks.vmfs import resource
from triune.disks.vmfs.address import (
    DESCRIPTORS,
    JOURNAL,
    POINTER_BLOCKS,
    POINTER_BLOCKS2,
    SUB_BLOCKS,
    Kind,
    decode,
)
from triune.disks.vmfs.blocks import FileContent
from triune.disks.vmfs.damaged import Damaged
from triune.disks.vmfs.descriptor import Layout
from triune.disks.vmfs.geometry import Geometry
from triune.disks.vmfs.resolver import ResourceFile, Resources
from triune.disks.vmfs.resource import ResourceHeader
from triune.disks.vmfs.space import Space
from triune.services.rescue.generations import Generation, parsed
from triune.services.rescue.ranges import Ranges
from triune.services.rescue.rebuild_geometry import geometry_of, in_row

_FILES = (
    (Kind.POINTER_BLOCK2, "pb2", POINTER_BLOCKS2),
    (Kind.POINTER_BLOCK, "pb", POINTER_BLOCKS),
    (Kind.SUB_BLOCK, "sb", SUB_BLOCKS),
    (Kind.JOURNAL_BLOCK, "jb", JOURNAL),
    (Kind.DESCRIPTOR, "fdc", DESCRIPTORS),
)
_NAMES = {"pb2": ".pb2.sf", "pb": ".pbc.sf", "sb": ".sbc.sf", "jb": ".jbc.sf", "fdc": ".fdc.sf"}
_GROUP_OFFSET = 0x10000
_GROUPS_WIDE = {"jb": 4}
_MOST_BLOCKS = 1 << 20
_MOST_LOOKED = 4096  # resources


@dataclass(frozen=True, slots=True)
class Stretch:
    """`count` file blocks from `first` on of a resource file are those from `block` on of the volume."""

    first: int
    count: int
    block: int
    proved: bool


class Stretched:
    """A resource file's content by what lies in it: `Content` of `disks.content`.

    With `known`, that content comes first, and the stretches fill what it lacks.
    """

    def __init__(self, space: Space, size: int, block: int, stretches: list[Stretch], known: Content | None) -> None:
        self._space, self._size, self._block, self._known = space, size, block, known
        self._stretches = stretches
        self._firsts = [stretch.first for stretch in stretches]

    @property
    def size(self) -> int:
        """In bytes."""
        return self._size

    def runs(self, start: int = 0, end: int | None = None) -> Iterator[Run]:
        """Where the bytes [start, end) are. A resource file has no holes: what looks like one is missing."""
        end = self._size if end is None else min(end, self._size)
        if self._known is None:
            yield from self._by_stretches(start, end)
            return
        for run in self._known.runs(start, min(end, self._known.size)):
            if run.source is None:
                yield from self._by_stretches(run.offset, run.offset + run.length)
            else:
                yield run
        if end > self._known.size:
            yield from self._by_stretches(max(start, self._known.size), end)

    def _by_stretches(self, start: int, end: int) -> Iterator[Run]:
        while start < end:
            number = start // self._block
            index = bisect_right(self._firsts, number) - 1
            stretch = self._stretches[index] if index >= 0 else None
            if stretch is not None and number < stretch.first + stretch.count:
                stop = min(end, (stretch.first + stretch.count) * self._block)
                place = (stretch.block - stretch.first) * self._block + start
                for run in self._space.pieces(place, stop - start):
                    yield replace(run, offset=run.offset - place + start)
            else:
                following = self._firsts[index + 1] if index + 1 < len(self._firsts) else end // self._block + 1
                stop = min(end, following * self._block)
                yield Run(start, stop - start, why="nothing tells where that part of a resource file is")
            start = stop


@dataclass
class Maps:
    """What reading needs of a damaged volume.

    `assumed` are (offset, length) ranges of the volume that are used for what they are by assumption alone.
    `own` are the kinds whose files were read by way of their own FDs. `damages` are sentences.
    """

    geometry: Geometry
    resources: Resources
    files: dict[Kind, ResourceFile]
    own: set[Kind] = field(default_factory=set)
    assumed: list[tuple[int, int]] = field(default_factory=list)
    damages: list[str] = field(default_factory=list)


def maps_of(generation: Generation) -> Maps:
    """The maps of a volume."""
    geometry = geometry_of(generation)
    files: dict[Kind, ResourceFile] = {}
    maps = Maps(geometry, Resources(geometry, generation.space, files), files)
    taken = _taken(generation, geometry)
    for kind, name, address in _FILES:
        found = _File(generation, maps, kind, name, address, taken).found()
        if found is not None:
            files[kind] = found
    return maps


def _taken(generation: Generation, geometry: Geometry) -> list[int]:
    """Blocks that are known to be something's begin: nothing else stretches over them."""
    blocks = {header.place // geometry.file_block for kind in generation.clusters.values() for header in kind.values()}
    for node in generation.nodes.values():
        if node.descriptor.layout == Layout.BLOCKS and node.descriptor.blocks:
            loaded = parsed(generation.read(node.place, geometry.descriptor_size), geometry)
            if loaded is not None:
                values = loaded.addresses(geometry)
                blocks.update(number for value in values if (number := _file_block(value, geometry)) is not None)
    return sorted(blocks)


def _file_block(value: int, geometry: Geometry) -> int | None:
    if value & 7 != Kind.FILE_BLOCK:
        return None
    if geometry.wide:
        return (value >> 15 & 0x7FFFFFFF) * geometry.small_per_cluster + (value >> 51 & 0x1FFF)
    return value >> 6 & 0x3FFFFFF


class _File:
    """One resource file."""

    def __init__(
        self, generation: Generation, maps: Maps, kind: Kind, name: str, address: int, taken: list[int]
    ) -> None:
        self._generation, self._maps, self._kind, self._name = generation, maps, kind, name
        known = generation.superblock
        if kind == Kind.POINTER_BLOCK2 and known is not None and not generation.wide and known.pb2[1]:
            address = known.pb2[1]
        self._address, self._taken = address, taken
        self._headers = generation.clusters.get(name, {})
        self._block = maps.geometry.file_block
        self._begin: tuple[int, ResourceHeader] | None = None

    def found(self) -> ResourceFile | None:
        known = self._known()
        header = self._header(known)
        if header is None:
            return None
        size = max(known.size if known is not None else 0, _end(header))
        if known is not None and self._whole(known, header):
            self._maps.own.add(self._kind)
            return ResourceFile(header, known)
        self._maps.damages.append(
            f"{_NAMES[self._name]} has lost its block list"
            if known is None
            else f"{_NAMES[self._name]} has a damaged block list"
        )
        stretches = self._stretches(header, known)
        if stretches and self._fits(stretches[-1], header):
            stretches[-1] = replace(stretches[-1], proved=True)
        owned = self._owned(stretches)
        for offset, length in self._assumed(stretches, known, size):
            self._maps.assumed.extend(self._disowned(offset, length, owned))
        return ResourceFile(header, Stretched(self._generation.space, size, self._block, stretches, known))

    def _assumed(self, stretches: list[Stretch], known: Content | None, size: int) -> Iterator[tuple[int, int]]:
        """The parts of the volume that stand for parts of the file by assumption, where its block list has none."""
        gaps = Ranges([(0, size)])
        if known is not None:
            lost = [(run.offset, run.length) for run in known.runs() if run.source is None]
            gaps = Ranges([*lost, (known.size, size - known.size)])
        for one in stretches:
            if not one.proved:
                move = (one.block - one.first) * self._block
                for offset, length in gaps.within(one.first * self._block, one.count * self._block):
                    yield offset + move, length

    def _known(self) -> FileContent | None:
        """Its content by its own FD."""
        node = self._generation.nodes.get(self._address)
        if node is None or self._generation.former:
            return None
        data = self._generation.read(node.place, self._maps.geometry.descriptor_size)
        loaded = parsed(data, self._maps.geometry)
        if loaded is None or loaded.layout == Layout.RESIDENT or not loaded.length:
            return None
        return FileContent(loaded, self._maps.resources)

    def _header(self, known: Content | None) -> ResourceHeader | None:
        """From the file's head, or from the clusters."""
        geometry = self._maps.geometry
        if known is not None:
            run = next(known.runs(0, 512), None)
            if run is not None and run.source is not None:
                found = self._parsed(run.source.read(run.at, 512))
                if found is not None:
                    return found
        if 0 in self._headers:
            found = self._parsed(self._generation.read(self._headers[0].place - _GROUP_OFFSET, 512))
            if found is not None:
                return found
        if self._headers:
            return self._deduced(geometry)
        self._begin = self._marked()
        return self._begin[1] if self._begin is not None else None

    def _marked(self) -> tuple[int, ResourceHeader] | None:
        """(place, header) of the only head of a resource file that can be this one's.

        VMFS6 takes its pointer blocks from `.sbc.sf`, and from `.pb2.sf`: a head that looks like `.pbc.sf`'s is that of
        sub-blocks, which are as large.
        """
        if self._generation.wide and self._kind == Kind.POINTER_BLOCK:
            return None
        others = {headers[0].place - _GROUP_OFFSET for headers in self._generation.clusters.values() if 0 in headers}
        fits = [
            (place, found)
            for place in self._generation.places("resource6" if self._generation.wide else "resource5")
            if place not in others and (found := self._parsed(self._generation.read(place, 512))) is not None
        ]
        return fits[0] if len(fits) == 1 else None

    def _parsed(self, data: bytes) -> ResourceHeader | None:
        try:
            found = resource.parse(data, self._maps.geometry)
        except Damaged:
            return None
        totals = {header.total for header in self._headers.values()}
        fits = not totals or found.per_cluster in totals
        return found if fits and found.size == self._size() and found.per_cluster else None

    def _size(self) -> int:
        geometry = self._maps.geometry
        return {
            Kind.SUB_BLOCK: geometry.sub_block,
            Kind.DESCRIPTOR: geometry.descriptor_size,
            Kind.JOURNAL_BLOCK: 2 << 20,
        }.get(self._kind, geometry.pointer_block)

    def _deduced(self, geometry: Geometry) -> ResourceHeader:
        per_cluster = Counter(header.total for header in self._headers.values()).most_common(1)[0][0]
        per_group = self._per_group(geometry)
        size = self._size()
        group = per_group * (geometry.header_size + per_cluster * size)
        groups = max(self._headers) // per_group + 1
        return ResourceHeader(
            per_cluster=per_cluster,
            clusters_per_group=per_group,
            group_offset=_GROUP_OFFSET,
            size=size,
            group_size=group,
            count=(max(self._headers) + 1) * per_cluster,
            groups=groups,
            header_size=geometry.header_size,
        )

    def _per_group(self, geometry: Geometry) -> int:
        """From where a row of headers ends and goes on elsewhere; else as it is on most volumes."""
        usual = _GROUPS_WIDE.get(self._name, 8) if geometry.wide else 32 if geometry.major < 10 else 64
        for first in sorted(self._headers):
            count = in_row(self._headers, geometry.header_size, first)
            if count > 1 and first + count in self._headers and (first == 0 or first % count == 0):
                return count
        return usual

    def _whole(self, known: FileContent, header: ResourceHeader) -> bool:
        """Whether the headers of its clusters lie where its block list says."""
        right = wrong = 0
        for number, found in self._headers.items():
            run = next(known.runs(header.header_offset(number), header.header_offset(number) + 512), None)
            if run is None or run.source is None:
                wrong += 1
                continue
            expected = next(self._generation.space.pieces(found.place, 512))
            if (run.source, run.at) == (expected.source, expected.at):
                right += 1
            else:
                wrong += 1
        return wrong == 0 and all(run.source is not None for run in known.runs())

    def _stretches(self, header: ResourceHeader, known: Content | None) -> list[Stretch]:
        anchors = self._anchors(header)
        last = -(-_end(header) // self._block)
        numbers = sorted(anchors)
        found: list[Stretch] = []
        for index, number in enumerate(numbers):
            following = numbers[index + 1] if index + 1 < len(numbers) else None
            if following is not None and anchors[following] - anchors[number] == following - number:
                found.append(Stretch(number, following - number, anchors[number], proved=True))
                continue
            found.append(Stretch(number, 1, anchors[number], proved=True))
            end = following if following is not None else min(last, number + _MOST_BLOCKS)
            found.extend(self._between(number + 1, end, anchors[number] + 1, anchors.get(following or -1)))
        return found

    def _between(self, first: int, end: int, block: int, back: int | None) -> Iterator[Stretch]:
        """What may lie between two anchors: forward from one up to what is another's, then back from the other."""
        count = end - first
        index = bisect_right(self._taken, block - 1)
        room = self._taken[index] - block if index < len(self._taken) else count
        room = min(room, self._generation.space.size // self._block - block)
        ahead = max(0, min(count, room))
        if ahead:
            yield Stretch(first, ahead, block, proved=False)
        if back is not None and ahead < count <= back + ahead:
            yield Stretch(first + ahead, count - ahead, back - (count - ahead), proved=False)

    def _anchors(self, header: ResourceHeader) -> dict[int, int]:
        """Volume blocks by file blocks, as most of what lies in them says."""
        votes: dict[int, Counter[int]] = {}
        for offset, place in self._placed(header):
            if offset % self._block == place % self._block:
                votes.setdefault(offset // self._block, Counter())[place // self._block] += 1
        return {number: blocks.most_common(1)[0][0] for number, blocks in votes.items()}

    def _placed(self, header: ResourceHeader) -> Iterator[tuple[int, int]]:
        """(offset in the file, place on the volume) of what names its place."""
        if self._begin is not None:
            yield 0, self._begin[0]
        for number, found in self._headers.items():
            yield header.header_offset(number), found.place
        if self._kind == Kind.DESCRIPTOR:
            for address, node in self._generation.nodes.items():
                try:
                    yield header.offset(address >> 6 & 0xFFFF, address >> 22 & 0x3FF), node.place
                except Damaged:
                    continue
        if self._kind == Kind.SUB_BLOCK:
            yield from self._folders(header)

    def _folders(self, header: ResourceHeader) -> Iterator[tuple[int, int]]:
        """Directories name their own FD, and the FD their sub-block."""
        geometry = self._maps.geometry
        for place, address in folder_marks(self._generation):
            node = self._generation.nodes.get(address)
            if node is None or node.descriptor.layout != Layout.SUB_BLOCKS:
                continue
            loaded = parsed(self._generation.read(node.place, geometry.descriptor_size), geometry)
            value = loaded.addresses(geometry)[0] if loaded is not None else 0
            if value & 7 != Kind.SUB_BLOCK:
                continue
            try:
                where = decode(value, geometry)
                yield header.offset(where.cluster, where.item), place
            except Damaged:
                continue

    def _fits(self, stretch: Stretch, header: ResourceHeader) -> bool:
        """Whether the end of the file fills all the room up to another resource file, and what is in use there is so.

        Both together prove it: elsewhere, some of what is in use would be zeros.
        """
        if stretch.proved or stretch.first + stretch.count != -(-_end(header) // self._block):
            return False
        others = [headers[0].place for headers in self._generation.clusters.values() if 0 in headers]
        if stretch.block + stretch.count not in {place // self._block for place in others}:
            return False
        move = (stretch.block - stretch.first) * self._block
        looked = 0
        for offset in itertools.islice(self._in_use(header, stretch), _MOST_LOOKED):
            if not any(self._generation.read(offset + move, header.size)):
                return False
            looked += 1
        return looked > 0

    def _in_use(self, header: ResourceHeader, stretch: Stretch) -> Iterator[int]:
        """The offsets in the file of a stretch's resources that their clusters' headers call used."""
        begin, end = stretch.first * self._block, (stretch.first + stretch.count) * self._block
        for number, found in self._headers.items():
            for item in (item for item in range(min(found.total, header.per_cluster)) if found.has(item)):
                try:
                    offset = header.offset(number, item)
                except Damaged:
                    break
                if begin <= offset and offset + header.size <= end:
                    yield offset

    def _owned(self, stretches: list[Stretch]) -> set[int]:
        """The clusters of file blocks of which VMFS6's table of owners counts as many for the file as are taken."""
        headers = self._generation.clusters.get("fb", {})
        if not self._generation.wide or not headers:
            return set()
        per_cluster = self._maps.geometry.small_per_cluster
        mine: Counter[int] = Counter()
        for stretch in stretches:
            number, left = stretch.block, stretch.count
            while left > 0:
                part = min(left, per_cluster - number % per_cluster)
                mine[number // per_cluster] += part
                number, left = number + part, left - part
        return {
            number
            for number, header in headers.items()
            if mine[number] == sum(count for address, count in header.owners if address == self._address)
        }

    def _disowned(self, offset: int, length: int, owned: set[int]) -> Iterator[tuple[int, int]]:
        """The parts of a range of the volume that lie in other clusters than these."""
        size = self._maps.geometry.small_per_cluster * self._block
        while length > 0:
            part = min(length, size - offset % size)
            if not self._generation.wide or offset // size not in owned:
                yield offset, part
            offset, length = offset + part, length - part


def _end(header: ResourceHeader) -> int:
    """Where the last resource of a file ends."""
    clusters = min(-(-header.count // max(1, header.per_cluster)), header.groups * header.clusters_per_group)
    if clusters <= 0:
        return header.group_offset
    try:
        return header.offset(clusters - 1, header.per_cluster - 1) + header.size
    except Damaged:
        return header.group_offset + header.groups * header.group_size


def folder_marks(generation: Generation) -> Iterator[tuple[int, int]]:
    """(place, address of its FD) of every directory's begin that is found."""
    if generation.wide:
        for place in generation.places("dir6"):
            data = generation.read(place + 0x3B8, 8)
            if len(data) == 8:
                yield place, int.from_bytes(data[4:], "little")
        return
    for place in generation.places("dir5"):
        data = generation.read(place, 8)
        if len(data) == 8:
            yield place, int.from_bytes(data[4:], "little")
