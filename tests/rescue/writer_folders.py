"""The folders of a volume that tests write to: VMFS5's arrays of entries, VMFS6's blocks with a hash table."""

from __future__ import annotations

from abc import abstractmethod
from random import Random
from struct import pack, pack_into

from tests.rescue.layout import FOLDER, LIST5, LIST6, ROOT, Layout, Meta, u16, u32, u64
from tests.rescue.namehash import ROOT_SLOTS, SLOTS, name_hash

ENTRY5, ENTRY6 = 140, 288
HEAD, BLOCK = 0x10000, 4096
PER_BLOCK = 14  # entries in a block of a VMFS6 folder
TABLE = 0x5F8


class Folders(Layout):
    """Adds entries to folders and takes them out again."""

    random: Random
    generation: int

    @abstractmethod
    def take(self, kind: int, count: int, *, scattered: bool = False) -> list[int]: ...

    @abstractmethod
    def descriptor(
        self, meta: Meta, *, parent: int, mode: int, body: bytes = b"", count: int = 0, pointers: int = 0, tbz: int = 0
    ) -> None: ...

    @abstractmethod
    def _own(self, address: int, fd: int, step: int) -> None: ...

    # --- paths --------------------------------------------------------------------------------------------------

    def listing(self, folder: int) -> dict[str, tuple[int, int]]:
        """Names to (kind, address)."""
        meta = self.fd(folder)
        return {name: (kind, address) for _, name, kind, address in self._entries_of(meta)}

    def _entries_of(self, meta: Meta) -> list[tuple[int, str, int, int]]:
        """(offset in the folder, name, kind, address) of every entry."""
        places = self._slots6(meta) if self.six else range(0, meta.size, ENTRY5)
        size, at = (ENTRY6, 0x18) if self.six else (ENTRY5, 12)
        found = []
        for place in places:
            raw = self._bytes(meta, place, size)
            name = raw[at : at + (256 if self.six else 128)].split(b"\0")[0].decode()
            if name:
                found.append((place, name, u32(raw, 0), u32(raw, 4)))
        return found

    def entry(self, folder: int, name: str) -> int:
        """The address of a name."""
        return self.listing(folder)[name][1]

    def place(self, path: str) -> tuple[int, str]:
        """(folder, name) of a path; folders on the way must be there."""
        *folders, name = path.split("/")
        address = ROOT
        for each in folders:
            address = self.entry(address, each)
        return address, name

    def make_folder(self, path: str) -> int:
        """An empty folder; its address."""
        parent, name = self.place(path)
        (address,) = self.take(4, 1)
        blocks = self.take(2, 2 if self.six else 1)
        self.generation += 1
        size = HEAD + BLOCK if self.six else 2 * ENTRY5
        slots = LIST6 if self.six else LIST5
        listed = (*blocks, *([0] * (slots - len(blocks))))
        meta = Meta(address, self.fd_offset(address), FOLDER, self.generation, size, self.sub_block, 2, listed)
        self.descriptor(meta, parent=parent, mode=0o755, count=len(blocks))
        for block in blocks:
            self.write(self.at(block), bytes(self.sub_block))
        other = self.fd(parent)
        if self.six:
            self._put(meta, 0, pack("<IIII", 0xF50001, 2, 2, 1))
            self._put(meta, 0x3B8, self._entry6(".", meta, 0x3B8, 0))
            self._put(meta, 0x4D8, self._entry6("..", other, 0x4D8, 0))
            self._put(meta, HEAD, pack("<HHHH", 0, 3, 0, 0).ljust(64, b"\0") + b"\x38" + b"\x88" * (BLOCK - 65))
        else:
            self._put(meta, 0, _entry5(".", meta) + _entry5("..", other))
        self.enter(parent, name, meta)
        return address

    def enter(self, folder: int, name: str, meta: Meta) -> None:
        """Put a name into a folder."""
        if self.six:
            self._enter6(folder, name, meta)
        else:
            at = self.fd(folder).size
            self._grow(folder, at + ENTRY5)
            self._put(self.fd(folder), at, _entry5(name, meta))

    def leave(self, folder: int, name: str) -> None:
        """Take a name out of a folder."""
        meta = self.fd(folder)
        at = next(place for place, each, _, _ in self._entries_of(meta) if each == name)
        if self.six:
            self._leave6(meta, at, name)
            return
        last = meta.size - ENTRY5
        self._put(meta, at, self._bytes(meta, last, ENTRY5))
        self._patch_size(folder, last, None)

    # --- bytes of a folder --------------------------------------------------------------------------------------

    def _bytes(self, meta: Meta, offset: int, length: int) -> bytes:
        out = b""
        while length:
            part = min(length, meta.block_size - offset % meta.block_size)
            out += self.read(self.file_offset(meta, offset), part)
            offset, length = offset + part, length - part
        return out

    def _put(self, meta: Meta, offset: int, data: bytes) -> None:
        while data:
            part = min(len(data), meta.block_size - offset % meta.block_size)
            self.write(self.file_offset(meta, offset), data[:part])
            offset, data = offset + part, data[part:]

    def _patch_size(self, folder: int, size: int, blocks: int | None) -> None:
        at = self.fd_offset(folder) + self.block
        self.write(at + 0x14, pack("<Q", size))
        if blocks is not None:
            self.write(at + 0x24, pack("<Q", blocks))

    def _grow(self, folder: int, size: int) -> None:
        meta = self.fd(folder)
        blocks = list(meta.blocks)
        have = sum(1 for address in blocks if address)
        while have * meta.block_size < size:
            (blocks[have],) = self.take(meta.zla, 1)
            self.write(self.at(blocks[have]), bytes(meta.block_size))
            if meta.zla == 1:
                self._own(blocks[have], folder, 1)
            have += 1
        listed = self.listed(blocks)
        self.write(meta.offset + self.fd_size - len(listed), listed)
        self._patch_size(folder, size, have)

    # --- VMFS6 --------------------------------------------------------------------------------------------------

    def _entry6(self, name: str, meta: Meta, offset: int, value: int) -> bytes:
        head = pack("<IIIIQ", meta.kind, meta.address, meta.generation, value & 0xFFFFFFFF, offset)
        return (head + name.encode()).ljust(ENTRY6, b"\0")

    def _nibble(self, meta: Meta, block: int) -> int:
        byte = self._bytes(meta, HEAD + 64 + block // 2, 1)[0]
        return byte & 15 if block % 2 else byte >> 4

    def _set_nibble(self, meta: Meta, block: int, value: int) -> None:
        at = HEAD + 64 + block // 2
        byte = self._bytes(meta, at, 1)[0]
        self._put(meta, at, bytes([byte & 0xF0 | value if block % 2 else byte & 0x0F | value << 4]))

    def _slots6(self, meta: Meta) -> list[int]:
        """Offsets of the entries in use."""
        found = []
        for block in range((meta.size - HEAD) // BLOCK):
            if self._nibble(meta, block) & 3 == 1:
                start = HEAD + block * BLOCK
                head = self._bytes(meta, start, 64)
                taken = [slot for slot in range(PER_BLOCK) if not u64(head, 8) >> slot & 1]
                found += [start + 64 + slot * ENTRY6 for slot in taken]
        return found

    def _counts(self, meta: Meta, step: int) -> None:
        head = self._bytes(meta, 0, 12)
        self._put(meta, 4, pack("<II", u32(head, 4) + step, u32(head, 8) + step))

    def _slot_of(self, meta: Meta, name: str) -> tuple[int, int]:
        """(hash, offset of its slot in the table)."""
        value = name_hash(name)
        return value, TABLE + value % (ROOT_SLOTS if meta.address == ROOT else SLOTS) * 4

    def _free_block(self, folder: int) -> tuple[int, int]:
        """(block, slot) that is free, in a new block where none is."""
        meta = self.fd(folder)
        count = (meta.size - HEAD) // BLOCK
        for block in range(count):
            if self._nibble(meta, block) & 7 == 5:
                bits = u64(self._bytes(meta, HEAD + block * BLOCK, 16), 8)
                return block, (bits & -bits).bit_length() - 1
        self._grow(folder, meta.size + BLOCK)
        meta = self.fd(folder)
        fresh = bytearray(BLOCK)
        pack_into("<HHHHQ", fresh, 0, 1, 1, PER_BLOCK, PER_BLOCK, (1 << PER_BLOCK) - 1)
        self._put(meta, HEAD + count * BLOCK, bytes(fresh))
        self._set_nibble(meta, count, 5)
        return count, 0

    def _enter6(self, folder: int, name: str, what: Meta) -> None:
        value, slot = self._slot_of(self.fd(folder), name)
        if u32(self._bytes(self.fd(folder), slot, 4), 0):
            raise ValueError(f"{name} has the hash of another name: choose one")
        block, number = self._free_block(folder)
        meta = self.fd(folder)
        start = HEAD + block * BLOCK
        head = self._bytes(meta, start, 16)
        self._put(meta, start + 6, pack("<HQ", u16(head, 6) - 1, u64(head, 8) & ~(1 << number)))
        if u16(head, 6) == 1:
            self._set_nibble(meta, block, 1)
        at = start + 64 + number * ENTRY6
        self._put(meta, at, self._entry6(name, what, at, value))
        self._put(meta, slot, pack("<I", 1 | block << 2 | number << 24))
        self._counts(meta, 1)

    def _leave6(self, meta: Meta, at: int, name: str) -> None:
        block = (at - HEAD) // BLOCK
        start = HEAD + block * BLOCK
        number = (at - start - 64) // ENTRY6
        head = self._bytes(meta, start, 16)
        self._put(meta, at, bytes(ENTRY6))
        self._put(meta, start + 6, pack("<HQ", u16(head, 6) + 1, u64(head, 8) | 1 << number))
        self._set_nibble(meta, block, 5)
        self._put(meta, self._slot_of(meta, name)[1], bytes(4))
        self._counts(meta, -1)


def _entry5(name: str, meta: Meta) -> bytes:
    return (pack("<III", meta.kind, meta.address, meta.generation) + name.encode()).ljust(ENTRY5, b"\0")
