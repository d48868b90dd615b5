"""One content's way to a file with holes: large reads, zeros left out, what can't be read left out and told."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from threading import Lock

from triune.disks.content import Content, Run
from triune.disks.source import Source, Unreadable, ahead
from triune.domain.errors import Failed
from triune.services.rescue.hashing import Sink
from triune.services.rescue.lane import Lane

# Smaller blocks cost more handing over between threads: 256 KiB some 0.1 s of processor time for each GiB.
BLOCK = 1 << 19
_AHEAD = 16  # blocks
_PAGE = 4096
_SECTOR = 512
MARK = 1 << 26
_ZEROS = bytes(_PAGE)


class Copy:
    """Copies one content. What lies before `start` is in the file already: it is read for the hash alone.

    `lock` guards the content's runs, which several threads must not ask for at once; `tick` is called with the bytes
    of each block, `mark` with the offset up to which the file is written.
    """

    def __init__(
        self,
        content: Content,
        fd: int,
        sink: Sink,
        *,
        lock: Lock,
        start: int = 0,
        tick: Callable[[int], None] = lambda _length: None,
        mark: Callable[[int], None] = lambda _offset: None,
    ) -> None:
        self._content, self._fd, self._sink = content, fd, sink
        self._lock, self._start, self._tick, self._mark = lock, start, tick, mark
        self._marked = start
        self._lane = Lane()  # writes, so that the next block is read meanwhile
        self.missing: list[tuple[int, int]] = []
        self.written = self.unread = 0

    def run(self) -> None:
        """Copy it. Raises OSError of the file, never one of a source: what can't be read is in `missing`."""
        try:
            for run in self._foreseen(_blocks(each(self._content, self._lock))):
                if run.missing:
                    self.missing.append((run.offset, run.length))
                    self._sink.zeros(run.length)
                elif run.source is None:
                    self._sink.zeros(run.length)
                else:
                    self._block(run.offset, run.source, run.at, run.length)
        finally:
            self._lane.finish()

    def _foreseen(self, runs: Iterable[Run]) -> Iterator[Run]:
        """Them; each source is told some before they come: a disk is read while the processor hashes."""
        coming: deque[Run] = deque()
        for run in runs:
            if run.source is not None and not run.missing:
                self._lane.do(ahead, run.source, run.at, run.length)
            coming.append(run)
            if len(coming) > _AHEAD:
                yield coming.popleft()
        yield from coming

    def _block(self, offset: int, source: Source, at: int, length: int) -> None:
        for start, size, data in readable(source, at, length):
            where = offset + start - at
            if data is None:
                self.missing.append((where, size))
                self.unread += size
                self._sink.zeros(size)
                continue
            if where + size > self._start:
                self._lane.do(self._write, where, data)
            self._sink.update(data)  # here, where it has just come into the processor's cache
        self._tick(length)
        if offset + length - self._marked >= MARK:
            self._marked = offset + length
            self._lane.do(self._mark, self._marked)

    def _write(self, offset: int, data: bytes) -> None:
        view = memoryview(data)
        for start, end in solid(data):
            at = start
            while at < end:
                at += os.pwrite(self._fd, view[at:end], offset + at)
            self.written += end - start


def each(content: Content, lock: Lock) -> Iterator[Run]:
    """The runs of a content, each made under a lock; where its maps can't be read, all that follows is missing."""
    runs = iter(content.runs())
    offset = 0
    while True:
        try:
            with lock:
                run = next(runs, None)
        except Failed as error:
            yield Run(offset, content.size - offset, why=error.message)
            return
        if run is None:
            return
        yield run
        offset = run.offset + run.length


def _blocks(runs: Iterable[Run]) -> Iterator[Run]:
    """Them, with what is to be read in blocks."""
    for run in runs:
        if run.missing or run.source is None:
            yield run
            continue
        done = 0
        while done < run.length:
            # Blocks end where the source's blocks do: a read never takes part of one.
            step = min(run.length - done, BLOCK - (run.at + done) % BLOCK)
            yield Run(run.offset + done, step, run.source, run.at + done)
            done += step


def solid(data: bytes) -> Iterator[tuple[int, int]]:
    """The [start, end) ranges of pages that are not all zeros, neighbours joined."""
    start = 0
    firsts = data[::_PAGE]  # only where a page begins with a zero is all of it compared
    number = firsts.find(0)
    while number >= 0:
        at = number * _PAGE
        # `startswith` compares in place; a slice would be a copy.
        if data.startswith(_ZEROS, at) if at + _PAGE <= len(data) else not any(data[at:]):
            if start < at:
                yield start, at
            start = at + _PAGE
        number = firsts.find(0, number + 1)
    if start < len(data):
        yield start, len(data)


def readable(source: Source, at: int, length: int) -> Iterator[tuple[int, int, bytes | None]]:
    """What a source gives of a range, as (offset, length, bytes or None), down to single sectors where it refuses."""
    pending = [(at, length)]
    while pending:
        start, size = pending.pop()
        try:
            data = source.read(start, size)
        except Unreadable:
            if size <= _SECTOR:
                yield start, size, None
                continue
            half = max(_SECTOR, size // 2 // _SECTOR * _SECTOR)
            pending += [(start + half, size - half), (start, half)]
            continue
        if data:
            yield start, len(data), data
        if len(data) < size:
            yield start + len(data), size - len(data), None
