"""Reading back what was written: from the medium, past the page cache, hashed while more is read."""

from __future__ import annotations

import errno
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from fcntl import F_GETFL, F_SETFL, fcntl
from mmap import PAGESIZE, mmap

from triune.services.rescue.hashing import Sink

_PIECE = 1 << 20
_AT_ONCE = 3  # requests on their way to the medium while a piece is hashed
_BUFFERS = _AT_ONCE + 1


def read_back(fd: int, size: int, sink: Sink, tick: Callable[[int], None]) -> None:
    """Feed a file's `size` bytes to a sink, fewer where it ends before: the hash will tell.

    Data is read with O_DIRECT where the file system can, which makes `fd` direct; holes are zeros without reading.
    `tick` is called with the bytes of each piece. Raises OSError, and what `tick` raises.
    """
    _go_direct(fd)
    if size <= _PIECE:
        _read_small(fd, size, sink, tick)
    else:
        _read_ahead(fd, size, sink, tick)


def _read_small(fd: int, size: int, sink: Sink, tick: Callable[[int], None]) -> None:
    """Without threads, which would cost more than they save."""
    buffer = memoryview(mmap(-1, _PIECE))
    for offset, length, hole in _pieces(fd, size):
        if hole:
            sink.zeros(length)
            continue
        got = min(_fill(fd, buffer, offset, length), length)
        sink.update(buffer[:got])
        tick(got)
        if got < length:
            return


def _read_ahead(fd: int, size: int, sink: Sink, tick: Callable[[int], None]) -> None:
    spare = [memoryview(mmap(-1, _PIECE)) for _ in range(_BUFFERS)]  # O_DIRECT wants whole pages
    flying: deque[tuple[int, memoryview | None, Future[int] | None]] = deque()

    def land() -> bool:
        """Hash the oldest piece; whether all of it was there."""
        length, buffer, reading = flying.popleft()
        if buffer is None or reading is None:
            sink.zeros(length)
            return True
        got = min(reading.result(), length)
        sink.update(buffer[:got])
        tick(got)
        spare.append(buffer)
        return got == length

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for offset, length, hole in _pieces(fd, size):
            if hole:
                flying.append((length, None, None))
                continue
            while not spare:
                if not land():
                    return
            buffer = spare.pop()
            flying.append((length, buffer, pool.submit(_fill, fd, buffer, offset, length)))
        while flying and land():
            pass


def _pieces(fd: int, size: int) -> Iterator[tuple[int, int, bool]]:
    """Where data lies and where holes do: (offset, length, whether it is a hole), in order."""
    offset = 0
    while offset < size:
        start, end = _next_data(fd, offset, size)
        if start > offset:
            yield offset, start - offset, True
        for offset in range(start, end, _PIECE):
            yield offset, min(_PIECE, end - offset), False
        offset = end


def _next_data(fd: int, offset: int, size: int) -> tuple[int, int]:
    try:
        start = os.lseek(fd, offset, os.SEEK_DATA)
        return min(start, size), min(os.lseek(fd, start, os.SEEK_HOLE), size)
    except OSError:  # ENXIO: nothing but a hole follows
        return size, size


def _fill(fd: int, buffer: memoryview, offset: int, length: int) -> int:
    """Read a piece into a buffer; how many bytes came, some more than asked for where its last page holds them."""
    whole = -(-length // PAGESIZE) * PAGESIZE  # a file's last page is asked for, and comes as far as the file goes
    got = 0
    while got < length:
        try:
            step = os.preadv(fd, [buffer[got:whole]], offset + got)
        except OSError as error:
            if error.errno != errno.EINVAL or not fcntl(fd, F_GETFL) & os.O_DIRECT:
                raise
            _go_direct(fd, False)  # it wants larger or otherwise aligned pieces
            continue
        if not step:
            break
        got += step
    return got


def _go_direct(fd: int, direct: bool = True) -> None:
    flags = fcntl(fd, F_GETFL)
    try:
        fcntl(fd, F_SETFL, flags | os.O_DIRECT if direct else flags & ~os.O_DIRECT)
    except OSError as error:
        if error.errno != errno.EINVAL:  # this file system has no direct reading
            raise
