"""The tree of a damaged volume: names and parents from wherever they survive.

Best are folders that can be read by way of their FDs. Then directories found by their own begin (VMFS3 and 5: `.` and
`..` tell whose they are), then single blocks of entries (VMFS6, where the FDs name their parents), then entries that
journals still hold. An entry counts where the generation it repeats is that of the FD.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from triune.disks.content import read
from triune.disks.vmfs import directory
from triune.disks.vmfs.address import ROOT
from triune.disks.vmfs.blocks import FileContent
from triune.disks.vmfs.damaged import Damaged
from triune.disks.vmfs.directory import Entry
from triune.services.rescue.generations import Generation, Node, parsed
from triune.services.rescue.rebuild_maps import Maps, folder_marks

_DEPTH = 128
_FOLDER = 2
_BLOCK_HEAD = 64
_MOST_JOURNALS = 64
_JOURNAL_NARROW, _JOURNAL_WIDE = 1 << 20, 2 << 20
_JOURNAL_AT = slice(0x64, 0x6C)
_ENTRY_NARROW = re.compile(rb"[\x02-\x06]\0\0\0(?=....{4}[^\0/]{1,127}\0)", re.DOTALL)
READ, CARVED, JOURNAL, TEXT = (
    "its folder",
    "a directory found without its folder",
    "a journal",
    "a text that names it",
)
_BEST = (READ, CARVED, JOURNAL, TEXT)


@dataclass(frozen=True, slots=True)
class Name:
    """What a file is called, in which folder (the address of its FD, 0 unknown), and what says so."""

    name: str
    parent: int
    type: int
    generation: int
    evidence: str


class Names:
    """The names of a generation's files by their FDs' addresses, lost FDs included."""

    def __init__(self, generation: Generation, maps: Maps) -> None:
        self._generation, self._maps = generation, maps
        self._geometry = maps.geometry
        self.found: dict[int, Name] = {}
        self.whole: set[int] = set()  # folders whose listing is as their FD says
        self.damaged: dict[int, list[str]] = {}
        self.children: dict[int, int] = {}
        self._read_folders()
        self._carve()
        self._replay()
        self._settle()

    def path(self, address: int) -> str | None:
        """The path below the root; None where a part of it is not known."""
        parts: list[str] = []
        seen: set[int] = set()
        while address != ROOT:
            name = self.found.get(address)
            if name is None or not name.parent or address in seen or len(parts) > _DEPTH:
                return None
            seen.add(address)
            parts.append(name.name)
            address = name.parent
        return "/".join(reversed(parts))

    def offer(self, address: int, name: Name) -> None:
        """Take a name where there is none as good."""
        old = self.found.get(address)
        node = self._generation.nodes.get(address)
        if node is not None:
            if name.generation and name.generation != node.descriptor.generation:
                return
            if node.descriptor.parent and self._geometry.wide:
                name = replace(name, parent=node.descriptor.parent)
        if old is None or (_BEST.index(name.evidence), not name.parent) < (
            _BEST.index(old.evidence),
            not old.parent,
        ):
            self.found[address] = name

    def _read_folders(self) -> None:
        for address, node in self._generation.nodes.items():
            if node.descriptor.folder:
                self._read_folder(address, node)

    def _read_folder(self, address: int, node: Node) -> None:
        loaded = parsed(self._generation.read(node.place, self._geometry.descriptor_size), self._geometry)
        if loaded is None or loaded.length > 1 << 32:
            return
        content = FileContent(loaded, self._maps.resources)
        listing = directory.Listing(lambda offset, length: read(content, offset, length), content.size, self._geometry)
        if not self._own(listing, address):
            self.damaged[address] = ["its begin is lost"]
            return
        count = 0
        for entry in listing.entries():
            count += 1
            self._take(entry, address, READ)
        if listing.damages:
            self.damaged[address] = listing.damages
        else:
            self.whole.add(address)
        self.children[address] = count

    def _own(self, listing: directory.Listing, address: int) -> bool:
        """Whether the directory's `.` is this folder: else it is something else, or nothing."""
        try:
            head = listing.read(0x3B8 if self._geometry.wide else 0, 8)
        except Exception:  # whatever is missing
            return False
        return len(head) == 8 and int.from_bytes(head[4:], "little") == address

    def _take(self, entry: Entry, parent: int, evidence: str) -> None:
        self.offer(entry.address, Name(entry.name, parent, entry.type, entry.generation, evidence))

    def _carve(self) -> None:
        if self._generation.wide:
            for place in self._generation.places("dirents6"):
                for entry in self._entries_wide(self._generation.read(place, self._generation.unit)):
                    self._take(entry, 0, CARVED)
            return
        for place, address in folder_marks(self._generation):
            if address not in self.whole:
                for entry in self._entries_at(place):
                    self._take(entry, address, CARVED)

    def _entries_wide(self, data: bytes) -> Iterator[Entry]:
        slots = min(448, (len(data) - _BLOCK_HEAD) // directory.ENTRY_SIZE_WIDE)
        for slot in range(slots):
            if data[8 + (slot >> 3)] >> (slot & 7) & 1:
                continue
            try:
                entry = directory.parse_entry_wide(data, _BLOCK_HEAD + slot * directory.ENTRY_SIZE_WIDE)
            except Damaged:
                continue
            if entry.name not in {".", ".."} and entry.at % self._generation.unit == (
                _BLOCK_HEAD + slot * directory.ENTRY_SIZE_WIDE
            ):
                yield entry

    def _entries_at(self, place: int) -> Iterator[Entry]:
        """A directory of VMFS3 and 5 from its begin on, as far as it goes on in its block."""
        block = self._geometry.file_block if place % self._geometry.file_block == 0 else self._geometry.sub_block
        data = self._generation.read(place, block - place % block)
        for offset in range(0, len(data) - directory.ENTRY_SIZE + 1, directory.ENTRY_SIZE):
            try:
                entry = directory.parse_entry(data, offset, offset)
            except Damaged:
                return
            if entry is None:
                return
            if entry.name not in {".", ".."}:
                yield entry

    def _replay(self) -> None:
        """Entries in the after-images of the journals; VMFS6's are whole blocks, found where they lie."""
        if self._generation.wide:
            return
        for data in journals(self._generation):
            for match in _ENTRY_NARROW.finditer(data):
                try:
                    entry = directory.parse_entry(data, match.start(), match.start())
                except Damaged:
                    continue
                if entry is not None and entry.name.isprintable() and entry.address in self._generation.nodes:
                    self._take(entry, 0, JOURNAL)

    def _settle(self) -> None:
        """Give those without a known folder the only one they can be in: the one whose listing is lost."""
        lost = [address for address in self._folders() if address not in self.whole]
        if self._generation.wide or len(lost) != 1:
            return
        for address, name in self.found.items():
            if not name.parent and address != lost[0]:
                self.found[address] = replace(name, parent=lost[0])

    def lost_folder(self) -> int:
        """The one folder whose listing is lost; 0 where there is none, or more than one."""
        lost = [address for address in self._folders() if address not in self.whole]
        return lost[0] if len(lost) == 1 else 0

    def _folders(self) -> set[int]:
        known = {address for address, node in self._generation.nodes.items() if node.descriptor.folder}
        return known | {address for address, name in self.found.items() if name.type == _FOLDER} | {ROOT}


def journals(generation: Generation) -> Iterator[bytes]:
    """The journals of the hosts."""
    seen: set[int] = set()
    for where in _journal_places(generation):
        if where and where not in seen and where < generation.space.size and len(seen) < _MOST_JOURNALS:
            seen.add(where)
            yield generation.read(where, _JOURNAL_WIDE if generation.wide else _JOURNAL_NARROW)


def _journal_places(generation: Generation) -> Iterator[int]:
    """As heartbeats tell, and VMFS6's by their own mark."""
    for kind in ("heartbeat", "heartbeat-free"):
        for place in generation.places(kind):
            yield int.from_bytes(generation.read(place, 512)[_JOURNAL_AT], "little")
    if generation.wide:
        yield from generation.places("journal")
