"""Resource files: clusters of FDs, sub-blocks, pointer blocks or of mere allocation bits, in groups.

A group is the headers of its clusters, then their resources. On VMFS6, `.fbb.sf` holds two sets: the large blocks, and
as a child of these, whose resources are its cluster headers, the file blocks.
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct

from triune.disks.vmfs import lock as locks
from triune.disks.vmfs.damaged import Damaged, unpack
from triune.disks.vmfs.geometry import MOST_BYTES, Geometry

HEADER_SIZE = 0x58
SIGNATURE = 0x72666D64  # "rfmd"
CLUSTER_SIGNATURE = 0x72636D64  # "rcmd"
_HEAD = Struct("<8I")
_WIDE = Struct("<IIIHHIIIII")  # 0x20 to 0x44
_CLUSTER = Struct("<IIII")
_CLUSTER_WIDE = Struct("<IIQHHHH")  # 0x10 to 0x28
_OWNER = Struct("<IHH")
_HAS_PARENT = 0x2
_OWNERS = 0x948
MOST_OWNERS = (4096 - _OWNERS) // _OWNER.size
_BITMAP, _BITMAP_WIDE = 0x10, 0x80
# File blocks on VMFS6 have two bits each, 256 of them to a page of 256 bytes, of which the first 64 are used.
_SMALL_PAGE, _SMALL_ITEMS = 0x100, 256


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceHeader:
    """What the head of a resource file says. Sizes in bytes; `child` is where the second header is, 0 for none.

    `parent` is (resources of a cluster, clusters of a group, size of a group) of the parent set, if there is one.
    """

    per_cluster: int
    clusters_per_group: int
    group_offset: int
    size: int
    group_size: int
    count: int
    groups: int
    header_size: int
    child: int = 0
    parent: tuple[int, int, int] | None = None

    def header_offset(self, cluster: int) -> int:
        """Where in the file a cluster's header is."""
        if self.parent is None:
            group, within = divmod(cluster, self.clusters_per_group)
            return self.group_offset + group * self.group_size + within * self.header_size
        per_cluster, clusters, size = self.parent
        group, within = divmod(cluster, per_cluster * clusters)
        return self.group_offset + group * size + (clusters + within) * self.header_size

    def offset(self, cluster: int, item: int) -> int:
        """Where in the file a resource is. Raises Damaged for one that cannot be."""
        if item >= self.per_cluster or self.size == 0 or self.parent is not None:
            raise Damaged(f"there is no item {item} in a cluster of {self.per_cluster}")
        group, within = divmod(cluster, self.clusters_per_group)
        if group >= self.groups:
            raise Damaged(f"there is no cluster {cluster}: the file has {self.groups} groups")
        return (
            self.group_offset
            + group * self.group_size
            + self.clusters_per_group * self.header_size
            + (within * self.per_cluster + item) * self.size
        )


def parse(data: bytes, geometry: Geometry, offset: int = 0) -> ResourceHeader:
    """The head of a resource file, or with `offset` the child's. Raises Damaged."""
    what = "the head of a resource file"
    per_cluster, per_group, group_offset, size, group_size, low, groups, high = unpack(_HEAD, data, offset, what)
    child, parent = 0, None
    if geometry.wide:
        signature, _, flags, _, _, _, child, *above = unpack(_WIDE, data, offset + 0x20, what)
        if signature != SIGNATURE:
            raise Damaged(f"{what} has the mark {signature:#x}")
        if flags & _HAS_PARENT:
            parent = (above[0], above[1], above[2])
            _require(0 < above[0] <= 1 << 16 and 0 < above[1] <= 1 << 16 and above[2] > 0)
    _require(per_cluster <= 1 << 16 and 0 < per_group <= 1 << 16 and size <= 1 << 26)
    _require(child < 1 << 20 and group_offset < 1 << 26)
    _require(group_size > 0 and groups * group_size < MOST_BYTES)
    return ResourceHeader(
        per_cluster=per_cluster,
        clusters_per_group=per_group,
        group_offset=group_offset,
        size=size,
        group_size=group_size,
        count=low | (high << 32 if geometry.wide else 0),
        groups=groups,
        header_size=geometry.header_size,
        child=child,
        parent=parent,
    )


def _require(true: bool) -> None:
    if not true:
        raise Damaged("the head of a resource file has impossible sizes")


@dataclass(frozen=True, slots=True)
class Cluster:
    """A cluster's header. `used` are the items that are allocated; `owners` (file blocks on VMFS6) are the addresses
    of FDs with how many blocks of the cluster each owns."""

    lock: locks.Lock
    number: int
    total: int
    free: int
    used: frozenset[int]
    owners: tuple[tuple[int, int], ...] = ()


def parse_cluster(data: bytes, geometry: Geometry) -> Cluster:
    """From the bytes of a cluster's header. Raises Damaged."""
    what = "a cluster header"
    held = locks.parse(data)
    if held.type in (locks.LockType.DESCRIPTOR, locks.LockType.UNMAP):
        raise Damaged(f"{what} is expected, a {held.type.name.lower()} lock is there")
    meta = data[geometry.unit : geometry.header_size]
    if not geometry.wide:
        number, total, free, _ = unpack(_CLUSTER, meta, 0, what)
        if total > 8 * (512 - _BITMAP) or free > total:
            raise Damaged(f"{what} counts {total} items")
        return Cluster(held, number, total, free, _used(meta[_BITMAP:], total, 1))
    signature, _, number, total, free, _, _ = unpack(_CLUSTER_WIDE, meta, 0x10, what)
    if signature != CLUSTER_SIGNATURE:
        raise Damaged(f"{what} has the mark {signature:#x}")
    if free > total or total > 8 * _SMALL_ITEMS:
        raise Damaged(f"{what} counts {total} items")
    bits = meta[_BITMAP_WIDE:]
    if held.type == locks.LockType.FILE_BLOCKS:
        return Cluster(held, number, total, free, _used_small(bits, total), _owners(meta))
    return Cluster(held, number, total, free, _used(bits, total, 1))


def _used_small(bits: bytes, total: int) -> frozenset[int]:
    found: set[int] = set()
    for page, first in enumerate(range(0, total, _SMALL_ITEMS)):
        count = min(_SMALL_ITEMS, total - first)
        found |= {first + item for item in _used(bits[page * _SMALL_PAGE :][: _SMALL_ITEMS // 4], count, 2)}
    return frozenset(found)


def _used(bits: bytes, total: int, width: int) -> frozenset[int]:
    """A bit that is set stands for a free item; of two bits, the lower one."""
    known = min(total, len(bits) * 8 // width)
    return frozenset(n for n in range(known) if not bits[n * width >> 3] >> (n * width & 7) & 1)


def _owners(meta: bytes) -> tuple[tuple[int, int], ...]:
    found = []
    for offset in range(_OWNERS, len(meta) - _OWNER.size + 1, _OWNER.size):
        address, blocks, _ = _OWNER.unpack_from(meta, offset)
        if address & 7 == 4 and blocks:
            found.append((address, blocks))
    return tuple(found)
