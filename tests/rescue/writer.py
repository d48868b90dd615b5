"""Adds folders and files to a real VMFS5 or VMFS6, and deletes them as ESXi does, for tests.

Every image that comes out of here is shown to the independent readers before it counts (test_writer.py).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from struct import pack, pack_into

from tests.rescue import layout
from tests.rescue.layout import DOUBLE, FBB, FDC, FILE, FOLDER, PBC, RESIDENT, ROOT, SBC, Area, Layout, Meta, u16, u32
from tests.rescue.writer_folders import Folders

LATER = 86_400  # seconds after the volume itself: when all of these files were written
TBZ5, TBZ6 = 0x20, 0xFF << 7


@dataclass
class Content:
    """What a file holds: `pieces` at their offsets, zeros elsewhere. `junk` are blocks that the volume has
    allocated, still full of somebody else's bytes, and marked as to be zeroed."""

    size: int
    pieces: dict[int, bytes] = field(default_factory=dict)
    junk: frozenset[int] = frozenset()

    @classmethod
    def of(cls, data: bytes) -> Content:
        return cls(len(data), {0: data} if data else {})

    def part(self, offset: int, length: int) -> bytes:
        """The bytes there, zeros beyond the end."""
        out = bytearray(length)
        for at, piece in self.pieces.items():
            low, high = max(at, offset), min(at + len(piece), offset + length)
            if low < high:
                out[low - offset : high - offset] = piece[low - at : high - at]
        return bytes(out)

    def used(self, unit: int) -> list[int]:
        """The numbers of the blocks of `unit` bytes that hold something, ascending."""
        numbers: set[int] = set(self.junk)
        for at, piece in self.pieces.items():
            numbers.update(range(at // unit, -(-(at + len(piece)) // unit)))
        return sorted(numbers)


class Writer(Folders):
    """A volume that may be written to. `random` decides where things go when they are scattered."""

    def __init__(self, disk: layout.Overlay | layout.Joined, base: int = layout.BASE, *, seed: int = 1) -> None:
        Layout.__init__(self, disk, base)
        self.random = Random(seed)
        self.generation = 5000
        self.written = u32(self.read(0x200000, 0x200), 0xA9) + LATER

    # --- what is free -------------------------------------------------------------------------------------------

    def _map(self, area: Area, cluster: int) -> tuple[int, bytearray, int]:
        """(offset, meta block, bits per item) of a cluster."""
        at = area.header(cluster) + self.block
        two = self.six and bool(area.parent[2])
        return at, bytearray(self.read(at, self.block)), 2 if two else 1

    def _bit(self, item: int, bits: int) -> tuple[int, int]:
        """(byte, bit) of an item in a meta block. Two bits each come in pages of 256 items, 256 bytes apart."""
        if not self.six:
            return 0x10 + item // 8, item % 8
        page, inside = divmod(item, 256) if bits == 2 else (0, item)
        return 0x80 + page * 0x100 + inside * bits // 8, inside * bits % 8

    def _free(self, area: Area, cluster: int) -> list[int]:
        _, raw, bits = self._map(area, cluster)
        total = u16(raw, 0x20) if self.six else u32(raw, 4)
        places = (self._bit(item, bits) for item in range(total))
        return [item for item, (place, shift) in enumerate(places) if raw[place] >> shift & 1]

    def _mark(self, area: Area, cluster: int, item: int, *, free: bool) -> None:
        at, raw, bits = self._map(area, cluster)
        place, shift = self._bit(item, bits)
        raw[place] = raw[place] & ~(1 << shift) | (int(free) << shift)
        step = 1 if free else -1
        if self.six:
            pack_into("<H", raw, 0x22, u16(raw, 0x22) + step)
        else:
            pack_into("<I", raw, 8, u32(raw, 8) + step)
        self.write(at, bytes(raw))

    def area_of(self, kind: int) -> Area:
        """The resource file of an address kind: 1 FB, 2 SB, 3 PB, 4 FD."""
        if kind == 1:
            return self.area(FBB, child=self.six)
        return self.area({2: SBC, 3: SBC if self.six else PBC, 4: FDC}[kind])

    def take(self, kind: int, count: int, *, scattered: bool = False) -> list[int]:
        """Addresses of so many free items, marked as used; in order, or all over the volume."""
        area = self.area_of(kind)
        found: list[tuple[int, int]] = []
        for cluster in range(int(kind == 4), area.clusters):  # the first cluster of descriptors is the system's
            found += [(cluster, item) for item in self._free(area, cluster)]
            if len(found) >= count and not scattered:
                break
        chosen = self.random.sample(found, count) if scattered else found[:count]
        for cluster, item in chosen:
            self._mark(area, cluster, item, free=False)
        return [self.address(kind, cluster, item) for cluster, item in chosen]

    def release(self, address: int) -> None:
        """Mark an item as free; its bytes stay."""
        kind = address & 7
        if kind == 1:
            area = self.area_of(1)
            self._mark(area, *divmod(self.number(address), area.per_cluster), free=True)
        elif kind == 4:
            self._mark(self.area_of(4), (address >> 6) & 0xFFFF, address >> 22, free=True)
        else:
            self._mark(self.area({2: SBC, 3: PBC, 5: layout.PB2}[kind]), *self.parts(address), free=True)

    def _own(self, address: int, fd: int, step: int) -> None:
        """Write into the VMFS6 ownership table of a block's cluster that `fd` has one more, or one less."""
        if not self.six:
            return
        area = self.area_of(1)
        at, raw, _ = self._map(area, self.number(address) // area.per_cluster)
        entries = u16(raw, 0x26)
        for place in range(0x948, 0x948 + entries * 8, 8):
            if u32(raw, place) == fd:
                pack_into("<H", raw, place + 4, u16(raw, place + 4) + step)
                break
        else:
            pack_into("<IHH", raw, 0x948 + entries * 8, fd, 1, 0)
            pack_into("<H", raw, 0x26, entries + 1)
        self.write(at, bytes(raw))

    # --- file descriptors ---------------------------------------------------------------------------------------

    def descriptor(
        self, meta: Meta, *, parent: int, mode: int, body: bytes = b"", count: int = 0, pointers: int = 0, tbz: int = 0
    ) -> None:
        """Write a descriptor: lock, facts, and the list or the resident bytes."""
        raw = bytearray(self.fd_size)
        pack_into("<IQ", raw, 0, layout.FD_LOCK, meta.offset)
        pack_into("<Q", raw, 0x1C, 3)
        at = self.block
        pack_into(
            "<IIIIIQQQ", raw, at, meta.address, meta.generation, 1, meta.kind, 0, meta.size, meta.block_size, count
        )
        pack_into("<IIIIII", raw, at + 0x2C, *[self.written] * 3, 0, 0, mode)
        pack_into("<II", raw, at + 0x44, meta.zla, tbz)
        pack_into("<I", raw, at + 0x68, meta.address)
        raw[at + 0x89] = meta.block_size.bit_length() - 1
        if self.six:
            pack_into("<I", raw, at + 0x10, 9 if meta.zla != RESIDENT else 0)
            pack_into("<II", raw, at + 0x5C, pointers, 0)
            raw[at + 0x64 : at + 0x68] = b"dmdf"
            pack_into("<II", raw, at + 0x6C, 0x14, parent)
        if meta.zla == RESIDENT:
            raw[self.resident_at() : self.resident_at() + len(body)] = body
        else:
            listed = self.listed(list(meta.blocks))
            raw[self.fd_size - len(listed) :] = listed
        self.write(meta.offset, bytes(raw))

    def _patch(self, address: int, at: int, data: bytes) -> None:
        self.write(self.fd_offset(address) + self.block + at, data)

    # --- files --------------------------------------------------------------------------------------------------

    def make_file(
        self,
        path: str,
        content: bytes | Content,
        how: str = "",
        *,
        scattered: bool = False,
        kind: int = FILE,
        mode: int = 0o600,
    ) -> int:
        """A file; its address. `how` it is kept: resident, sub, list or pointer; by its size when nothing is said."""
        if isinstance(content, bytes):
            content = Content.of(content)
        how = how or self._usual(content)
        parent, name = self.place(path)
        (address,) = self.take(4, 1, scattered=scattered)
        unit = self.sub_block if how in {"resident", "sub"} else self.file_block
        blocks = {} if how == "resident" else self._stored(content, unit, how, address, scattered=scattered)
        zla, listed, pointers = self._zla(how, content, blocks)
        self.generation += 1
        meta = Meta(address, self.fd_offset(address), kind, self.generation, content.size, unit, zla, tuple(listed))
        body = content.part(0, content.size) if how == "resident" else b""
        tbz = len(content.junk)
        self.descriptor(meta, parent=parent, mode=mode, body=body, count=len(blocks), pointers=pointers, tbz=tbz)
        self.enter(parent, name, meta)
        return address

    def _usual(self, content: Content) -> str:
        if content.size <= self.resident():
            return "resident"
        if content.size <= self.sub_block:
            return "sub"
        return "list" if content.size <= self.file_block * (320 if self.six else 256) else "pointer"

    def _stored(self, content: Content, unit: int, how: str, fd: int, *, scattered: bool) -> dict[int, int]:
        """Write the bytes to new blocks: number of the block in the file to its address."""
        used = content.used(unit)
        kind = 2 if how == "sub" else 1
        blocks = dict(zip(used, self.take(kind, len(used), scattered=scattered), strict=True))
        for number, address in blocks.items():
            if kind == 1:
                self._own(address, fd, 1)
            if number in content.junk:
                self.write(self.at(address), b"somebody else's bytes " * 40)
                blocks[number] = address | (TBZ6 if self.six else TBZ5)
            else:
                self.write(self.at(address), content.part(number * unit, unit))
        return blocks

    def _zla(self, how: str, content: Content, blocks: dict[int, int]) -> tuple[int, list[int], int]:
        """(kind of list, list, number of pointer blocks). Pointer blocks are taken in order, as a file grows."""
        slots = layout.LIST6 if self.six else layout.LIST5
        if how == "resident":
            return RESIDENT, [0] * slots, 0
        if how in {"sub", "list"}:
            return (2 if how == "sub" else 1), [blocks.get(number, 0) for number in range(slots)], 0
        per = 8192 if self.six else 1024
        inner, made = self._pointers(blocks, per)
        if content.size <= slots * per * self.file_block:
            return 3, [inner.get(number, 0) for number in range(slots)], made
        outer, more = self._pointers(inner, per)
        return DOUBLE, [outer.get(number, 0) for number in range(slots)], made + more

    def _pointers(self, blocks: dict[int, int], per: int) -> tuple[dict[int, int], int]:
        """Pointer blocks over addresses: their numbers and addresses, and how many."""
        groups = sorted({number // per for number in blocks})
        made = dict(zip(groups, self.take(3, len(groups)), strict=True))
        for group, address in made.items():
            self.write(self.at(address), self.listed([blocks.get(group * per + n, 0) for n in range(per)]))
        return made, len(made)

    def addresses(self, meta: Meta) -> list[int]:
        """Every block and pointer block of a file, pointer blocks last."""
        if meta.zla == RESIDENT:
            return []
        listed = [address for address in meta.blocks if address]
        if meta.zla in {1, 2}:
            return listed
        inner = self._entries(listed)
        if meta.zla == DOUBLE:
            return [*self._entries(inner), *inner, *listed]
        return [*inner, *listed]

    def _entries(self, pointers: list[int]) -> list[int]:
        per = 8192 if self.six else 1024
        return [entry for address in pointers for n in range(per) if (entry := self.pointer(address, n))]

    # --- deletion -----------------------------------------------------------------------------------------------

    def delete(self, path: str) -> None:
        """As measured on VMFS6: facts of the descriptor stay but its links, size and list; bytes and pointer
        blocks stay. The same on VMFS5, where no deletion by ESXi was there to measure."""
        parent, name = self.place(path)
        address = self.entry(parent, name)
        meta = self.fd(address)
        for each in self.addresses(meta):
            self.release(each)
            if each & 7 == 1:
                self._own(each, address, -1)
        self.leave(parent, name)
        self.release(address)
        at = meta.offset
        self.write(at + 0x1C, pack("<Q", 9))
        self._patch(address, 8, bytes(4))
        self._patch(address, 0x14, bytes(8))
        self._patch(address, 0x24, bytes(8))
        end = self.fd_size - self.resident_at()
        self.write(at + self.resident_at(), bytes(end))


def walked(writer: Writer) -> dict[str, Meta]:
    """Every file and folder that the writer itself sees below the root, without system files."""
    found: dict[str, Meta] = {}
    todo = [("", ROOT)]
    while todo:
        folder, address = todo.pop()
        for name, (kind, entry) in writer.listing(address).items():
            if kind == layout.SYSTEM or name in {".", ".."}:
                continue
            found[folder + name] = writer.fd(entry)
            if kind == FOLDER:
                todo.append((f"{folder}{name}/", entry))
    return found
