"""Between a file's content, a source of bytes and what libraries take for an open file."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from triune.disks import content as contents
from triune.disks.content import Content, Run
from triune.disks.source import Source

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer


class ContentSource:
    """A file's content as a source of bytes: reading what is missing raises Lost, it never gives zeros instead."""

    def __init__(self, content: Content, name: str) -> None:
        self.content = content
        self._name = name

    @property
    def name(self) -> str:
        """The file's."""
        return self._name

    @property
    def size(self) -> int:
        """In bytes."""
        return self.content.size

    def read(self, offset: int, length: int) -> bytes:
        """The bytes there, fewer only at the end. Raises Lost, and what the sources below raise."""
        return contents.read(self.content, offset, length)

    def close(self) -> None:
        """Nothing: the sources below belong to the content."""


class SourceContent:
    """A whole source as a file's content, in one run; with the holes that its file system knows, where it tells."""

    def __init__(self, source: Source) -> None:
        self.source = source

    @property
    def size(self) -> int:
        """In bytes."""
        return self.source.size

    def runs(self, start: int = 0, end: int | None = None) -> Iterator[Run]:
        """What lies between."""
        end = self.size if end is None else min(end, self.size)
        data = getattr(self.source, "data", None)
        if data is None:
            if start < end:
                yield Run(start, end - start, self.source, start)
            return
        for offset, length in data(start, end):
            if offset > start:
                yield Run(start, offset - start)
            yield Run(offset, length, self.source, offset)
            start = offset + length
        if start < end:
            yield Run(start, end - start)


class Stream(io.RawIOBase):
    """A source as an open file, read-only. Not for several threads at once: it has one position."""

    def __init__(self, source: Source) -> None:
        super().__init__()
        self.source = source
        self.name = source.name
        self._position = 0

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def tell(self) -> int:
        """In bytes from the beginning."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go there; behind the end is allowed and reads nothing."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.source.size}[whence]
        if base + offset < 0:
            raise ValueError("a position before the beginning")
        self._position = base + offset
        return self._position

    def read(self, size: int | None = -1, /) -> bytes:
        """Up to `size` bytes; all that follow for -1. Raises what the source raises."""
        left = max(0, self.source.size - self._position)
        wanted = left if size is None or size < 0 else min(size, left)
        data = self.source.read(self._position, wanted) if wanted else b""
        self._position += len(data)
        return data

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        """Fill the buffer as far as the source goes."""
        view = memoryview(buffer).cast("B")
        data = self.read(len(view))
        view[: len(data)] = data
        return len(data)
