"""Sets of (offset, length) ranges."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator

_MOST = 4096
_MOST_CLAIMS = 1 << 23


class Ranges:
    """Ranges in ascending order, joined where they touch."""

    def __init__(self, ranges: Iterable[tuple[int, int]] = ()) -> None:
        self._begins: list[int] = []
        self._ends: list[int] = []
        for offset, length in sorted(ranges):
            if length <= 0:
                continue
            if self._ends and offset <= self._ends[-1]:
                self._ends[-1] = max(self._ends[-1], offset + length)
            else:
                self._begins.append(offset)
                self._ends.append(offset + length)

    def __bool__(self) -> bool:
        return bool(self._begins)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return ((begin, end - begin) for begin, end in zip(self._begins, self._ends, strict=True))

    def within(self, offset: int, length: int) -> Iterator[tuple[int, int]]:
        """The parts of them in a range."""
        index = max(0, bisect_right(self._begins, offset) - 1)
        while index < len(self._begins) and self._begins[index] < offset + length:
            begin, end = max(offset, self._begins[index]), min(offset + length, self._ends[index])
            if begin < end:
                yield begin, end - begin
            index += 1

    def fewest(self) -> tuple[tuple[int, int], ...]:
        """All of them; where there are too many, the last one reaches to the end of them."""
        ranges = list(self)
        if len(ranges) > _MOST:
            offset = ranges[_MOST - 1][0]
            ranges[_MOST - 1 :] = [(offset, self._ends[-1] - offset)]
        return tuple(ranges)


class Claims:
    """What files claim of a volume: (offset, length) ranges, many of them, in little room."""

    def __init__(self) -> None:
        self._claims = array("Q")
        self.full = False

    def add(self, offset: int, length: int) -> bool:
        """Take one down; False once there are too many to go on."""
        if len(self._claims) >= 2 * _MOST_CLAIMS:
            self.full = True
        else:
            self._claims.extend((offset, length))
        return not self.full

    def joined(self) -> Ranges:
        """All that is claimed."""
        return self._merged()[0]

    def shared(self, more: Claims | None = None) -> Ranges:
        """What is claimed more than once, by several files or by one, with `more` beside these."""
        return self._merged(more)[1]

    def _merged(self, more: Claims | None = None) -> tuple[Ranges, Ranges]:
        import numpy as np

        parts = [np.array(each._claims, np.int64) for each in (self, more) if each is not None]
        pairs = np.concatenate(parts).reshape(-1, 2)
        pairs = pairs[np.argsort(pairs[:, 0], kind="stable")]
        begins, ends = pairs[:, 0], pairs[:, 0] + pairs[:, 1]
        reach = np.maximum.accumulate(ends)
        before = np.concatenate((np.array([-1], np.int64), reach[:-1]))[: len(begins)]
        first = np.flatnonzero(begins > before)
        last = np.append(first[1:], len(begins)) - 1 if len(first) else first
        joined = zip(begins[first].tolist(), (reach[last] - begins[first]).tolist(), strict=True)
        twice = np.flatnonzero(begins < before)
        doubled = (np.minimum(before, ends) - begins)[twice].tolist()
        return Ranges(joined), Ranges(zip(begins[twice].tolist(), doubled, strict=True))
