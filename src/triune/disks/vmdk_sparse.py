"""Sparse extents of hosted products ("KDMV") and of snapshots on old VMFS ("COWD"), whole or damaged.

Source of the format: see `vmdk_layout`. Hosted extents hold every grain directory and table twice. Where both copies
can be right and differ, nobody knows which is: such grains are lost, not guessed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from triune.disks.content import Content, Run
from triune.disks.vmdk_layout import FOOTER, SECTOR, Layout, corrupt, read_layout
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
from triune.disks.vmdk_stream import Inflater, Walk, find_footer, walk

_INVALID = -1  # in raw numbers, before they become places
_PER_SECTOR = SECTOR // 4
_MOST_RANGES = 1 << 18


class SparseExtent:
    """One extent in one file. `size` in bytes, as its header says."""

    def __init__(self, content: Content, head: bytes) -> None:
        """`head` is the file's first sector. Raises Invalid("corrupt_image")."""
        self.content = content
        self._reasons = Reasons()
        layout = read_layout(head)
        if layout is None:
            raise corrupt("it is no sparse extent")
        layout.require_sane()
        self.layout = layout
        if layout.mangled:
            self._reasons.tell("its line ends were changed by a transfer as text: more of it may be damaged")
        if layout.kind == "cowd" and not layout.needed_tables <= layout.tables <= layout.needed_tables + _PER_SECTOR:
            self._reasons.tell(f"its header contradicts itself: {layout.tables} tables for {layout.needed_tables}")
        if layout.unclean:
            self._reasons.tell("it was not closed cleanly: what was written last may be missing")
        self._tables = _SparseTables(content, layout, self._reasons)
        self._inflater = Inflater(content, layout) if layout.compressed else None

    @property
    def size(self) -> int:
        """Of this part of the disk."""
        return self.layout.capacity * SECTOR

    @property
    def grain(self) -> int:
        """Bytes of a grain."""
        return self.layout.grain * SECTOR

    def notes(self) -> Sequence[str]:
        """What is wrong with it, as far as it was read."""
        return self._reasons.told()

    def marked_grains(self) -> int | None:
        """How many grains the markers of a stream tell of; None where it has no markers, or they break off."""
        found = walk(self.content, self.layout) if self.layout.markers else None
        return found.grains if found and found.complete else None

    def shared_grains(self) -> tuple[int, int] | None:
        """Grains that are stored, and those that lie on another one; None where there are too many to compare."""
        return shared_grains(self._tables, self.layout.needed_tables, self._tables.own_ranges())

    def runs(self, start: int, end: int) -> Iterator[Run | Absent]:
        """What lies between, grain tables being read one after the other."""
        for piece in pieces(self._tables, start, min(end, self.size)):
            if piece.at == ABSENT:
                yield Absent(piece.offset, piece.length)
            elif piece.at == ZEROS:
                yield Run(piece.offset, piece.length)
            elif piece.at < 0:
                yield Run(piece.offset, piece.length, why=self._reasons.text(piece.at))
            elif self._inflater is None:
                yield from stored(self.content, piece)
            else:
                yield self._inflater.run(piece, min(self.grain, self.size - (piece.offset - piece.skip)))


class _SparseTables:
    """The directories and tables of an extent, each pair read as one."""

    def __init__(self, content: Content, layout: Layout, reasons: Reasons) -> None:
        self._content, self._layout, self._reasons = content, layout, reasons
        self.grain, self.entries = layout.grain * SECTOR, layout.entries
        self.packed = layout.compressed
        self._walked: Walk | None = None
        count = layout.needed_tables
        self._first: Numbers | None = None
        self._second: Numbers | None = None
        found = layout.directory
        if found is None:
            found = self._of_footer()
        if found is not None:
            self._first = self._directory(found, min(count, layout.tables), count)
        if layout.redundant is not None:
            self._second = self._directory(layout.redundant, count, count)
        if self._first is None:
            self._walked = walk(content, layout)
            reasons.tell(
                f"its grain directory is lost; its map was made from the markers of {self._walked.grains} grains"
            )
        self.table = lru_cache(maxsize=64)(self._table)
        self._present = self._present_tables(count)

    def own_ranges(self) -> list[tuple[int, int]]:
        """Where the tables themselves lie, in bytes."""
        length = self.entries * 4
        places = (self._layout.directory, self._layout.redundant)
        directories = [(place * SECTOR, self._layout.needed_tables * 4) for place in places if place is not None]
        return directories + [
            (int(place) * SECTOR, length)
            for directory in (self._first, self._second)
            if directory is not None
            for place in directory[directory > 0][:_MOST_RANGES]
        ]

    def next_present(self, number: int) -> int:
        """The first table from there on that isn't wholly absent; a huge number where none follows."""
        place = int(np.searchsorted(self._present, number))
        return int(self._present[place]) if place < len(self._present) else 1 << 62

    def _of_footer(self) -> int | None:
        footer = find_footer(self._content, FOOTER)
        if footer is None or footer.directory is None:
            self._reasons.tell("its footer is missing")
            return None
        return footer.directory

    def _directory(self, sector: int, count: int, needed: int) -> Numbers:
        """Places of the tables in sectors; _INVALID for what can't be one."""
        numbers, known = read_numbers(self._content, sector * SECTOR, count, "<u4")
        found = np.full(needed, _INVALID, dtype=np.int64)
        found[:count] = self._checked(numbers, known, lowest=1, zeros=False)
        return found

    def _checked(self, numbers: NDArray[np.uint64], known: NDArray[np.bool_], *, lowest: int, zeros: bool) -> Numbers:
        values = numbers.astype(np.int64)
        inside = (values >= lowest) & (values < -(-self._content.size // SECTOR))
        return np.where(known & ((values == 0) | inside | (zeros & (values == 1))), values, _INVALID)

    def _present_tables(self, count: int) -> NDArray[np.int64]:
        if self._walked is not None:
            if not self._walked.complete:
                return np.arange(count, dtype=np.int64)
            return np.array(sorted(self._walked.tables), dtype=np.int64)
        present = np.zeros(count, dtype=np.bool_)
        for directory in (self._first, self._second):
            if directory is not None:
                present |= directory != 0
        return np.flatnonzero(present).astype(np.int64)

    def _table(self, number: int) -> Numbers | int:
        if self._first is None:
            if self._second is None:
                return self._of_walk(number)
            return self._places(self._numbers(self._second, number))
        one = self._numbers(self._first, number)
        if self._second is not None:
            one = self._either(one, self._numbers(self._second, number), number)
        elif self.packed and (one == _INVALID).any():
            self._walked = self._walked or walk(self._content, self._layout)
            if self._walked.complete:
                self._reasons.tell("a grain table is damaged; the grains' own markers were used")
                return self._of_walk(number)
        return self._places(one) if one.any() else ABSENT

    def _numbers(self, directory: Numbers, number: int) -> Numbers:
        """One table's places in sectors, 0 for absent ones."""
        place = int(directory[number])
        if place == _INVALID:
            return np.full(self.entries, _INVALID, dtype=np.int64)
        if place == 0:
            return np.zeros(self.entries, dtype=np.int64)
        numbers, known = read_numbers(self._content, place * SECTOR, self.entries, "<u4")
        overhead = self._layout.overhead
        lowest = max(2, overhead) if overhead * SECTOR < self._content.size else 2
        found = self._checked(numbers, known, lowest=lowest, zeros=self._layout.zero_grains)
        # The last table may go on behind the disk's end: what it says there is nothing to us.
        rest = -(-self._layout.capacity // self._layout.grain) - number * self.entries
        found[max(0, rest) :] = 0
        return found

    def _either(self, one: Numbers, two: Numbers, number: int) -> Numbers:
        """One table out of two copies, judged sector by sector."""
        if np.array_equal(one, two):
            return one
        width = _PER_SECTOR if self.entries % _PER_SECTOR == 0 else self.entries
        chosen = np.empty_like(one)
        for begin in range(0, self.entries, width):
            part = slice(begin, begin + width)
            chosen[part] = self._sector(one[part], two[part], number)
        return chosen

    def _sector(self, one: Numbers, two: Numbers, number: int) -> Numbers:
        if np.array_equal(one, two):
            return one
        bad_one, bad_two = bool((one == _INVALID).any()), bool((two == _INVALID).any())
        told_one, told_two = int((one > 0).sum()), int((two > 0).sum())
        if bad_one != bad_two:
            self._reasons.tell(f"one copy of grain table {number} is damaged: the other was used")
            return two if bad_one else one
        if not bad_one and min(told_one, told_two) == 0 and max(told_one, told_two) > 1:
            self._reasons.tell(f"one copy of grain table {number} is wiped: the other was used")
            return two if told_two else one
        self._reasons.tell(f"the copies of grain table {number} disagree: grains that only one of them knows are lost")
        agreed = np.where(one == two, one, _INVALID)
        # Garbage in one copy doesn't speak against a place in the other.
        agreed = np.where((one == _INVALID) & (two > 0), two, agreed)
        return np.where((two == _INVALID) & (one > 0), one, agreed)

    def _places(self, numbers: Numbers) -> Numbers:
        places = np.where(numbers > 1, numbers * SECTOR, ABSENT)
        places[numbers == 1] = ZEROS
        if (numbers == _INVALID).any():
            places[numbers == _INVALID] = self._reasons.code("its entry in the grain table is lost or damaged")
        return places

    def _of_walk(self, number: int) -> Numbers | int:
        walked = self._walked
        if walked is None:
            return self._reasons.code("its grain table is lost")
        absent = (
            ABSENT if walked.complete else self._reasons.code("its grain was not found in what is left of the file")
        )
        found = walked.tables.get(number)
        if found is None:
            return absent
        return np.where(found > 0, found.astype(np.int64) * SECTOR, absent)
