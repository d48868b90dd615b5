"""Addresses: 32 bits on VMFS3 and 5, 64 on VMFS6 (FDs and journal blocks 32 on all). The low 3 bits are the kind."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from triune.disks.vmfs.damaged import Damaged
from triune.disks.vmfs.geometry import Geometry


class Kind(IntEnum):
    """What an address points to."""

    FILE_BLOCK = 1
    SUB_BLOCK = 2
    POINTER_BLOCK = 3
    DESCRIPTOR = 4
    POINTER_BLOCK2 = 5
    JOURNAL_BLOCK = 6
    LARGE_BLOCK = 7


NAMES = {
    Kind.FILE_BLOCK: "file block",
    Kind.SUB_BLOCK: "sub-block",
    Kind.POINTER_BLOCK: "pointer block",
    Kind.DESCRIPTOR: "file descriptor",
    Kind.POINTER_BLOCK2: "pointer block",
    Kind.JOURNAL_BLOCK: "journal block",
    Kind.LARGE_BLOCK: "large file block",
}
ROOT = 0x4
FILE_BLOCKS, DESCRIPTORS, POINTER_BLOCKS, SUB_BLOCKS, HEADER, POINTER_BLOCKS2, DESCRIPTORS_DIR, JOURNAL, UNMAP = (
    0x400000 * n + ROOT for n in range(1, 10)
)
"""The FDs of `.fbb.sf`, `.fdc.sf`, `.pbc.sf`, `.sbc.sf`, `.vh.sf`, `.pb2.sf`, `.sdd.sf`, `.jbc.sf`, `.unmap.sf`."""


@dataclass(frozen=True, slots=True)
class Address:
    """File blocks and large ones are numbered over the volume: `cluster` is 0, `item` the number.

    `zeroed`: the block was promised but never written, and reads as zeros (a bitmap on VMFS6, where any bit stands for
    the whole block).
    """

    kind: Kind
    cluster: int
    item: int
    zeroed: int = 0

    def __str__(self) -> str:
        name = NAMES[self.kind]
        if self.kind in (Kind.FILE_BLOCK, Kind.LARGE_BLOCK):
            return f"{name} {self.item}"
        return f"{name} {self.cluster}/{self.item}"


def decode(value: int, geometry: Geometry) -> Address:
    """Take an address apart. Raises Damaged for a kind that is none (0 included: it stands for a hole)."""
    kind = value & 7
    if kind == Kind.DESCRIPTOR:
        return Address(Kind.DESCRIPTOR, value >> 6 & 0xFFFF, value >> 22 & 0x3FF)
    if kind == Kind.JOURNAL_BLOCK:
        return Address(Kind.JOURNAL_BLOCK, value >> 3 & 0x1FFF, value >> 26 & 0x3F)
    if kind == 0 or (kind == Kind.LARGE_BLOCK and not geometry.wide):
        raise Damaged(f"{value:#x} is no address")
    return _wide(value, Kind(kind), geometry) if geometry.wide else _narrow(value, Kind(kind), geometry)


def descriptor(cluster: int, item: int) -> int:
    """The address of an FD."""
    return Kind.DESCRIPTOR | (cluster & 0xFFFF) << 6 | (item & 0x3FF) << 22


def _narrow(value: int, kind: Kind, geometry: Geometry) -> Address:
    if kind == Kind.FILE_BLOCK:
        return Address(kind, 0, value >> 6 & 0x3FFFFFF, value >> 5 & 1)
    item = value >> 28 & 0xF
    if kind == Kind.SUB_BLOCK and geometry.dense:
        item |= (value & 0x18) << 1
    return Address(kind, value >> 6 & 0x3FFFFF, item)


def _wide(value: int, kind: Kind, geometry: Geometry) -> Address:
    if kind == Kind.FILE_BLOCK:
        number = (value >> 15 & 0x7FFFFFFF) * geometry.small_per_cluster + (value >> 51 & 0x1FFF)
        return Address(kind, 0, number, value >> 7 & 0xFF)
    if kind == Kind.LARGE_BLOCK:
        return Address(kind, 0, value >> 15 & 0x7FFFFFFF, value >> 7 & 0xFF)
    return Address(kind, value >> 6 & 0xFFFFFFFFF, value >> 56 & 0xFF)
