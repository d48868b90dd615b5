"""Damages done to images in memory: what the rows of the matrix zero or cut off."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tests.rescue.layout import FBB, FDC, PB2, PBC, ROOT, SBC, Area, Layout
from tests.rescue.overlay import Joined, Overlay

MIB = 1 << 20
Disk = Overlay | Joined
Damage = Callable[[Disk, Layout], None]


def _area(layout: Layout, area: Area) -> Iterator[int]:
    """Where the blocks of a resource file are."""
    size = area.meta.block_size
    for number in range(-(-area.meta.size // size)):
        yield layout.at(layout.block_address(area.meta, number))


def _zero_file(address: int) -> Damage:
    def damage(disk: Disk, layout: Layout) -> None:
        area = layout.area(address)
        for at in _area(layout, area):
            disk.zero(layout.base + at, area.meta.block_size)

    return damage


def _zero_fd(address: int) -> Damage:
    return lambda disk, layout: disk.zero(layout.base + layout.fd_offset(address), layout.fd_size)


def _first_cluster(disk: Disk, layout: Layout) -> None:
    """All headers of the first group, and the descriptors of its first cluster: the system's own."""
    area = layout.area(FDC)
    places = [area.item(0, item) for item in range(area.per_cluster)]
    disk.zero(layout.base + area.header(0), area.per_group * layout.header)
    for at in places:
        disk.zero(layout.base + at, layout.fd_size)


def _root_block(disk: Disk, layout: Layout) -> None:
    root = layout.fd(ROOT)
    for address in [each for each in root.blocks if each]:
        disk.zero(layout.base + layout.at(address), root.block_size)


def _cluster_headers(address: int) -> Damage:
    """Locks and bitmaps of a resource file."""

    def damage(disk: Disk, layout: Layout) -> None:
        area = layout.area(address)
        for at in [area.header(cluster) for cluster in range(area.clusters)]:
            disk.zero(layout.base + at, layout.header)

    return damage


def _zeroed(start: int, length: int) -> Damage:
    def damage(disk: Disk, layout: Layout) -> None:
        for device in disk.devices:
            device.zero(start, length)

    return damage


def _cut(size: int) -> Damage:
    """To so many bytes; 0 for half of what there is."""

    def damage(disk: Disk, layout: Layout) -> None:
        for device in disk.devices:
            device.truncate(size or device.size // 2)

    return damage


def _superblock(disk: Disk, layout: Layout) -> None:
    disk.zero(layout.base + 0x200000, 4096)


ONE: dict[str, Damage] = {
    "none": lambda disk, layout: None,
    "LVM header 4 KiB": _zeroed(0x100000, 4096),
    "LVM area 16 MiB": _zeroed(0x100000, 16 * MIB),
    "superblock": _superblock,
    "root directory block": _root_block,
    "first FDC cluster": _first_cluster,
    "root FD": _zero_fd(ROOT),
    ".fdc.sf FD": _zero_fd(FDC),
    ".fbb.sf": _zero_file(FBB),
    ".sbc.sf FD": _zero_fd(SBC),
    ".pbc.sf FD": _zero_fd(PBC),
    ".pb2.sf FD": _zero_fd(PB2),
    "bitmaps of FDs": _cluster_headers(FDC),
    "bitmaps of sub-blocks": _cluster_headers(SBC),
    "first 64 MiB": _zeroed(0, 64 * MIB),
    "truncated to 50 %": _cut(0),
    "truncated to 400 MiB": _cut(400 * MIB),
}
PAIRS = [
    ("LVM area 16 MiB", "superblock"),
    ("LVM area 16 MiB", "first FDC cluster"),
    ("superblock", "root directory block"),
    ("superblock", "root FD"),
    ("superblock", ".fbb.sf"),
    ("first FDC cluster", "root directory block"),
    ("first FDC cluster", "bitmaps of sub-blocks"),
    ("root FD", "root directory block"),
    (".fbb.sf", "bitmaps of FDs"),
    ("LVM header 4 KiB", "truncated to 400 MiB"),
    ("root directory block", "truncated to 50 %"),
]


def damaged(disk: Disk, layout: Layout, *names: str) -> Disk:
    """A copy with these damages. `layout` is of the healthy volume, whose pages stay as they are."""
    copy = disk.fork()
    for name in names:
        ONE[name](copy, layout)
    return copy
