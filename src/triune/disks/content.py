"""What a file on a volume holds, as runs: bytes somewhere, proved zeros, or something missing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from triune.disks.source import Source
from triune.domain.errors import Failed


@dataclass(frozen=True, slots=True)
class Run:
    """`length` bytes at `offset` of the file.

    With a `source`, they are its bytes from `at` on. Without one they are zeros (a hole), unless `why` says why they
    are lost. A run with both is missing too: those bytes are likely there, but nothing vouches for them.
    """

    offset: int
    length: int
    source: Source | None = None
    at: int = 0
    why: str = ""

    @property
    def missing(self) -> bool:
        """Whether nobody knows these bytes."""
        return bool(self.why)


class Content(Protocol):
    """One file's bytes. `runs` cover [start, end) without gap or overlap, ascending, and are made lazily:
    a thin file of 62 TB has few."""

    @property
    def size(self) -> int: ...
    def runs(self, start: int = 0, end: int | None = None) -> Iterator[Run]: ...


class Lost(Failed):
    """Asked for bytes that are missing."""

    def __init__(self, run: Run) -> None:
        super().__init__(
            "bytes_missing",
            f"{run.length} bytes at {run.offset} are missing: {run.why}",
            hint="Extract the file: what is left of it is written, and the missing ranges are listed.",
        )


def read(content: Content, offset: int, length: int) -> bytes:
    """The bytes there, fewer only at the file's end. Raises Lost, and what its sources raise."""
    end = min(content.size, offset + length)
    parts: list[bytes] = []
    for run in content.runs(offset, end):
        if run.missing:
            raise Lost(run)
        if run.source is None:
            parts.append(bytes(run.length))
            continue
        part = run.source.read(run.at, run.length)
        if len(part) < run.length:
            raise Lost(Run(run.offset + len(part), run.length - len(part), why=f"{run.source.name} ends before"))
        parts.append(part)
    return b"".join(parts)
