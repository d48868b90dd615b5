"""A volume's bytes, joined from one or several sources; what no source holds is missing, and said to be."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from triune.disks.content import Run
from triune.disks.source import Source, Unreadable


@dataclass(frozen=True, slots=True)
class Segment:
    """`length` bytes at `offset` of the volume are those of `source` at `at`. The source may end earlier."""

    offset: int
    length: int
    source: Source
    at: int


class Space:
    """A Source whose bytes are segments of others; the size is what the volume claims, or what its segments reach."""

    def __init__(self, name: str, segments: Sequence[Segment], size: int = 0) -> None:
        self._name = name
        self.segments = tuple(sorted(segments, key=lambda segment: segment.offset))
        self._starts = [segment.offset for segment in self.segments]
        self._size = size or max((segment.offset + segment.length for segment in self.segments), default=0)

    @classmethod
    def plain(cls, source: Source, at: int = 0, size: int = 0) -> Space:
        """A volume without LVM, or one whose bytes are known to begin at `at`."""
        return cls(source.name, [Segment(0, size or max(0, source.size - at), source, at)])

    @property
    def name(self) -> str:
        """Of the first source, or what the maker said."""
        return self._name

    @property
    def size(self) -> int:
        """In bytes."""
        return self._size

    def pieces(self, offset: int, length: int) -> Iterator[Run]:
        """The sources of a range, in order; their `offset` is the volume's. All of the range is covered."""
        end = offset + length
        if end > self._size:
            inside = max(offset, self._size)
            if offset < inside:
                yield from self.pieces(offset, inside - offset)
            yield Run(inside, end - inside, why="it lies beyond the volume's end")
            return
        index = max(0, bisect_right(self._starts, offset) - 1)
        while offset < end:
            segment = self.segments[index] if index < len(self.segments) else None
            stop = end if segment is None else min(end, segment.offset)
            if offset < stop:
                yield Run(offset, stop - offset, why="that part of the volume is not among the sources")
                offset = stop
            elif segment is not None:
                stop = min(end, segment.offset + segment.length)
                if offset < stop:
                    yield from _of_source(segment, offset, stop)
                    offset = stop
                index += 1

    def read(self, offset: int, length: int) -> bytes:
        """The bytes there, fewer only at the volume's end. Raises Unreadable for missing ones."""
        parts = []
        for run in self.pieces(offset, min(length, max(0, self._size - offset))):
            part = run.source.read(run.at, run.length) if run.source is not None else b""
            if len(part) < run.length:
                raise Unreadable(self._name, run.offset + len(part), run.length - len(part), run.why or "it ends there")
            parts.append(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def close(self) -> None:
        """Close every source."""
        for segment in self.segments:
            segment.source.close()


def _of_source(segment: Segment, offset: int, stop: int) -> Iterator[Run]:
    at = segment.at + offset - segment.offset
    there = max(0, min(stop - offset, segment.source.size - at))
    if there:
        yield Run(offset, there, segment.source, at)
    if there < stop - offset:
        yield Run(offset + there, stop - offset - there, why=f"{segment.source.name} ends before it")
