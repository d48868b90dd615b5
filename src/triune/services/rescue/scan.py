"""The one sequential pass over the sources: what tells by itself what it is goes into a session.

Chunks are small enough to stay in the processor's cache between reading and looking. Holes that the file system
knows of are passed over. Where the medium refuses, it is tried again in small steps, and what stays is noted.
"""

from __future__ import annotations

import itertools
import mmap
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from triune.disks.source import Source, Unreadable
from triune.services.rescue import marks
from triune.services.rescue.session import Mark, Session

_CHUNK = 4 << 20
_STEP = 64 << 10
_THREADS = 2
_FLYING = 4  # chunks
_SAVED_EVERY = 2.0  # seconds
_TOLD_EVERY = 0.1
_MOST_PENDING = 100_000


@dataclass(frozen=True, slots=True)
class Position:
    """How far a scan is, in bytes over all sources; `speed` in bytes per second; `found` marks in this run."""

    done: int
    total: int
    speed: float
    found: int

    @property
    def left(self) -> float | None:
        """Seconds to go, where it can be told."""
        return (self.total - self.done) / self.speed if self.speed > 0 else None


Told = Callable[[Position], None]


def sweep(session: Session, told: Told | None = None) -> None:
    """Scan what the session has not seen yet of its sources."""
    with ThreadPoolExecutor(_THREADS, "scan") as pool:
        run = _Run(session, told, pool)
        for number, source in enumerate(session.sources):
            run.scan(number, source)


@dataclass(slots=True)
class _Looked:
    """A chunk that ends at `end`: what was found, and the ranges that the medium refused."""

    end: int
    marks: list[Mark]
    refused: list[tuple[int, int]] = field(default_factory=list)


class _Run:
    def __init__(self, session: Session, told: Told | None, pool: Executor) -> None:
        self._session, self._told = session, told
        self._pool, self._own = pool, threading.local()
        self._total = sum(source.size for source in session.sources)
        self._before = 0
        self._found = 0
        self._begun = self._last_told = self._last_saved = time.monotonic()
        self._skipped = sum(session.done(number) for number in range(len(session.sources)))

    def scan(self, number: int, source: Source) -> None:
        """One source, from where an earlier run ended."""
        pending: list[Mark] = []
        chunks = _chunks(source, self._session.done(number))
        looked = (self._pool.submit(self._look, source, at, length) for at, length in chunks)
        flying: deque[Future[_Looked]] = deque(itertools.islice(looked, _FLYING))
        while flying:
            chunk = flying.popleft().result()
            flying.extend(itertools.islice(looked, 1))
            pending.extend(chunk.marks)
            for at, length in chunk.refused:
                self._session.add_unreadable(number, at, length)
            if self._due(len(pending)):
                self._save(number, pending, chunk.end)
            self._tell(chunk.end, len(pending))
        self._save(number, pending, source.size)
        self._before += source.size
        self._tell(0, 0, last=True)

    def _look(self, source: Source, at: int, length: int) -> _Looked:
        """Read a chunk and look at it: in one of several threads."""
        try:
            chunk, there = self._read(source, at, length)
        except Unreadable:
            return self._look_in_steps(source, at, length)
        return _Looked(at + length, list(marks.find(chunk, at, there)))

    def _look_in_steps(self, source: Source, at: int, length: int) -> _Looked:
        looked = _Looked(at + length, [])
        for piece in range(at, at + length, _STEP):
            size = min(_STEP, at + length - piece)
            try:
                data = source.read(piece, size)
            except Unreadable:
                looked.refused.append((piece, size))
            else:
                looked.marks.extend(marks.find(data, piece, len(data)))
        return looked

    def _read(self, source: Source, at: int, length: int) -> tuple[bytes | mmap.mmap, int]:
        """A chunk, in the thread's own buffer where the source can fill one, and how many bytes of it were there."""
        into = getattr(source, "read_into", None)
        if into is None:
            data = source.read(at, length)
            return data, len(data)
        if not hasattr(self._own, "buffer"):
            self._own.buffer = mmap.mmap(-1, _CHUNK)  # whole pages: quicker to read into
        buffer: mmap.mmap = self._own.buffer
        return buffer, into(at, memoryview(buffer)[:length])

    def _due(self, pending: int) -> bool:
        now = time.monotonic()
        return pending > _MOST_PENDING or now - self._last_saved > _SAVED_EVERY

    def _save(self, number: int, pending: list[Mark], done: int) -> None:
        self._session.add(number, pending, done)
        self._found += len(pending)
        pending.clear()
        self._last_saved = time.monotonic()

    def _tell(self, offset: int, pending: int, *, last: bool = False) -> None:
        now = time.monotonic()
        if self._told is None or (now - self._last_told < _TOLD_EVERY and not last):
            return
        self._last_told = now
        done = self._before + offset
        speed = max(0, done - self._skipped) / max(1e-3, now - self._begun)
        self._told(Position(done, self._total, speed, self._found + pending))


def _chunks(source: Source, offset: int) -> Iterator[tuple[int, int]]:
    """The (offset, length) chunks from an offset on that may hold something, on whole blocks."""
    ranges = getattr(source, "data", None)
    reached = offset
    for start, length in [(offset, source.size - offset)] if ranges is None else ranges(offset, source.size):
        begin, end = max(reached, start // 4096 * 4096), min(source.size, -(-(start + length) // 4096) * 4096)
        for at in range(begin, end, _CHUNK):
            yield at, min(_CHUNK, end - at)
        reached = max(reached, end)
