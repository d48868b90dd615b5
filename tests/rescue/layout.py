"""Where things are on a healthy VMFS5 or VMFS6: enough to add, to delete and to damage them. Independent of src/.

Offsets are those of the volume; `Layout` adds the base. The format is described in docs/RESCUE.md and in
`triune.disks.vmfs`; this is written again on purpose, so that one mistake isn't made twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import pack, unpack_from

from tests.rescue.overlay import Joined, Overlay

BASE = 0x1100000
FD_LOCK, SB_LOCK, FB_LOCK = 0x10C00001, 0x10C00003, 0x10C00002
FOLDER, FILE, LINK, SYSTEM, RDM = 2, 3, 4, 5, 6
RESIDENT, DOUBLE = 4305, 4304
ROOT, FBB, FDC, PBC, SBC, PB2 = 0x4, 0x400004, 0x800004, 0xC00004, 0x1000004, 0x1800004
NAMES = {FBB: ".fbb.sf", FDC: ".fdc.sf", PBC: ".pbc.sf", SBC: ".sbc.sf", PB2: ".pb2.sf"}
LIST5, LIST6 = 256, 320


def u16(data: bytes, at: int) -> int:
    return int(unpack_from("<H", data, at)[0])


def u32(data: bytes, at: int) -> int:
    return int(unpack_from("<I", data, at)[0])


def u64(data: bytes, at: int) -> int:
    return int(unpack_from("<Q", data, at)[0])


@dataclass(frozen=True)
class Meta:
    """A file descriptor, as far as tests need it. `address` is its own."""

    address: int
    offset: int
    kind: int
    generation: int
    size: int
    block_size: int
    zla: int
    blocks: tuple[int, ...]


class Area:
    """A resource file: its geometry, where its clusters' headers and its items are."""

    def __init__(self, layout: Layout, address: int, *, child: bool = False) -> None:
        self.layout, self.address = layout, address
        self.meta = layout.fd(address)
        head = layout.in_file(self.meta, 0, 0x60)
        if child:
            self.parent = tuple(u32(layout.in_file(self.meta, u32(head, 0x34), 0x60), at) for at in (0x38, 0x3C, 0x40))
            head = layout.in_file(self.meta, u32(head, 0x34), 0x60)
        else:
            self.parent = (0, 0, 0)
        self.per_cluster, self.per_group, self.first, self.item_size, self.group_size, self.total = (
            u32(head, at) for at in (0, 4, 8, 12, 16, 20)
        )

    @property
    def clusters(self) -> int:
        return -(-self.total // self.per_cluster)

    def _group(self, group: int) -> int:
        per_cluster, per_group, size = self.parent
        if not size:
            return self.first + group * self.group_size
        outer, inner = divmod(group, per_cluster * per_group // self.per_group)
        return self.first + outer * size + per_group * self.layout.header + inner * self.group_size

    def header(self, cluster: int) -> int:
        """Volume offset of a cluster's lock; its meta block follows at +`layout.block`."""
        group, number = divmod(cluster, self.per_group)
        return self.layout.file_offset(self.meta, self._group(group) + number * self.layout.header)

    def item(self, cluster: int, item: int) -> int:
        """Volume offset of an item."""
        group, number = divmod(cluster, self.per_group)
        inside = self.per_group * self.layout.header + (number * self.per_cluster + item) * self.item_size
        return self.layout.file_offset(self.meta, self._group(group) + inside)


class Layout:
    """A volume on an overlay. `block` is the alignment of metadata: 512 bytes, or 4096 on VMFS6."""

    def __init__(self, disk: Overlay | Joined, base: int = BASE) -> None:
        self.disk, self.base = disk, base
        head = self.read(0x200000, 0x200)
        self.six = u32(head, 4) >= 24
        self.block = u32(head, 0x134) if self.six else 512
        self.header = 2 * self.block
        self.fd_size = 2 * self.block if self.six else 2048
        self.file_block = u64(head, 0xA1)
        self.sub_block = u32(head, 0xD9)
        self.dense = bool(u32(head, 0x19) & 4)
        self.label = head[0x1D:0x9D].split(b"\0")[0].decode()
        first = (
            ((self.block << 10) + 0x3FFFFF) & ~0xFFFFF
            if self.six
            else -(-0x400000 // self.file_block) * self.file_block
        )
        self.fdc_start = first
        self.first_fd = first + u32(head, 0xD1) + u32(head, 0xD5) * self.header
        self._areas: dict[tuple[int, bool], Area] = {}

    def read(self, offset: int, length: int) -> bytes:
        return self.disk.read(self.base + offset, length)

    def write(self, offset: int, data: bytes) -> None:
        self.disk.write(self.base + offset, data)

    def area(self, address: int, *, child: bool = False) -> Area:
        key = address, child
        if key not in self._areas:
            self._areas[key] = Area(self, address, child=child)
        return self._areas[key]

    def fd_offset(self, address: int) -> int:
        """Where the file descriptor with that address is."""
        cluster, item = (address >> 6) & 0xFFFF, address >> 22
        if cluster == 0 and item < 16:  # the system's own: the map of the rest is read by way of them
            return self.first_fd + item * self.fd_size
        return self.area(FDC).item(cluster, item)

    def fd(self, address: int) -> Meta:
        """A file descriptor."""
        offset = self.fd_offset(address)
        raw = self.read(offset, self.fd_size)
        meta = raw[self.block : self.block + 0x200]
        count, width = (LIST6, "Q") if self.six else (LIST5, "I")
        blocks = unpack_from(f"<{count}{width}", raw, self.fd_size - count * (8 if self.six else 4))
        return Meta(
            u32(meta, 0), offset, u32(meta, 12), u32(meta, 4), u64(meta, 0x14), u64(meta, 0x1C), u32(meta, 0x44), blocks
        )

    def resident(self) -> int:
        """Bytes that fit into a file descriptor."""
        return self.block - 512 if self.six else 1024

    def resident_at(self) -> int:
        """Where they are in it."""
        return self.block + 512

    def block_address(self, meta: Meta, number: int) -> int:
        """The address of a file's block, by its own list or its pointer blocks."""
        if meta.zla in {1, 2}:
            return meta.blocks[number]
        per = 8192 if self.six else 1024
        if meta.zla == DOUBLE:
            outer, rest = divmod(number, per * per)
            middle, inner = divmod(rest, per)
            pointer = self.pointer(meta.blocks[outer], middle)
        else:
            outer, inner = divmod(number, per)
            pointer = meta.blocks[outer]
        return self.pointer(pointer, inner)

    def pointer(self, address: int, index: int) -> int:
        """An entry of a pointer block."""
        if not address:
            return 0
        width = 8 if self.six else 4
        data = self.read(self.at(address) + index * width, width)
        return u64(data, 0) if self.six else u32(data, 0)

    def file_offset(self, meta: Meta, offset: int) -> int:
        """Where a byte of a file is. Holes are not expected."""
        size = meta.block_size
        return self.at(self.block_address(meta, offset // size)) + offset % size

    def in_file(self, meta: Meta, offset: int, length: int) -> bytes:
        """Bytes of a file within one block."""
        return self.read(self.file_offset(meta, offset), length)

    def at(self, address: int) -> int:
        """Volume offset of what an address points to."""
        kind = address & 7
        if kind == 1:
            return self.number(address) * self.file_block
        if kind == 7:
            return ((address >> 15) & 0x7FFFFFFF) * 512 * self.file_block
        if kind == 4:
            return self.fd_offset(address)
        area = self.area({2: SBC, 3: PBC, 5: PB2}[kind])
        return area.item(*self.parts(address))

    def number(self, address: int) -> int:
        """The number of a file block on the volume."""
        if self.six:
            return ((address >> 15) & 0x7FFFFFFF) * 512 + (address >> 51)
        return address >> 6

    def parts(self, address: int) -> tuple[int, int]:
        """(cluster, item) of an address of the SB, PB and PB2 kinds."""
        if self.six:
            return (address >> 6) & 0xFFFFFFFFF, address >> 56
        high = ((address >> 3) & 3) << 4 if self.dense and address & 7 == 2 else 0
        return (address >> 6) & 0x3FFFFF, address >> 28 | high

    def address(self, kind: int, cluster: int, item: int) -> int:
        """The address of an item: 1 FB, 2 SB, 3 PB, 4 FD."""
        if kind == 4:
            return 4 | cluster << 6 | item << 22
        if kind == 1:
            if self.six:
                return 1 | cluster << 15 | item << 51
            return 1 | (cluster * self.area(FBB).per_cluster + item) << 6
        if self.six:
            return 2 | cluster << 6 | item << 56
        if kind == 2 and self.dense:
            return 2 | cluster << 6 | (item & 15) << 28 | (item >> 4) << 3
        return kind | cluster << 6 | item << 28

    def listed(self, blocks: list[int]) -> bytes:
        """Addresses as a descriptor or a pointer block has them."""
        return pack(f"<{len(blocks)}{'Q' if self.six else 'I'}", *blocks)
