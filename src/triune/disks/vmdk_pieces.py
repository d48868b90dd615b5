"""From grain tables to ranges: what every kind of sparse extent has in common.

A table in the form used here is an array with one number per grain: the byte offset in the extent's file where the
grain lies, or a negative one: ABSENT, ZEROS, or a lost grain's (-3 and below: which reason).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from triune.disks.content import Content, Run
from triune.disks.source import Unreadable

ABSENT = -1
ZEROS = -2
LOST = -3
_MOST_COMPARED = 1 << 24
Numbers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Absent:
    """A range that an extent doesn't store: the parent's, and zeros where there is none."""

    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Piece:
    """A range of the disk: `length` bytes at `offset`. `at` as in a table; `skip` bytes of a packed grain come before
    it."""

    offset: int
    length: int
    at: int
    skip: int = 0


class Extent(Protocol):
    """One extent of a disk; offsets are its own. `notes` are sentences on what is wrong with it, as far as it was
    read: ask again at the end."""

    @property
    def size(self) -> int: ...
    def runs(self, start: int, end: int) -> Iterator[Run | Absent]: ...
    def notes(self) -> Sequence[str]: ...


class Tables(Protocol):
    """The grain tables of an extent. `grain` in bytes, `entries` of one table; `packed` grains are never joined."""

    grain: int
    entries: int
    packed: bool

    def table(self, number: int) -> Numbers | int: ...
    def next_present(self, number: int) -> int: ...


def pieces(tables: Tables, start: int, end: int) -> Iterator[Piece]:
    """What lies in [start, end), in order. A table may be one number for all its grains."""
    span = tables.grain * tables.entries
    while start < end:
        number = start // span
        table = tables.table(number)
        if isinstance(table, int):
            follows = tables.next_present(number + 1) if table == ABSENT else number + 1
            stop = min(end, follows * span)
            yield Piece(start, stop - start, table)
        else:
            stop = min(end, (number + 1) * span)
            yield from _of_table(tables, table, number * span, start, stop)
        start = stop


def _of_table(tables: Tables, table: Numbers, base: int, start: int, stop: int) -> Iterator[Piece]:
    grain = tables.grain
    first = (start - base) // grain
    part = table[first : -(-(stop - base) // grain)]
    before, after = part[:-1], part[1:]
    joined = np.where(before < 0, after == before, (after == before + grain) & (not tables.packed))
    cuts = [0, *(np.flatnonzero(~joined) + 1).tolist(), len(part)]
    base += first * grain
    for one, other in itertools.pairwise(cuts):
        offset = max(start, base + one * grain)
        at, skip = int(part[one]), offset - (base + one * grain)
        if at >= 0 and not tables.packed:
            at, skip = at + skip, 0
        yield Piece(offset, min(stop, base + other * grain) - offset, at, skip)


def stored(content: Content, piece: Piece) -> Iterator[Run]:
    """The runs of a piece that lies in a file; what would lie behind its end is missing."""
    end = min(content.size, piece.at + piece.length)
    shift = piece.offset - piece.at
    for run in content.runs(piece.at, end) if piece.at < end else ():
        yield Run(run.offset + shift, run.length, run.source, run.at, run.why)
    kept = max(0, end - piece.at)
    if kept < piece.length:
        yield Run(piece.offset + kept, piece.length - kept, why="the extent's file ends before it")


def read_numbers(content: Content, at: int, count: int, form: str) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
    """`count` numbers of the dtype `form` ("<u4" or "<u8") at a byte offset, and which of them could be read."""
    width = np.dtype(form).itemsize
    data, known = bytearray(width * count), np.zeros(width * count, dtype=np.bool_)
    end = min(content.size, at + width * count)
    for run in content.runs(at, end) if 0 <= at < end else ():
        place = run.offset - at
        if run.missing:
            continue
        got = run.length
        if run.source is not None:
            try:
                part = run.source.read(run.at, run.length)
            except Unreadable:
                continue
            got = len(part)
            data[place : place + got] = part
        known[place : place + got] = True
    whole: NDArray[np.bool_] = np.all(known.reshape(count, width), axis=1)
    return np.frombuffer(bytes(data), dtype=form).astype(np.uint64), whole


def shared_grains(tables: Tables, count: int, taken: Sequence[tuple[int, int]] = ()) -> tuple[int, int] | None:
    """How many grains a disk of `count` tables stores, and how many of them lie where another one does, or in one of
    the ranges (offset, length) that are `taken`; None where it has more than can be compared within 512 MiB."""
    found: list[NDArray[np.int64]] = []
    stored_grains, number = 0, tables.next_present(0)
    while number < count:
        table = tables.table(number)
        if not isinstance(table, int):
            places = table[table >= 0]
            stored_grains += len(places)
            if stored_grains > _MOST_COMPARED:
                return None
            found.append(places)
        number = tables.next_present(number + 1)
    if not found:
        return 0, 0
    places = np.sort(np.concatenate(found))
    least = 1 if tables.packed else tables.grain
    shared = int((np.diff(places) < least).sum())
    for offset, length in taken:
        shared += int(np.searchsorted(places, offset + length) - np.searchsorted(places, offset - least + 1))
    return stored_grains, shared


class Reasons:
    """Why grains are lost: each reason once, with its number for tables. Also collects what is to be told."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._told: dict[str, None] = {}

    def code(self, text: str) -> int:
        """The number of a lost grain with this reason."""
        if text not in self._texts:
            self._texts.append(text)
        return LOST - self._texts.index(text)

    def text(self, code: int) -> str:
        """The reason."""
        return self._texts[LOST - code]

    def tell(self, text: str) -> None:
        """Note a sentence, once."""
        self._told.setdefault(text)

    def told(self) -> tuple[str, ...]:
        """All sentences so far."""
        return tuple(self._told)
