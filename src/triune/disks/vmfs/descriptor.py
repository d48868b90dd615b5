"""File descriptors: what a volume knows of one file."""

from __future__ import annotations

import sys
from array import array
from dataclasses import dataclass
from enum import IntEnum
from struct import Struct

from triune.disks.vmfs import lock as locks
from triune.disks.vmfs.address import Kind
from triune.disks.vmfs.damaged import Damaged, text, unpack
from triune.disks.vmfs.geometry import MOST_BYTES, Geometry

SIGNATURE = 0x66646D64  # "fdmd"
_META = Struct("<IIIIIQQQIIIIIIIII")  # to 0x50
_MORE = Struct("<III")  # pointer blocks at 0x5C, new since epoch, signature
_WIDE = Struct("<II12xB")  # parent at 0x70, last cluster, blocks held ready behind the end at 0x84
_RDM = Struct("<BBHBB8s16s4s44s")
_S_IFMT, _S_IFDIR = 0o170000, 0o040000


class FileType(IntEnum):
    """What an FD says it describes."""

    FOLDER = 2
    FILE = 3
    LINK = 4
    SYSTEM = 5
    RDM = 6


class Layout(IntEnum):
    """How an FD points to its content ("zero level address")."""

    NONE = 0
    BLOCKS = 1
    SUB_BLOCKS = 2
    POINTERS = 3
    POINTERS2 = 5
    DOUBLE = 0x10D0
    RESIDENT = 0x10D1


_LEVELS = {Layout.POINTERS: 1, Layout.POINTERS2: 1, Layout.DOUBLE: 2}
_TYPES, _LAYOUTS = frozenset(FileType), frozenset(Layout)


@dataclass(frozen=True, slots=True, kw_only=True)
class Descriptor:
    """One FD. `length` in bytes, `blocks` allocated, times in seconds since the epoch, `mode` as POSIX has it.

    `block_size` is what one address stands for. `parent` is the address of the folder's FD (VMFS6; 0 before it).
    `links` is 0 for a deleted file. `preallocated` blocks may lie behind the end. `raw` are all bytes of the FD.
    """

    lock: locks.Lock
    address: int
    generation: int
    links: int
    type: FileType
    flags: int
    length: int
    block_size: int
    blocks: int
    modified: int
    changed: int
    accessed: int
    uid: int
    gid: int
    mode: int
    layout: Layout
    zeroed_blocks: int
    pointer_blocks: int
    parent: int
    preallocated: int
    raw: bytes

    def small_for(self, geometry: Geometry) -> bool:
        """Whether its blocks are smaller than those that its layout takes: so its layout is another's."""
        whole = self.layout in (Layout.BLOCKS, Layout.POINTERS, Layout.POINTERS2, Layout.DOUBLE)
        return whole and self.block_size < geometry.file_block

    @property
    def folder(self) -> bool:
        """A directory, be it the volume's own."""
        return self.type == FileType.FOLDER or (self.type == FileType.SYSTEM and self.mode & _S_IFMT == _S_IFDIR)

    @property
    def levels(self) -> int:
        """How many pointer blocks lie between the list and a block."""
        return _LEVELS.get(self.layout, 0)

    def resident(self, geometry: Geometry) -> bytes:
        """The bytes that small files keep in the FD, as many as fit."""
        return self.raw[geometry.data_offset : geometry.descriptor_size]

    def addresses(self, geometry: Geometry) -> array[int]:
        """The list of addresses; 0 is a hole."""
        return numbers(self.raw[geometry.list_offset : geometry.descriptor_size], geometry)

    def rdm(self, geometry: Geometry) -> str:
        """Which raw device it points to: vendor, model and identity, as far as they are text."""
        _, length, _, _, _, vendor, model, _, identity = unpack(_RDM, self.resident(geometry), 0, "an RDM pointer")
        identity = identity[: min(length, len(identity))].strip(b"\0 ")
        printable = identity.isascii() and identity.decode("ascii", "replace").isprintable()
        words = [text(vendor), text(model), identity.decode("ascii") if printable else identity.hex()]
        return " ".join(" ".join(words).split())


def numbers(data: bytes | memoryview, geometry: Geometry) -> array[int]:
    """Addresses in a row; what is left over at the end is dropped."""
    size = geometry.address_size
    found = array("Q" if geometry.wide else "I", bytes(data[: len(data) // size * size]))
    if sys.byteorder == "big":
        found.byteswap()
    return found


def parse(data: bytes, geometry: Geometry) -> Descriptor:
    """From the bytes of an FD. Raises Damaged where they are none, or say what cannot be."""
    what = "a file descriptor"
    if len(data) < geometry.descriptor_size:
        raise Damaged(f"{what} is cut short")
    held = locks.parse(data)
    if held.type != locks.LockType.DESCRIPTOR:
        raise Damaged(f"{what} is expected, a {held.type.name.lower()} lock is there")
    base = geometry.unit
    address, generation, links, kind, flags, length, block_size, blocks, *rest = unpack(_META, data, base, what)
    modified, changed, accessed, uid, gid, mode, layout, zeroed, _ = rest
    pointer_blocks, _, signature = unpack(_MORE, data, base + 0x5C, what)
    parent, _, preallocated = unpack(_WIDE, data, base + 0x70, what)
    if geometry.wide and signature != SIGNATURE:
        raise Damaged(f"{what} has the mark {signature:#x}")
    if address & 7 != Kind.DESCRIPTOR or kind not in _TYPES:
        raise Damaged(f"{what} is empty")
    if layout not in _LAYOUTS:
        raise Damaged(f"{what} has the unknown layout {layout}")
    if length > MOST_BYTES or block_size & (block_size - 1) or not 512 <= block_size <= 1 << 30:
        raise Damaged(f"{what} has an impossible size")
    return Descriptor(
        lock=held,
        address=address,
        generation=generation,
        links=links,
        type=FileType(kind),
        flags=flags,
        length=length,
        block_size=block_size,
        blocks=blocks,
        modified=modified,
        changed=changed,
        accessed=accessed,
        uid=uid,
        gid=gid,
        mode=mode,
        layout=Layout(layout),
        zeroed_blocks=zeroed,
        pointer_blocks=pointer_blocks,
        parent=parent if geometry.wide else 0,
        preallocated=preallocated,
        raw=data[: geometry.descriptor_size],
    )
