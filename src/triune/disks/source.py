"""Where bytes are read from: files, devices and what is made of them. Nothing here can write."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from fcntl import ioctl
from pathlib import Path
from struct import unpack
from typing import Protocol

from triune.domain.errors import Failed, Invalid, NotFound

_BLKGETSIZE64 = 0x80081272


class Source(Protocol):
    """Bytes at offsets. `size` in bytes; `name` for people.

    `read` gives exactly the bytes asked for, fewer only where the source ends, and raises Unreadable where the medium
    refuses. It may be called from several threads.
    """

    @property
    def name(self) -> str: ...
    @property
    def size(self) -> int: ...
    def read(self, offset: int, length: int) -> bytes: ...
    def close(self) -> None: ...


class Unreadable(Failed):
    """The medium refused a range: `offset` and `length` are in its extra facts."""

    def __init__(self, name: str, offset: int, length: int, why: str) -> None:
        super().__init__(
            "unreadable",
            f"{name} can't be read at {offset}: {why}",
            hint="Copy the medium with ddrescue first, and rescue from the copy.",
            offset=offset,
            length=length,
        )


class FileSource:
    """A file or a block device, opened read-only."""

    def __init__(self, path: Path, fd: int | None = None) -> None:
        """Open it, or take over the descriptor `fd` of what was opened there with care.

        Raises NotFound("no_source") and Invalid("bad_source") for a folder or the like.
        """
        self.path = path
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK) if fd is None else fd
        except FileNotFoundError:
            raise NotFound("no_source", f"there is no {path}", hint="Name an image file or a block device.") from None
        except OSError as error:
            raise Failed("source_refused", f"{path}: {error.strerror}", hint="Run as a user who may read it.") from None
        kind = os.fstat(self._fd).st_mode
        if not (stat.S_ISREG(kind) or stat.S_ISBLK(kind)):
            self.close()
            raise Invalid(
                "bad_source",
                f"{path} is neither a file nor a block device",
                hint="Name an image file or a block device.",
            )
        self._size = self._block_size() if stat.S_ISBLK(kind) else os.fstat(self._fd).st_size

    @property
    def name(self) -> str:
        """Its path."""
        return str(self.path)

    @property
    def size(self) -> int:
        """In bytes, as it was when it was opened."""
        return self._size

    def read(self, offset: int, length: int) -> bytes:
        """The bytes there. Raises Unreadable."""
        parts: list[bytes] = []
        while length > 0:
            try:
                part = os.pread(self._fd, length, offset)
            except OSError as error:
                raise Unreadable(self.name, offset, length, error.strerror or "I/O error") from None
            if not part:
                break
            parts.append(part)
            offset, length = offset + len(part), length - len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def read_into(self, offset: int, buffer: memoryview) -> int:
        """Fill the buffer from there and tell how much of it; less only where the file ends. Raises Unreadable."""
        filled = 0
        while filled < len(buffer):
            try:
                more = os.preadv(self._fd, [buffer[filled:]], offset + filled)
            except OSError as error:
                raise Unreadable(self.name, offset, len(buffer), error.strerror or "I/O error") from None
            if not more:
                break
            filled += more
        return filled

    def ahead(self, offset: int, length: int) -> None:
        """Have the system begin to read that; a refusal is told when it is read."""
        with suppress(OSError):
            os.posix_fadvise(self._fd, offset, length, os.POSIX_FADV_WILLNEED)

    def data(self, offset: int, end: int) -> Iterator[tuple[int, int]]:
        """The (offset, length) ranges between that hold data; the file system knows the rest to be zeros."""
        while offset < end:
            try:
                start = os.lseek(self._fd, offset, os.SEEK_DATA)
                stop = os.lseek(self._fd, start, os.SEEK_HOLE)
            except OSError:  # ENXIO: no more data. A device that can't tell holds data all over.
                if not stat.S_ISREG(os.fstat(self._fd).st_mode):
                    yield offset, end - offset
                return
            if start >= end:
                return
            yield start, min(stop, end) - start
            offset = stop

    def close(self) -> None:
        """Let it go; once more does nothing."""
        fd, self._fd = getattr(self, "_fd", -1), -1
        if fd >= 0:
            os.close(fd)

    def _block_size(self) -> int:
        return int(unpack("Q", ioctl(self._fd, _BLKGETSIZE64, bytes(8)))[0])


class Window:
    """A part of another source: a partition."""

    def __init__(self, source: Source, start: int, size: int, name: str = "") -> None:
        self.source, self.start = source, start
        self._size = max(0, min(size, source.size - start))
        self._name = name or f"{source.name}@{start}"

    @property
    def name(self) -> str:
        """Where it is."""
        return self._name

    @property
    def size(self) -> int:
        """In bytes; what lies beyond the end of the other source is no part of it."""
        return self._size

    def read(self, offset: int, length: int) -> bytes:
        """The bytes there."""
        return self.source.read(self.start + offset, max(0, min(length, self._size - offset)))

    def close(self) -> None:
        """The other source stays open: it is not ours."""


def ahead(source: Source, offset: int, length: int) -> None:
    """Say that this will be read soon. Nothing comes of it where the source is not (a part of) a file or device."""
    while isinstance(source, Window):
        offset += source.start
        source = source.source
    if isinstance(source, FileSource):
        source.ahead(offset, length)


class Held:
    """Bytes in memory."""

    def __init__(self, name: str, data: bytes) -> None:
        self._name, self._data = name, data

    @property
    def name(self) -> str:
        """What they are."""
        return self._name

    @property
    def size(self) -> int:
        """In bytes."""
        return len(self._data)

    def read(self, offset: int, length: int) -> bytes:
        """The bytes there."""
        return self._data[offset : offset + length]

    def close(self) -> None:
        """Nothing to let go."""
