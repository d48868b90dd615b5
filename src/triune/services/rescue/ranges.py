"""Sets of (offset, length) ranges."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator

_MOST = 4096


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


def shared(claims: Iterable[tuple[int, int]]) -> Ranges:
    """What is claimed more than once, by several files or by one."""
    doubled: list[tuple[int, int]] = []
    reach = 0
    for offset, length in sorted(claims):
        if offset < reach:
            doubled.append((offset, min(reach, offset + length) - offset))
        reach = max(reach, offset + length)
    return Ranges(doubled)
