"""Directories: an array of entries (VMFS3, 5), or hashed blocks with allocation maps (VMFS6).

Each is read as a stream of entries. What is damaged is left out and said; the rest is read on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from struct import Struct

from triune.disks.vmfs.damaged import Damaged, text, unpack
from triune.disks.vmfs.geometry import Geometry
from triune.domain.errors import TriuneError

ENTRY_SIZE = 140
ENTRY_SIZE_WIDE = 288
HEADER_SIZE = 0x10000
MOST_ENTRIES = 1 << 20
_MOST_BLOCKS = 1 << 18
_MOST_DAMAGES = 1024
_VERSIONS = (0xF50001, 0xFDC001)
_ENTRY = Struct("<III128s")
_ENTRY_WIDE = Struct("<IIIIQ256s")
_HEADER = Struct("<IIII")
_MAPS = Struct("<128I")
_BLOCK = Struct("<HHHH56s")
_ENTRIES, _MAP = 1, 3
_SELF, _PARENT = 0x3B8, 0x4D8
_TYPES = range(2, 7)

Read = Callable[[int, int], bytes]


@dataclass(frozen=True, slots=True)
class Entry:
    """A name in a folder. `address` and `generation` are those of its FD; `at` is where in the directory it stands.

    `hash` is the low half of the name's hash (VMFS6).
    """

    type: int
    address: int
    generation: int
    name: str
    at: int
    hash: int = 0


class _Said(list[str]):
    """Sentences, as many as anybody wants to read."""

    def append(self, why: str) -> None:
        """One more, unless there are many."""
        if len(self) < _MOST_DAMAGES:
            super().append(why)


@dataclass(slots=True)
class Listing:
    """Reads one directory by `read(offset, length)`. `damages` grows while it is read."""

    read: Read
    size: int
    geometry: Geometry
    damages: list[str] = field(default_factory=_Said)

    def entries(self) -> Iterator[Entry]:
        """Every entry but `.` and `..`, in the order they stand; no more than MOST_ENTRIES."""
        found = self._wide() if self.geometry.wide else self._narrow()
        for number, entry in enumerate(found):
            if number >= MOST_ENTRIES:
                self.damages.append(f"it has more than {MOST_ENTRIES} entries")
                return
            if entry.name not in {".", ".."}:
                yield entry

    def _chunk(self, offset: int, length: int) -> bytes:
        try:
            data = self.read(offset, length)
        except TriuneError as error:
            self.damages.append(f"its bytes at {offset} are missing: {getattr(error, 'why', '') or error.message}")
            return b""
        if len(data) < length:
            self.damages.append(f"its bytes at {offset + len(data)} are missing")
        return data

    def _narrow(self) -> Iterator[Entry]:
        step = ENTRY_SIZE * 64
        end = min(self.size // ENTRY_SIZE, MOST_ENTRIES) * ENTRY_SIZE
        if end + ENTRY_SIZE <= self.size:
            self.damages.append(f"it is too long for a folder: {self.size} bytes")
        if end < 2 * ENTRY_SIZE:  # `.` and `..`
            self.damages.append(f"it is too short for a folder: {self.size} bytes")
        for begin in range(0, end, step):
            data = self._chunk(begin, min(step, end - begin))
            if not any(data):
                continue
            for offset in range(0, len(data) // ENTRY_SIZE * ENTRY_SIZE, ENTRY_SIZE):
                try:
                    entry = parse_entry(data, offset, begin + offset)
                except Damaged as damaged:
                    self.damages.append(damaged.why)
                    continue
                if entry is not None:
                    yield entry

    def _wide(self) -> Iterator[Entry]:
        head = self._chunk(0, min(HEADER_SIZE, self.size))
        try:
            header = parse_header(head)
        except Damaged as damaged:
            self.damages.append(damaged.why)
            yield from self._blocks(range(self._count), believed=False)
            return
        # `.` and `..` are counted, and stand in the header.
        expected = header.entries - sum(1 for at in (_SELF, _PARENT) if any(head[at : at + 8]))
        mapped = self._mapped(header)
        found = 0
        for entry in self._blocks(mapped, believed=True):
            found += 1
            yield entry
        if found < expected:
            rest = sorted(set(range(self._count)) - set(mapped))
            for entry in self._blocks(rest, believed=False):
                found += 1
                yield entry
        if found != expected:
            self.damages.append(f"it has {found} entries instead of {expected}")

    @property
    def _count(self) -> int:
        """How many blocks follow the header."""
        return min(_MOST_BLOCKS, max(0, self.size - HEADER_SIZE) // self.geometry.alignment)

    def _mapped(self, header: Header) -> list[int]:
        """The blocks that the allocation maps give as blocks of entries, each once."""
        per_map = 2 * (self.geometry.alignment - _BLOCK.size)
        found: dict[int, None] = {}
        for number, block in enumerate(header.maps):
            if block >= self._count:
                self.damages.append("an allocation map lies beyond its end")
                continue
            data = self._chunk(HEADER_SIZE + block * self.geometry.alignment, self.geometry.alignment)
            for index, byte in enumerate(data[_BLOCK.size :]):
                for half, nibble in enumerate((byte >> 4, byte & 0xF)):
                    place = number * per_map + 2 * index + half
                    if nibble & 3 == _ENTRIES and not nibble & 4 and place < self._count:
                        found[place] = None
        return list(found)

    def _blocks(self, numbers: range | list[int], *, believed: bool) -> Iterator[Entry]:
        """The entries of blocks; those not `believed` to be blocks of entries are passed over without a word."""
        size = self.geometry.alignment
        for number in numbers:
            begin = HEADER_SIZE + number * size
            data = self._chunk(begin, size)
            try:
                yield from parse_block(data, begin, self.damages)
            except Damaged as damaged:
                if believed:
                    self.damages.append(damaged.why)


@dataclass(frozen=True, slots=True)
class Header:
    """Head of a VMFS6 directory: how many entries it has (`.` and `..` too), and the blocks that hold its maps."""

    entries: int
    maps: tuple[int, ...]


def parse_header(data: bytes) -> Header:
    """From the first 64 KiB of a directory. Raises Damaged."""
    what = "the head of a directory"
    version, entries, _, maps = unpack(_HEADER, data, 0, what)
    if version not in _VERSIONS:
        raise Damaged(f"{what} has the mark {version:#x}")
    listed = unpack(_MAPS, data, 0x10, what)
    if maps > len(listed):
        raise Damaged(f"{what} counts {maps} maps")
    return Header(entries, listed[:maps])


def parse_block(data: bytes, begin: int, damages: list[str]) -> Iterator[Entry]:
    """The entries in use of a block that stands at `begin`. Raises Damaged where it is no block of entries."""
    _, kind, slots, _, bitmap = unpack(_BLOCK, data, 0, "a directory block")
    if kind != _ENTRIES or slots > (len(data) - _BLOCK.size) // ENTRY_SIZE_WIDE:
        raise Damaged("a directory block is no block of entries")
    for slot in range(slots):
        if bitmap[slot >> 3] >> (slot & 7) & 1:
            continue
        offset = _BLOCK.size + slot * ENTRY_SIZE_WIDE
        try:
            entry = parse_entry_wide(data, offset)
        except Damaged as damaged:
            damages.append(damaged.why)
            continue
        if entry.at != begin + offset:
            damages.append(f"the entry {entry.name!r} stands where it should not")
            continue
        yield entry


def parse_entry(data: bytes, offset: int, at: int) -> Entry | None:
    """An entry of VMFS3 and 5; None for an empty one. Raises Damaged."""
    kind, address, generation, name = unpack(_ENTRY, data, offset, "a directory entry")
    if address == 0:
        return None
    return Entry(*_checked(kind, address), generation, _name(name), at)


def parse_entry_wide(data: bytes, offset: int) -> Entry:
    """An entry of VMFS6. Raises Damaged."""
    kind, address, generation, low, at, name = unpack(_ENTRY_WIDE, data, offset, "a directory entry")
    return Entry(*_checked(kind, address), generation, _name(name), at, low)


def _checked(kind: int, address: int) -> tuple[int, int]:
    if kind not in _TYPES or address & 7 != 4:
        raise Damaged("a directory entry holds something else")
    return kind, address


def _name(raw: bytes) -> str:
    """A name without the separator: whatever it holds, it is one step of a path."""
    name = text(raw).replace("/", "\\x2f")
    if not name:
        raise Damaged("a directory entry has no name")
    return name
