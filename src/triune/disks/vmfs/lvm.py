"""The logical volume manager beneath VMFS: a header at 1 MiB of each device, a volume table, physical extents (PEs).

There is no second copy of the header. Until version 5 a PE is 256 MiB; in version 6 one PE may be a whole volume.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from struct import Struct

from triune.disks.vmfs.damaged import Damaged, text, unpack, uuid
from triune.disks.vmfs.geometry import MOST_BYTES

HEADER = 0x100000
MAGIC = 0xC001D00D
SIZE = 512
_DEVICE = Struct("<III")
_SIZES = Struct("<IQIIIQQ16sQQ")  # 0x5A to 0xA2
_MAPS = Struct("<IQIII")  # 0xBE to 0xD6
_EXTENDED = Struct("<IIQQ")
_VOLUME = Struct("<QQI64s16sIQ")  # to 0x70; the time overlaps nothing
_SHARE = Struct("<IIQQQI")  # 0x70 to 0x94
_PE = Struct("<BIIQQQI")
_PE_ENTRY = 128
_PES_PER_MAP = 8192
_LOCAL = 0x1
_MOST_CHAIN = 1024
_MOST_PES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A device's header. Sizes and places in bytes, times in microseconds since the epoch.

    `maps` tells how many PE tables follow; `extended` is where further headers are, 0 for none.
    """

    major: int
    minor: int
    uuid: str
    size: int
    volumes: int
    extents: int
    generation: int
    data_offset: int
    created: int
    modified: int
    maps: int
    extended: int
    alignment: int
    local: bool

    @property
    def volume_table(self) -> int:
        """Where on the device the volume table is."""
        return HEADER + (SIZE if self.major < 6 else self.alignment)

    @property
    def bitmap_size(self) -> int:
        """Size of the bitmap before each PE table."""
        return 1024 if self.major < 6 else max(self.alignment, 1024)

    @property
    def tables(self) -> int:
        """How far behind a header its first bitmap is."""
        return 0x80200 if self.major < 6 else self.alignment + 1024 * 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """A volume's entry in a device's table: which PEs of the volume this device holds.

    `state` is 1 for a normal one; `devices` is how many devices the volume has.
    """

    uuid: str
    snapshot: int
    name: str
    size: int
    generation: int
    state: int
    number: int
    extents: int
    first: int
    last: int
    devices: int


@dataclass(frozen=True, slots=True)
class Extent:
    """`length` bytes at `place` of the device are those at `offset` of volume number `volume`."""

    volume: int
    place: int
    offset: int
    length: int


def parse_device(data: bytes) -> Device:
    """From the 512 bytes at 1 MiB of a device. Raises Damaged."""
    what = "the LVM header"
    magic, major, minor = unpack(_DEVICE, data, 0, what)
    if magic != MAGIC:
        raise Damaged(f"{what} has the mark {magic:#x}, not {MAGIC:#x}")
    _, size, volumes, extents, _, generation, data_offset, name, created, modified = unpack(_SIZES, data, 0x5A, what)
    maps, extended, alignment, _, flags = unpack(_MAPS, data, 0xBE, what)
    if not 3 <= major <= 16:
        raise Damaged(f"{what} has the unknown version {major}")
    if major >= 6 and (alignment & (alignment - 1) or not 512 <= alignment <= 1 << 16):
        raise Damaged(f"{what} has an impossible alignment")
    if volumes > (512 if major < 6 else 1) or extents > _MOST_PES or max(size, data_offset, extended) > MOST_BYTES:
        raise Damaged(f"{what} counts what cannot be")
    return Device(
        major=major,
        minor=minor,
        uuid=uuid(name),
        size=size,
        volumes=volumes,
        extents=extents,
        generation=generation,
        data_offset=data_offset,
        created=created,
        modified=modified,
        maps=min(maps or 1, 8),
        extended=extended if major >= 6 else 0,
        alignment=alignment if major >= 6 else 512,
        local=major >= 6 and bool(flags & _LOCAL),
    )


def parse_share(data: bytes, offset: int = 0) -> Share:
    """An entry of the volume table. Raises Damaged."""
    what = "the LVM's volume table"
    size, generation, state, name, lv_uuid, snapshot, _ = unpack(_VOLUME, data, offset, what)
    number, extents, first, last, _, devices = unpack(_SHARE, data, offset + 0x70, what)
    if size > MOST_BYTES or last < first or not any(lv_uuid):
        raise Damaged(f"{what} has an impossible entry")
    return Share(
        uuid=uuid(lv_uuid),
        snapshot=snapshot,
        name=text(name),
        size=size,
        generation=generation,
        state=state,
        number=number,
        extents=extents,
        first=first,
        last=last,
        devices=devices,
    )


def extents(device: Device, read: Callable[[int, int], bytes]) -> Iterator[Extent]:
    """The PEs in use, by `read(offset, length)` of the device. Raises Damaged for a table that cannot be."""
    left = device.extents
    for base, maps in _headers(device, read):
        for number in range(maps):
            if left <= 0:
                return
            count = min(left, _PES_PER_MAP)
            place = base + device.tables + number * (device.bitmap_size + _PES_PER_MAP * _PE_ENTRY)
            table = read(place + device.bitmap_size, count * _PE_ENTRY)
            for offset in range(0, count * _PE_ENTRY, _PE_ENTRY):
                used, _, volume, begin, logical, length, _ = unpack(_PE, table, offset, "the LVM's table of extents")
                if not used:
                    continue
                if max(begin, logical, length) > MOST_BYTES:
                    raise Damaged("the LVM's table of extents has an impossible entry")
                yield Extent(volume, begin, logical, length)
            left -= count


def _headers(device: Device, read: Callable[[int, int], bytes]) -> Iterator[tuple[int, int]]:
    """(place, tables) of the header and of those it is continued in."""
    yield HEADER, device.maps
    place = device.extended
    for _ in range(_MOST_CHAIN):
        if not place:
            return
        magic, maps, _, following = unpack(_EXTENDED, read(place, _EXTENDED.size), 0, "the LVM's further header")
        if magic != MAGIC or max(place, following) > MOST_BYTES:
            raise Damaged("the LVM's further header is none")
        yield place, min(maps, 8)
        place = following
