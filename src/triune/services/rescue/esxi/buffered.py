"""A remote file as a source: blocks in memory and on disk, many requests in flight, and reading ahead of a stream.

Blocks are 64 KiB. A read that goes on where another one ended is a stream: twice what it read so far is asked for
ahead of it, up to 16 MiB. What the medium refuses as a block is asked for once more as exactly the range that is
wanted, so a bad sector costs the reads that need it and no others.
"""

from __future__ import annotations

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass

from triune.disks.source import Unreadable
from triune.services.rescue.esxi.access import Access
from triune.services.rescue.esxi.cache import BlockCache, open_cache
from triune.services.rescue.esxi.line import Line
from triune.services.rescue.esxi.readers import BLOCK, Refused

# A block is mostly a view of the answer it came with: nothing is copied before the reader gets it.
Piece = bytes | memoryview

_MIB = 1 << 20
_MEMORY = 64 * _MIB // BLOCK
_PIECE = 16 * _MIB
_WIDEST = 16 * _MIB
_STREAMS = 4
_SAMPLES = 16
# The partition table, and LVM header, volume and file system headers of VMFS on a bare device or in a partition that
# starts at 1 MiB (VMFS on-disk format: LVM at 1 MiB, file system at 2 MiB, or 2 MiB behind the LVM's data at 17 MiB).
_HEADERS = (0, 1 * _MIB, 2 * _MIB, 3 * _MIB, 17 * _MIB, 18 * _MIB, 19 * _MIB, 20 * _MIB)


@dataclass(slots=True)
class _Stream:
    """Reads that follow each other: where the last one ended, how many bytes they were, and up to which block is asked
    for ahead."""

    end: int
    length: int
    issued: int = 0

    @property
    def window(self) -> int:
        """How far ahead is worth asking, in bytes: twice what was read so far."""
        return min(_WIDEST, 2 * self.length)

    def takes(self, start: int) -> bool:
        """Whether a read goes on with it. Several threads that share a stream come a little early or late."""
        return start == self.end or (self.length >= _MIB and abs(start - self.end) <= self.window)


@dataclass(slots=True)
class _Part:
    """Some blocks on their way."""

    first: int
    count: int
    future: Future[bytes]


class RemoteSource:
    """Bytes of a line, as `Source`. `read` may be called from several threads."""

    def __init__(self, line: Line, access: Access) -> None:
        """Take the line over; `close` closes it. Raises Failed("cache_refused")."""
        self._line = line
        self._lock = threading.Lock()
        self._memory: OrderedDict[int, Piece] = OrderedDict()
        self._coming: dict[int, _Part] = {}
        self._streams: list[_Stream] = []
        self._cache: BlockCache | None = None
        if access.cache is not None:
            self._cache = open_cache(access.cache, line.identity, line.size, access.cache_limit)
            if self._cache is None:
                access.tell(f"another process uses the cache of {line.name}: it is read without one")
            elif not self._still_true(self._cache):
                self._cache.reset()
                access.tell(f"{line.name} is not as it was: its cache begins anew")
        self.prefetch([(at, 2 * BLOCK) for at in _HEADERS] + [(line.size - BLOCK, BLOCK)])

    @property
    def name(self) -> str:
        """Its address."""
        return self._line.name

    @property
    def size(self) -> int:
        """In bytes, as it was when it was opened."""
        return self._line.size

    def read(self, offset: int, length: int) -> bytes:
        """The bytes there. Raises Unreadable, and Unreachable where the host went away for good."""
        end = min(offset + length, self.size)
        if offset < 0 or end <= offset:
            return b""
        pieces = [self._piece(at, min(end, at + _PIECE)) for at in range(offset, end, _PIECE)]
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def prefetch(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Ask for (offset, length) ranges that will be read soon, all at once; at most as much as memory holds."""
        with self._lock:
            wanted: dict[int, None] = {}
            for offset, length in ranges:
                end = min(offset + length, self.size)
                if 0 <= offset < end:
                    wanted.update(dict.fromkeys(range(offset // BLOCK, -(-end // BLOCK))))
                if len(wanted) >= _MEMORY // 2:
                    break
            missing = [block for block in wanted if not self._has(block) and not self._cached(block)]
            self._request(sorted(missing)[: _MEMORY // 2])

    def close(self) -> None:
        """Hang up, and close the cache."""
        self._line.close()
        with self._lock:
            if self._cache is not None:
                self._cache.close()
                self._cache = None

    def _piece(self, start: int, end: int) -> bytes:
        blocks = range(start // BLOCK, -(-end // BLOCK))
        with self._lock:
            stream = self._follow(start, end)
            got: dict[int, Piece] = {block: data for block in blocks if (data := self._held(block)) is not None}
            self._request([block for block in blocks if block not in got and block not in self._coming])
            parts = {block: self._coming[block] for block in blocks if block not in got}
            if stream is not None:
                self._ahead(stream)
        try:
            self._await(parts, got, passing=stream is not None)
        except (Refused, CancelledError):
            return self._exactly(start, end)
        last = blocks.stop - 1
        got[last] = got[last][: end - last * BLOCK]
        got[blocks.start] = got[blocks.start][start % BLOCK :]
        return b"".join(got[block] for block in blocks)

    def _await(self, parts: dict[int, _Part], got: dict[int, Piece], *, passing: bool) -> None:
        """Take blocks as they come. Raises Refused, and what the line raises."""
        for part in {id(part): part for part in parts.values()}.values():
            try:
                data = part.future.result()
            except BaseException:
                with self._lock:
                    self._forget(part)
                raise
            with self._lock:
                self._arrived(part, data, passing=passing)
            got.update((block, piece) for block, piece in _pieces(part, data) if block in parts)

    def _exactly(self, start: int, end: int) -> bytes:
        """The range and nothing around it."""
        requests = [
            self._line.start(at, min(self._line.segment, end - at)) for at in range(start, end, self._line.segment)
        ]
        try:
            return b"".join(request.result() for request in requests)
        except (Refused, CancelledError) as error:
            raise Unreadable(self.name, start, end - start, str(error) or "it was closed") from None
        finally:
            for request in requests:
                request.cancel()

    # Everything below is called with the lock held.

    def _has(self, block: int) -> bool:
        return block in self._memory or block in self._coming

    def _held(self, block: int) -> Piece | None:
        data: Piece | None = self._memory.get(block)
        if data is not None:
            self._memory[block] = data = bytes(data)  # what stays longer must not keep its neighbours
            self._memory.move_to_end(block)
            return data
        if self._cache is not None and block not in self._coming:
            with contextlib.suppress(OSError):
                data = self._cache.get(block)
            if data is not None and len(data) == self._length(block):
                return data
        return None

    def _length(self, block: int) -> int:
        return min(BLOCK, self.size - block * BLOCK)

    def _request(self, blocks: list[int]) -> None:
        """Ask for blocks, neighbours together."""
        most = max(1, self._line.segment // BLOCK)
        at = 0
        while at < len(blocks):
            count = 1
            while count < most and at + count < len(blocks) and blocks[at + count] == blocks[at] + count:
                count += 1
            first = blocks[at]
            length = min(count * BLOCK, self.size - first * BLOCK)
            part = _Part(first, count, self._line.start(first * BLOCK, length))
            self._coming.update(dict.fromkeys(range(first, first + count), part))
            at += count

    def _arrived(self, part: _Part, data: bytes, *, passing: bool) -> None:
        for block, piece in _pieces(part, data):
            if self._coming.get(block) is part:
                del self._coming[block]
                self._memory[block] = piece
                self._keep(block, piece, passing=passing)
        while len(self._memory) > _MEMORY:
            self._memory.popitem(last=False)

    def _keep(self, block: int, data: Piece, *, passing: bool) -> None:
        if self._cache is None:
            return
        try:
            self._cache.put(block, data, passing=passing)
        except OSError:  # the disk is full: what is cached stays, and no more is
            self._cache.close()
            self._cache = None

    def _forget(self, part: _Part) -> None:
        for block in range(part.first, part.first + part.count):
            if self._coming.get(block) is part:
                del self._coming[block]

    def _follow(self, start: int, end: int) -> _Stream | None:
        """The stream this read goes on with, its window grown; None for a read that follows none."""
        for stream in self._streams:
            if stream.takes(start):
                self._streams.remove(stream)
                self._streams.append(stream)  # the one that rested longest goes first
                stream.end = max(stream.end, end)
                stream.length += end - start
                return stream
        if len(self._streams) >= _STREAMS:
            self._streams.pop(0)
        self._streams.append(_Stream(end, end - start))
        return None

    def _ahead(self, stream: _Stream) -> None:
        """Ask for what follows the stream, in whole requests."""
        segment = max(1, self._line.segment // BLOCK)
        last = -(-self.size // BLOCK)
        first = max(stream.issued, -(-stream.end // BLOCK))
        until = min(last, (stream.end + stream.window) // BLOCK)
        if until < last:
            until -= (until - first) % segment
        self._reap()
        blocks = [block for block in range(first, until) if not self._has(block) and not self._cached(block)]
        room = _MEMORY // 2 - len(self._coming)
        if blocks and len(blocks) <= room:
            self._request(blocks)
        if blocks == [] or len(blocks) <= room:
            stream.issued = max(stream.issued, until)

    def _cached(self, block: int) -> bool:
        return self._cache is not None and block in self._cache

    def _reap(self) -> None:
        """Take in what came ahead of streams that went elsewhere, where much of it waits."""
        if len(self._coming) < _MEMORY // 4:
            return
        for part in {id(part): part for part in self._coming.values()}.values():
            if not part.future.done():
                continue
            if part.future.cancelled() or part.future.exception() is not None:
                self._forget(part)
            else:
                self._arrived(part, part.future.result(), passing=True)

    def _still_true(self, cache: BlockCache) -> bool:
        """Whether the blocks of the cache are those of the line, as far as a few of them tell."""
        blocks = cache.sample(_SAMPLES)
        asked = [(block, self._line.start(block * BLOCK, self._length(block))) for block in blocks]
        try:
            return all(cache.get(block) in (None, future.result()) for block, future in asked)
        except Refused:
            return False


def _pieces(part: _Part, data: bytes) -> Iterator[tuple[int, Piece]]:
    """The blocks of an answer."""
    view = memoryview(data)
    for index in range(part.count):
        yield part.first + index, view[index * BLOCK : (index + 1) * BLOCK]
