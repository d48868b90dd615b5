"""Sizes and places that follow from a volume's version and parameters."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from triune.disks.vmfs.damaged import Damaged

SUPERBLOCK = 0x200000
HEARTBEATS = 0x300000
_WIDE = 24
_VMFS5 = 10
MOST_BYTES = 1 << 47
"""No volume and no file is larger (the limits are 64 TB and 62 TB)."""


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """What all other structures depend on; sizes in bytes.

    `major` and `minor` are the file system's version; `alignment` is that of metadata on VMFS6 (512 before);
    `fdc_offset` and `fdc_clusters` say where the first FDs are; `dense` widens the addresses of sub-blocks.
    """

    major: int
    minor: int = 0
    file_block: int = 1 << 20
    sub_block: int = 1 << 16
    alignment: int = 512
    large_shift: int = 9
    fdc_offset: int = 0x10000
    fdc_clusters: int = 64
    dense: bool = False
    local: bool = False

    def __post_init__(self) -> None:
        """Raise Damaged for sizes that no volume has."""
        for what, value, low, high in (
            ("file block", self.file_block, 1 << 16, 1 << 27),
            ("sub-block", self.sub_block, 1 << 9, 1 << 20),
            ("metadata alignment", self.alignment, 1 << 9, 1 << 16),
        ):
            if value & (value - 1) or not low <= value <= high:
                raise Damaged(f"a {what} of {value} bytes is impossible")
        if not 0 < self.major < 256 or not 0 <= self.large_shift < 16:
            raise Damaged(f"there is no version {self.major}")
        if not 0 < self.fdc_clusters <= 4096 or not 0 < self.fdc_offset <= 1 << 24:
            raise Damaged("the place of the file descriptors is impossible")

    @property
    def wide(self) -> bool:
        """VMFS6: addresses of 64 bits, hashed directories."""
        return self.major >= _WIDE

    @property
    def version(self) -> str:
        """As people call it: "VMFS5", "VMFS-L 6"."""
        number = 6 if self.wide else 5 if self.major >= _VMFS5 else 3
        return f"VMFS-L {number}" if self.local else f"VMFS{number}"

    @property
    def unit(self) -> int:
        """Size of a lock or of the metadata block behind it."""
        return self.alignment if self.wide else 512

    @property
    def header_size(self) -> int:
        """Size of a cluster's header: lock and metadata."""
        return 2 * self.unit

    @property
    def descriptor_size(self) -> int:
        """Size of an FD."""
        return 2 * self.alignment if self.wide else 2048

    @property
    def data_offset(self) -> int:
        """Where in an FD small files keep their content."""
        return self.unit + 512

    @property
    def list_offset(self) -> int:
        """Where in an FD its addresses begin."""
        if not self.wide:
            return 1024
        return self.descriptor_size - (2560 if self.alignment <= 4096 else self.alignment >> 1)

    @property
    def list_length(self) -> int:
        """How many addresses an FD holds."""
        return (self.descriptor_size - self.list_offset) // self.address_size

    @property
    def address_size(self) -> int:
        """Size of an address in a list or a pointer block."""
        return 8 if self.wide else 4

    @property
    def pointer_block(self) -> int:
        """Size of a pointer block."""
        return max(0x10000, self.alignment) if self.wide else 4096

    @property
    def pointers(self) -> int:
        """How many addresses a pointer block holds."""
        return self.pointer_block // self.address_size

    @property
    def large_block(self) -> int:
        """Size of a large file block (VMFS6)."""
        return self.file_block << self.large_shift

    @cached_property
    def small_per_cluster(self) -> int:
        """File blocks of a cluster (VMFS6): an address names the cluster and the block in it."""
        return min(0x2000, 0x20000000 // self.file_block)

    @property
    def fdc_start(self) -> int:
        """Volume offset where `.fdc.sf` begins; only its first file block is at a fixed place."""
        if self.wide:
            return ((self.alignment << 10) + 0x3FFFFF) & ~0xFFFFF
        return -(-0x400000 // self.file_block) * self.file_block

    @property
    def first_descriptor(self) -> int:
        """Volume offset of FD <0,0>: the root directory; the volume's own files follow it."""
        return self.fdc_start + self.fdc_offset + self.fdc_clusters * self.header_size

    @property
    def heartbeat_size(self) -> int:
        """Size of a host's slot."""
        return self.unit
