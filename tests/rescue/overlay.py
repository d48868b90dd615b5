"""An image in memory: pages laid over a real image, so that ten thousand damages cost no copy of two gigabytes."""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Iterator
from io import RawIOBase
from pathlib import Path

PAGE = 4096
ZEROS = bytes(PAGE)
CHUNK = 1 << 20


def _extents(fd: int, size: int) -> list[tuple[int, int]]:
    """The (start, end) ranges of a sparse file that hold data."""
    found: list[tuple[int, int]] = []
    at = 0
    while at < size:
        try:
            start = os.lseek(fd, at, os.SEEK_DATA)
        except OSError:
            break
        at = os.lseek(fd, start, os.SEEK_HOLE)
        found.append((start, at))
    return found


class Overlay:
    """A Source that may be written to: an image, or zeros, beneath pages of its own. `size` in bytes."""

    def __init__(self, image: Path | None, size: int | None = None) -> None:
        self._fd = os.open(image, os.O_RDONLY) if image else -1
        self._under = os.fstat(self._fd).st_size if image else 0
        self.size = self._under if size is None else size
        self._extents = _extents(self._fd, self._under) if image else []
        self._pages: dict[int, bytes] = {}
        self._order: list[int] | None = []
        self.name = str(image) if image else "memory"

    @property
    def devices(self) -> list[Overlay]:
        """What it lies on: itself."""
        return [self]

    def fork(self) -> Overlay:
        """The same again; writing to one leaves the other alone."""
        twin = Overlay(None, self.size)
        if self._fd >= 0:
            twin._fd = os.dup(self._fd)
        twin._under, twin._extents, twin.name = self._under, self._extents, self.name
        twin._pages, twin._order = dict(self._pages), self._order
        return twin

    def read(self, offset: int, length: int) -> bytes:
        """The bytes there, fewer only at the end."""
        end = min(offset + length, self.size)
        if offset >= end:
            return b""
        under = os.pread(self._fd, end - offset, offset) if self._fd >= 0 and offset < self._under else b""
        pages = self._touched(offset, end)
        if not pages:
            return under if len(under) == end - offset else under.ljust(end - offset, b"\0")
        data = bytearray(under.ljust(end - offset, b"\0"))
        for number in pages:
            start = number * PAGE
            low, high = max(start, offset), min(start + PAGE, end)
            data[low - offset : high - offset] = self._pages[number][low - start : high - start]
        return bytes(data)

    def write(self, offset: int, data: bytes) -> None:
        """Put bytes there. The image beneath stays as it is."""
        end = offset + len(data)
        for number in range(offset // PAGE, -(-end // PAGE)):
            start = number * PAGE
            low, high = max(start, offset), min(start + PAGE, end)
            if high - low == PAGE:
                page = bytes(data[low - offset : high - offset])
            else:
                whole = bytearray(self.read(start, PAGE).ljust(PAGE, b"\0"))
                whole[low - start : high - start] = data[low - offset : high - offset]
                page = bytes(whole)
            self._pages[number] = page
        self._order = None

    def zero(self, offset: int, length: int) -> None:
        """Zeros there; what lies beyond the end is nothing."""
        end = min(offset + length, self.size)
        if offset >= end:
            return
        first, last = -(-offset // PAGE), end // PAGE
        if first >= last:
            self.write(offset, bytes(end - offset))
            return
        self.write(offset, bytes(first * PAGE - offset))
        self._pages.update(dict.fromkeys(range(first, last), ZEROS))
        self.write(last * PAGE, bytes(end - last * PAGE))
        self._order = None

    def truncate(self, size: int) -> None:
        """Cut the end off."""
        self.size = min(self.size, size)

    def data(self, offset: int, end: int) -> Iterator[tuple[int, int]]:
        """The (offset, length) ranges between that may hold data; everything else is zeros."""
        end = min(end, self.size)
        ranges = [(max(a, offset), min(b, end)) for a, b in self._extents if a < end and b > offset]
        for number in self._touched(offset, end):
            if self._pages[number] is not ZEROS:
                ranges.append((max(number * PAGE, offset), min((number + 1) * PAGE, end)))
        ranges.sort()
        at = offset
        start = None
        for low, high in ranges:
            if start is not None and low > at:
                yield start, at - start
                start = None
            if start is None:
                start, at = low, high
            at = max(at, high)
        if start is not None:
            yield start, at - start

    def close(self) -> None:
        """Let the image beneath go."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def save(self, path: Path) -> Path:
        """A sparse file of it, for readers that want one."""
        with path.open("wb") as out:
            out.truncate(self.size)
            for start, length in self.data(0, self.size):
                for at in range(start, start + length, CHUNK):
                    chunk = self.read(at, min(CHUNK, start + length - at))
                    if chunk.count(0) != len(chunk):
                        out.seek(at)
                        out.write(chunk)
        return path

    def packed(self) -> Overlay:
        """The same without an image beneath: only what isn't zero, in memory."""
        lone = Overlay(None, self.size)
        lone.name = self.name
        for start, length in self.data(0, self.size):
            for at in range(start - start % PAGE, start + length, PAGE):
                page = self.read(at, PAGE)
                if page.count(0) != len(page):
                    lone._pages[at // PAGE] = page.ljust(PAGE, b"\0")
        lone._order = None
        return lone

    def file(self) -> OverlayFile:
        """It as a seekable file, for the independent reader."""
        return OverlayFile(self)

    def _touched(self, offset: int, end: int) -> list[int]:
        """The numbers of own pages in the range, ascending."""
        if self._order is None:
            self._order = sorted(self._pages)
        low = bisect_left(self._order, offset // PAGE)
        return self._order[low : bisect_left(self._order, -(-end // PAGE))]


class Joined:
    """The logical volume of several devices, each given with the offset and length of its share."""

    def __init__(self, shares: list[tuple[Overlay, int, int]]) -> None:
        self.shares = shares
        self.size = sum(length for _, _, length in shares)

    @property
    def devices(self) -> list[Overlay]:
        """What it lies on."""
        return [disk for disk, _, _ in self.shares]

    def fork(self) -> Joined:
        """The same again, on copies of its devices."""
        return Joined([(disk.fork(), at, length) for disk, at, length in self.shares])

    def _pieces(self, offset: int, length: int) -> Iterator[tuple[Overlay, int, int]]:
        for disk, at, share in self.shares:
            if offset < share and length > 0:
                part = min(length, share - offset)
                yield disk, at + offset, part
                offset, length = offset + part, length - part
            offset -= share

    def read(self, offset: int, length: int) -> bytes:
        """The bytes there."""
        return b"".join(disk.read(at, part) for disk, at, part in self._pieces(offset, length))

    def write(self, offset: int, data: bytes) -> None:
        """Put bytes there."""
        for disk, at, part in self._pieces(offset, len(data)):
            disk.write(at, data[:part])
            data = data[part:]

    def zero(self, offset: int, length: int) -> None:
        """Zeros there."""
        for disk, at, part in self._pieces(offset, length):
            disk.zero(at, part)


class OverlayFile(RawIOBase):
    """An overlay as a file that is read."""

    def __init__(self, overlay: Overlay) -> None:
        self.overlay, self.at = overlay, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self.at = offset + (0, self.at, self.overlay.size)[whence]
        return self.at

    def tell(self) -> int:
        return self.at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self.overlay.read(self.at, len(buffer))
        buffer[: len(data)] = data
        self.at += len(data)
        return len(data)
