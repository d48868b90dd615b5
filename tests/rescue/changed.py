"""A source with some of its bytes changed: damages without copies."""

from __future__ import annotations

from collections.abc import Mapping

from triune.disks.source import Source


class Changed:
    """`changes` are bytes by their offset; `end` cuts the rest off."""

    def __init__(self, source: Source, changes: Mapping[int, bytes], end: int | None = None) -> None:
        self.source, self.changes = source, dict(changes)
        self.name = f"{source.name}, changed"
        self.size = source.size if end is None else end

    def read(self, offset: int, length: int) -> bytes:
        length = max(0, min(length, self.size - offset))
        data = bytearray(self.source.read(offset, length))
        for at, new in self.changes.items():
            begin, end = max(at, offset), min(at + len(new), offset + length)
            if begin < end:
                data[begin - offset : end - offset] = new[begin - at : end - at]
        return bytes(data)

    def close(self) -> None:
        self.source.close()
