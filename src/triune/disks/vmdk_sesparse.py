"""Extents of snapshots on VMFS6, and of thin disks of View: "seSparse".

VMware never published the format. Source: block/vmdk.c of QEMU (Sam Eiderman, 2019) and dissect.hypervisor. Numbers
are little-endian and of 64 bits, places in sectors. The constant header is followed by a volatile one. An entry of the
grain directory is 0, or 0x1 in its highest nibble and the number of a grain table in its low half; one of a grain table
has in its highest nibble 0 no grain, 1 unmapped by the guest, 2 zeros, 3 a grain whose number is in the other bits: the
lowest 12 of it in bits 48-59, the rest in bits 0-47.

Readers differ on unmapped grains: here as in QEMU they are zeros, for the guest that discarded them must not see the
parent's bytes again.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from triune.disks.content import Content, Lost, Run, read
from triune.disks.source import Unreadable
from triune.disks.vmdk_layout import SECTOR, corrupt
from triune.disks.vmdk_pieces import (
    ABSENT,
    ZEROS,
    Absent,
    Numbers,
    Reasons,
    pieces,
    read_numbers,
    shared_grains,
    stored,
)

MAGIC = b"\xbe\xba\xfe\xca\x00\x00\x00\x00"
_CONSTANT = struct.Struct("<26Q")
_VOLATILE = struct.Struct("<4Q")
_VOLATILE_MAGIC = 0xCAFECAFE
_VERSION = 0x0000000200000001
_MOST_TABLES = 1 << 22  # of 4096 grains of 4 KiB: 64 TiB
_MOST_SECTORS = 1 << 54
_GRAIN, _TABLE = 8, 64
_MOST_BACKMAP = 1 << 18  # sectors: 64 GiB of grains


class SeSparseExtent:
    """One extent in one file. `size` in bytes, as its header says."""

    def __init__(self, content: Content, head: bytes) -> None:
        """`head` is the file's first sector. Raises Invalid("corrupt_image")."""
        if len(head) < SECTOR or not head.startswith(MAGIC):
            raise corrupt("its header is cut off")
        fields = _CONSTANT.unpack_from(head)
        _, version, self._capacity, grain, table, *_ = fields
        if version != _VERSION:
            raise corrupt(f"version {version:#x} of its header is not known")
        # No other sizes were ever seen, and QEMU reads no others: a changed one would move every offset.
        if grain != _GRAIN or table != _TABLE or self._capacity > _MOST_SECTORS:
            raise corrupt("its grains have an absurd size")
        if max(fields[10:26]) > _MOST_SECTORS:
            raise corrupt("its tables are out of reach")
        self.content = content
        self._backmap = fields[22], fields[23]
        self._reasons = Reasons()
        self._look_at_volatile(fields[10])
        self._tables = _SeSparseTables(content, fields, self._reasons)

    @property
    def size(self) -> int:
        """Of this part of the disk."""
        return int(self._capacity) * SECTOR

    def notes(self) -> Sequence[str]:
        """What is wrong with it, as far as it was read."""
        return self._reasons.told()

    def marked_grains(self) -> int | None:
        """How many grains the extent's own list of what each holds ("backmap") tells of; None where it has none."""
        sector, sectors = self._backmap
        if not 0 < sectors <= _MOST_BACKMAP:
            return None
        numbers, known = read_numbers(self.content, sector * SECTOR, sectors * SECTOR // 8, "<u8")
        return int((numbers != 0).sum()) if known.all() else None

    def shared_grains(self) -> tuple[int, int] | None:
        """Grains that are stored, and those that lie on another one; None where there are too many to compare."""
        return shared_grains(self._tables, self._tables.count)

    def runs(self, start: int, end: int) -> Iterator[Run | Absent]:
        """What lies between."""
        for piece in pieces(self._tables, start, min(end, self.size)):
            if piece.at == ABSENT:
                yield Absent(piece.offset, piece.length)
            elif piece.at == ZEROS:
                yield Run(piece.offset, piece.length)
            elif piece.at < 0:
                yield Run(piece.offset, piece.length, why=self._reasons.text(piece.at))
            else:
                yield from stored(self.content, piece)

    def _look_at_volatile(self, sector: int) -> None:
        try:
            raw = read(self.content, sector * SECTOR, _VOLATILE.size)
        except (Lost, Unreadable):
            raw = b""
        magic, _, _, replay = _VOLATILE.unpack(raw.ljust(_VOLATILE.size, b"\0"))
        if magic != _VOLATILE_MAGIC:
            self._reasons.tell("its second header is damaged: whether it was closed cleanly is unknown")
        elif replay:
            self._reasons.tell(
                "it was not closed cleanly: its journal was not applied, what was written last is unsure"
            )


class _SeSparseTables:
    packed = False

    def __init__(self, content: Content, fields: tuple[int, ...], reasons: Reasons) -> None:
        self._content, self._reasons = content, reasons
        capacity, grain, table = fields[2:5]
        directory, directory_size, self._tables_at, tables_size = fields[16:20]
        self._grains_at = fields[24]
        self.grain, self.entries = grain * SECTOR, table * SECTOR // 8
        self._table_size = table
        self._most_tables = tables_size // table
        self._capacity = capacity
        needed = -(-capacity // (grain * self.entries))
        if needed > _MOST_TABLES:
            raise corrupt("it has too many grain tables")
        told = min(needed, directory_size * SECTOR // 8)
        numbers, known = read_numbers(content, directory * SECTOR, told, "<u8")
        self._directory = np.zeros(needed, dtype=np.uint64)
        self._known = np.zeros(needed, dtype=np.bool_)
        self._directory[:told], self._known[:told] = numbers, known
        self._present: NDArray[np.int64] = np.flatnonzero((self._directory != 0) | ~self._known).astype(np.int64)
        self.table = lru_cache(maxsize=64)(self._table)

    @property
    def count(self) -> int:
        """How many tables the disk takes."""
        return len(self._directory)

    def next_present(self, number: int) -> int:
        """The first table from there on that isn't wholly absent."""
        place = int(np.searchsorted(self._present, number))
        return int(self._present[place]) if place < len(self._present) else 1 << 62

    def _table(self, number: int) -> Numbers | int:
        entry = int(self._directory[number])
        if not self._known[number]:
            return self._reasons.code("its grain directory is lost")
        if entry == 0:
            return ABSENT
        place = entry & 0xFFFFFFFF
        if entry >> 32 != 0x10000000 or place >= self._most_tables:
            return self._reasons.code("its entry in the grain directory is damaged")
        at = (self._tables_at + place * self._table_size) * SECTOR
        numbers, known = read_numbers(self._content, at, self.entries, "<u8")
        rest = -(-self._capacity * SECTOR // self.grain) - number * self.entries
        numbers[max(0, rest) :] = 0
        return self._places(numbers, known)

    def _places(self, numbers: NDArray[np.uint64], known: NDArray[np.bool_]) -> Numbers:
        kinds = numbers >> np.uint64(60)
        grains = (numbers >> np.uint64(48) & np.uint64(0xFFF)) | (
            (numbers & np.uint64(0xFFFFFFFFFFFF)) << np.uint64(12)
        )
        most = max(0, self._content.size - self._grains_at * SECTOR) // self.grain + 1
        bad = ~known | (kinds > 3) | ((kinds == 0) & (numbers != 0)) | ((kinds == 3) & (grains >= np.uint64(most)))
        found = np.full(len(numbers), ABSENT, dtype=np.int64)
        found[(kinds == 1) | (kinds == 2)] = ZEROS
        held = (kinds == 3) & ~bad
        found[held] = self._grains_at * SECTOR + grains[held].astype(np.int64) * self.grain
        if bad.any():
            found[bad] = self._reasons.code("its entry in the grain table is lost or damaged")
        return found
