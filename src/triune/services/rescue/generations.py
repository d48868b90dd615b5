"""Which file systems there are, or were: by vote of the structures that name their own place.

The difference between where a structure lies on a source and where it says to lie on its volume is the same for all
of a volume: its base. A volume formatted over another may have the same base; the two are told apart by the version
their structures are of, and by time: a file system's own files are as old as itself, and what is older is not its own.
An extent that continues a volume has a base of its own, which tells where in the volume it belongs even without LVM.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from triune.disks.partitions import read_partitions
from triune.disks.source import Source, Unreadable
from triune.disks.vmfs import descriptor, lvm, resource, superblock
from triune.disks.vmfs.address import DESCRIPTORS, FILE_BLOCKS, POINTER_BLOCKS, SUB_BLOCKS
from triune.disks.vmfs.damaged import Damaged
from triune.disks.vmfs.descriptor import Descriptor
from triune.disks.vmfs.geometry import SUPERBLOCK, Geometry
from triune.disks.vmfs.resource import Cluster
from triune.disks.vmfs.space import Segment, Space
from triune.disks.vmfs.superblock import Superblock
from triune.services.rescue.marks import LOCKS
from triune.services.rescue.opening import USUAL_STARTS
from triune.services.rescue.ranges import Ranges
from triune.services.rescue.session import Mark, Session

CLUSTERS = ("fb", "sb", "pb", "fdc", "pb2", "jb", "lfb")
DATA_OFFSET = 0x1100000  # where on a device the first PE begins, on every volume seen
_FEWEST_VOTES = 3
_FEWEST_OLD = 2
_MOST_BASES = 64
_MOST_NODES = 1 << 20
_UNITS = (4096, 512, 8192, 16384, 32768, 65536)
_NARROW = Geometry(major=14)


@dataclass(frozen=True, slots=True)
class Node:
    """An FD at `place` of its volume. `used` tells what the FDC's bitmap says, None where that is lost.

    The descriptor is kept without its bytes: there may be many.
    """

    place: int
    descriptor: Descriptor
    used: bool | None = None

    @property
    def time(self) -> int:
        """When it was last changed."""
        return max(self.descriptor.changed, self.descriptor.modified)


@dataclass(frozen=True, slots=True)
class Header:
    """A cluster's header at `place` of its volume. `bits` has a 1 for each item in use, the first one lowest."""

    place: int
    number: int
    total: int
    bits: int
    owners: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, cluster: Cluster) -> Header:
        """From a cluster: sets of items take room, and volumes have many clusters."""
        bits = sum(1 << item for item in cluster.used)
        return cls(cluster.lock.place, cluster.number, cluster.total, bits, cluster.owners)

    def has(self, item: int) -> bool:
        """Whether an item is in use."""
        return bool(self.bits >> item & 1)


@dataclass(slots=True)
class Extent:
    """What a source holds of a volume: `base` is where on the source the volume would begin, `devices` how many there
    are of such, by its LVM."""

    source: int
    base: int
    wide: bool
    unit: int
    nodes: dict[int, Node] = field(default_factory=dict)
    clusters: dict[str, dict[int, Header]] = field(default_factory=dict)
    superblock: Superblock | None = None
    segments: tuple[Segment, ...] = ()
    lvm_uuid: str = ""
    volume_size: int = 0
    devices: int = 0

    @property
    def votes(self) -> int:
        """How many structures stand for it."""
        return len(self.nodes) + sum(map(len, self.clusters.values()))


@dataclass(slots=True)
class Generation:
    """A file system that is or was. `created` in seconds since the epoch, 0 where nothing tells.

    `nodes` are the FDs by address; `former` says that another file system was made over it since, `inner` that it may
    lie in a file of another one.
    """

    session: Session
    extents: list[Extent]
    space: Space
    wide: bool
    unit: int
    superblock: Superblock | None
    created: int
    nodes: dict[int, Node]
    clusters: dict[str, dict[int, Header]]
    former: bool = False
    inner: bool = False
    later: list[Generation] = field(default_factory=list)

    @property
    def time(self) -> int:
        """When it was last known to be in use."""
        return max((node.time for node in self.nodes.values()), default=self.created)

    def places(self, kind: str) -> Iterator[int]:
        """Volume offsets of the marks of a kind."""
        for extent in self.extents:
            for mark in self.session.marks(extent.source, kind):
                place = mark.at - extent.base
                if place >= 0:
                    yield place

    def read(self, place: int, length: int) -> bytes:
        """Bytes of the volume; fewer where they are missing."""
        try:
            return self.space.read(place, length)
        except Unreadable:
            return b""


def found_by_base(session: Session) -> list[Generation]:
    """What has a base of its own on a session's sources, be it a volume or something that looks like one."""
    extents: list[Extent] = []
    for number in range(len(session.sources)):
        extents.extend(_Voting(session, number).extents())
    return [_joined(session, group) for group in _grouped(extents)]


def generations(live: Sequence[Generation]) -> list[Generation]:
    """All file systems that are or were, those that are first."""
    found: list[Generation] = []
    for generation in sorted(live, key=lambda one: one.superblock is None):
        found.append(generation)
        older = _older(generation)
        if older is not None:
            found.append(older)
    _order(found)
    return sorted(found, key=lambda one: one.former)


class _Voting:
    """The extents of one source."""

    def __init__(self, session: Session, number: int) -> None:
        self._session, self._number = session, number
        self._source: Source = session.sources[number]

    def extents(self) -> Iterator[Extent]:
        votes: Counter[int] = Counter()
        for kind in LOCKS.values():
            if kind != "unmap":
                votes.update(mark.at - mark.own for mark in self._session.marks(self._number, kind))
        supers = {mark.at - SUPERBLOCK: found for mark in self._marks("super") if (found := self._super(mark))}
        managed = dict(self._managed())
        bases = [base for base, count in votes.most_common(_MOST_BASES) if count >= _FEWEST_VOTES]
        for base in dict.fromkeys([*supers, *bases, *managed]):
            yield from self._of_base(base, supers.get(base), managed.get(base))

    def _of_base(self, base: int, found: Superblock | None, managed: Extent | None) -> Iterator[Extent]:
        kinds: dict[tuple[bool, int], Extent] = {}
        for node, unit in self._nodes(base):
            wide = bool(unit)
            extent = kinds.setdefault((wide, unit or 512), Extent(self._number, base, wide, unit or 512))
            old = extent.nodes.get(node.descriptor.address)
            if old is None or old.descriptor.lock.token < node.descriptor.lock.token:
                extent.nodes[node.descriptor.address] = node
        units = {unit for wide, unit in kinds if wide} or {4096}
        for kind in CLUSTERS:
            for header, unit in self._headers(base, kind, units):
                key = (bool(unit), unit or 512)
                extent = kinds.setdefault(key, Extent(self._number, base, *key))
                extent.clusters.setdefault(kind, {}).setdefault(header.number, header)
        if found is not None:
            key = (found.geometry.wide, found.geometry.unit)
            kinds.setdefault(key, Extent(self._number, base, *key)).superblock = found
        if managed is not None:
            if not kinds:
                kinds[managed.wide, managed.unit] = managed
            for extent in kinds.values():
                extent.segments, extent.lvm_uuid = managed.segments, managed.lvm_uuid
                extent.volume_size, extent.devices = managed.volume_size, managed.devices
        yield from kinds.values()

    def _nodes(self, base: int) -> Iterator[tuple[Node, int]]:
        """FDs with their unit, 0 for VMFS3 and 5."""
        for count, mark in enumerate(self._marks("fd")):
            if mark.at - mark.own != base:
                continue
            if count > _MOST_NODES:
                return
            for unit in (*_UNITS, 0):
                geometry = Geometry(major=24, alignment=unit) if unit else _NARROW
                found = parsed(self._read(mark.at, geometry.descriptor_size), geometry)
                if found is not None:
                    yield Node(mark.own, replace(found, raw=b"")), unit
                    break

    def _headers(self, base: int, kind: str, units: set[int]) -> Iterator[tuple[Header, int]]:
        for mark in self._marks(kind):
            if mark.at - mark.own != base:
                continue
            for unit in (*sorted(units), 0):
                geometry = Geometry(major=24, alignment=unit) if unit else _NARROW
                try:
                    cluster = resource.parse_cluster(self._read(mark.at, geometry.header_size), geometry)
                except Damaged:
                    continue
                yield Header.of(cluster), unit
                break

    def _super(self, mark: Mark) -> Superblock | None:
        try:
            return superblock.parse(self._read(mark.at, superblock.SIZE))
        except Damaged:
            return None

    def _managed(self) -> Iterator[tuple[int, Extent]]:
        """What surviving LVM headers say: the volume's segments on this source, by base."""
        for mark in self._marks("lvm"):
            start = mark.at - lvm.HEADER

            def read(offset: int, length: int, start: int = start) -> bytes:
                return self._read(start + offset, length)

            try:
                device = lvm.parse_device(read(lvm.HEADER, lvm.SIZE))
                share = lvm.parse_share(read(device.volume_table, 512))
                pieces = [piece for piece in lvm.extents(device, read) if piece.length]
            except Damaged:
                continue
            if not pieces or not self._fits(start, device.size):
                continue
            segments = tuple(self._segments(pieces, start))
            base = start + pieces[0].place - pieces[0].offset
            wide = device.major >= 6
            yield (
                base,
                Extent(
                    self._number,
                    base,
                    wide,
                    device.alignment if wide else 512,
                    segments=segments,
                    lvm_uuid=share.uuid,
                    volume_size=share.size,
                    devices=share.devices,
                ),
            )

    def _fits(self, start: int, size: int) -> bool:
        """Whether a device of that size may begin there: one that was cut off may where devices begin."""
        if start in {0, *USUAL_STARTS} or start + size <= self._source.size:
            return True
        table = read_partitions(self._source)
        return table is not None and any(part.start == start for part in table.partitions)

    def _segments(self, pieces: list[lvm.Extent], start: int) -> Iterator[Segment]:
        """PEs that follow one another on the device as on the volume, as one: there may be hundreds of thousands."""
        last: Segment | None = None
        for piece in sorted(pieces, key=lambda one: one.offset):
            at = start + piece.place
            if last is not None and (piece.offset, at) == (last.offset + last.length, last.at + last.length):
                last = replace(last, length=last.length + piece.length)
                continue
            if last is not None:
                yield last
            last = Segment(piece.offset, piece.length, self._source, at)
        if last is not None:
            yield last

    def _marks(self, kind: str) -> Iterator[Mark]:
        return self._session.marks(self._number, kind)

    def _read(self, at: int, length: int) -> bytes:
        try:
            return self._source.read(at, length)
        except Unreadable:
            return b""


def parsed(data: bytes, geometry: Geometry) -> Descriptor | None:
    """An FD, or None where there is none."""
    try:
        return descriptor.parse(data, geometry)
    except Damaged:
        return None


def _grouped(extents: list[Extent]) -> list[list[Extent]]:
    """Extents by volume: each first one, with those that continue it."""
    first = [extent for extent in extents if extent.base >= 0 and extent.votes + bool(extent.superblock)]
    groups = [[extent] for extent in first]
    orphans: list[Extent] = []
    for extent in sorted(extents, key=_weight, reverse=True):
        if extent.base >= 0:
            continue
        for group in groups:
            if _belongs(extent, group, alone=len([one for one in groups if one[0].wide == extent.wide]) == 1):
                group.append(extent)
                break
        else:
            orphans.append(extent)
    if orphans:
        for wide in (False, True):
            some: list[Extent] = []
            for extent in (one for one in orphans if one.wide == wide):
                if not any(_conflict(extent, other) for other in some):
                    some.append(extent)
            if some:
                groups.append(some)
    return groups


def _weight(extent: Extent) -> tuple[bool, int]:
    """Of those that continue a volume, what counts first: what its LVM and structures on it agree on."""
    return bool(extent.segments and extent.votes), extent.votes


def _belongs(extent: Extent, group: list[Extent], *, alone: bool) -> bool:
    head = group[0]
    if extent.wide != head.wide or any(_conflict(extent, other) for other in group):
        return False
    if extent.lvm_uuid and head.lvm_uuid:
        return extent.lvm_uuid == head.lvm_uuid
    known = head.superblock.lvm_uuid if head.superblock is not None else ""
    if extent.lvm_uuid and known:
        return extent.lvm_uuid == known
    return alone


def _conflict(one: Extent, other: Extent) -> bool:
    """Whether two can't be extents of one volume.

    Structures that were copied elsewhere (into a journal, a guest's disk) seem to be an extent too, one that lies
    where another does, or shares its source without an LVM header for each.
    """
    if one.source == other.source and not (one.segments and other.segments):
        return True
    if not one.segments and not other.segments:
        return one.base == other.base
    mine = _reach(one)
    return any(next(mine.within(offset, length), None) is not None for offset, length in _reach(other))


def _reach(extent: Extent) -> Ranges:
    """Which (offset, length) ranges of the volume are an extent's, or where it begins if no LVM header tells."""
    told = [(segment.offset, segment.length) for segment in extent.segments]
    return Ranges(told or [(_start(extent), 1)])


def _start(extent: Extent) -> int:
    """Where in the volume an extent begins, by its base."""
    return max(0, DATA_OFFSET - extent.base) if extent.base < 0 else 0


def _joined(session: Session, group: list[Extent]) -> Generation:
    group = sorted(group, key=lambda extent: -extent.base)
    nodes: dict[int, Node] = {}
    clusters: dict[str, dict[int, Header]] = {}
    for extent in group:
        for address, node in extent.nodes.items():
            nodes.setdefault(address, node)
        for kind, headers in extent.clusters.items():
            for number, header in headers.items():
                clusters.setdefault(kind, {}).setdefault(number, header)
    known = next((extent.superblock for extent in group if extent.superblock is not None), None)
    nodes = {address: _marked(node, clusters.get("fdc", {})) for address, node in nodes.items()}
    return Generation(
        session=session,
        extents=group,
        space=_space(session, group),
        wide=group[0].wide,
        unit=group[0].unit,
        superblock=known,
        created=known.created if known is not None else _age(nodes),
        nodes=nodes,
        clusters=clusters,
    )


def _marked(node: Node, clusters: dict[int, Header]) -> Node:
    address = node.descriptor.address
    header = clusters.get(address >> 6 & 0xFFFF)
    return node if header is None else replace(node, used=header.has(address >> 22 & 0x3FF))


def _age(nodes: dict[int, Node]) -> int:
    """When a file system was made, as its own files tell."""
    times = [nodes[own].time for own in (FILE_BLOCKS, DESCRIPTORS, POINTER_BLOCKS, SUB_BLOCKS) if own in nodes]
    return min(times, default=0)


def _space(session: Session, group: list[Extent]) -> Space:
    """A volume's bytes. Without LVM headers an extent reaches to where the next one begins."""
    segments: list[Segment] = []
    starts = sorted(_start(extent) for extent in group)
    for extent in group:
        if extent.segments:
            segments.extend(extent.segments)
            continue
        source = session.sources[extent.source]
        start = _start(extent)
        end = min((other for other in starts if other > start), default=source.size - extent.base)
        end = min(end, source.size - extent.base)
        if end > start:
            segments.append(Segment(start, end - start, source, extent.base + start))
    size = max((extent.volume_size for extent in group), default=0)
    name = ", ".join(dict.fromkeys(session.sources[extent.source].name for extent in group))
    return Space(name, segments, max(size, max((one.offset + one.length for one in segments), default=0)))


def _older(generation: Generation) -> Generation | None:
    """The file system that was there before, of the same version and at the same place: its FDs are taken out.

    They are older than the file system, and its bitmaps call them free though they were never deleted. One alone
    is rather a bit that is wrong.
    """
    created = generation.created or _since(generation.nodes)
    old = {address: node for address, node in generation.nodes.items() if not node.used and node.time < created}
    proved = [node for node in old.values() if node.used is False and node.descriptor.links]
    if len(proved) < _FEWEST_OLD:
        return None
    generation.nodes = {address: node for address, node in generation.nodes.items() if address not in old}
    return replace(generation, superblock=None, created=0, nodes=old, former=True, later=[generation])


def _since(nodes: dict[int, Node]) -> int:
    """Before when nothing is a file system's own, where it has lost all that tells its age; 0 where nothing tells.

    What its bitmaps call free though it was never deleted is another's, if it is older than all the rest.
    """
    oldest = min((node.time for node in nodes.values() if node.used is not False), default=0)
    free = [node.time for node in nodes.values() if node.used is False and node.descriptor.links]
    return max((time + 1 for time in free if time < oldest), default=0)


def _order(found: list[Generation]) -> None:
    """Mark as former what another file system on the same bytes replaced."""
    for one in found:
        for other in found:
            if one is other or one.former or other.former or one.extents[0].source != other.extents[0].source:
                continue
            newer = _rank(other) > _rank(one)
            if newer and abs(one.extents[0].base - other.extents[0].base) < 1 << 30:
                one.former = True
                one.later.append(other)


def _rank(generation: Generation) -> tuple[bool, int, int]:
    """What speaks for it as today's file system."""
    votes = sum(extent.votes for extent in generation.extents)
    return generation.superblock is not None, generation.time, votes
