"""A volume in memory, with whatever names, runs and failures a test wants."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from triune.disks.content import Content, Run
from triune.disks.source import Unreadable
from triune.domain.errors import Conflict, NotFound
from triune.domain.rescue import FileKind, Found, Status


class Bytes:
    """A source in memory; `bad` bytes can't be read."""

    name = "memory"

    def __init__(self, data: bytes, bad: Sequence[range] = ()) -> None:
        self.data, self.bad = data, bad
        self.reads = 0

    @property
    def size(self) -> int:
        return len(self.data)

    def read(self, offset: int, length: int) -> bytes:
        self.reads += 1
        if any(offset < bad.stop and bad.start < offset + length for bad in self.bad):
            raise Unreadable(self.name, offset, length, "I/O error")
        return self.data[offset : offset + length]

    def close(self) -> None: ...


@dataclass
class Runs:
    """A content of runs given once."""

    size: int
    given: Sequence[Run]

    def runs(self, start: int = 0, end: int | None = None) -> Iterator[Run]:
        end = self.size if end is None else min(end, self.size)
        at = start
        for run in [*self.given, Run(self.size, 0)]:
            if at < min(run.offset, end):
                yield Run(at, min(run.offset, end) - at)
                at = min(run.offset, end)
            low, high = max(run.offset, start), min(run.offset + run.length, end)
            if low < high:
                yield Run(low, high - low, run.source, run.at + low - run.offset, run.why)
                at = high


def plain(data: bytes) -> Runs:
    """A content of one run."""
    return Runs(len(data), [Run(0, len(data), Bytes(data))])


@dataclass
class FakeVolume:
    """Files by their paths."""

    contents: dict[str, Content] = field(default_factory=dict)
    label: str = "store"
    uuid: str = "5f0-1"
    version: str = "VMFS6"
    facts: dict[str, Found] = field(default_factory=dict)

    def add(self, path: str, content: Content | bytes, **facts: object) -> Found:
        content = plain(content) if isinstance(content, bytes) else content
        known = {"kind": FileKind.FILE, "size": content.size, "status": Status.INTACT, "modified": 1_700_000_000}
        found = Found(path=path, key=f"k{len(self.facts)}", **{**known, **facts})  # type: ignore[arg-type]
        key = path if path not in self.facts else f"{path} {len(self.facts)}"
        self.contents[found.key], self.facts[key] = content, found
        return found

    def walk(self, *, deleted: bool = False, system: bool = False) -> Iterator[Found]:
        for one in self.facts.values():
            if (deleted or one.status is not Status.DELETED) and (system or one.kind is not FileKind.SYSTEM):
                yield one

    def find(self, path: str) -> Found:
        for one in self.facts.values():
            if one.path == path:
                return one
        raise NotFound("no_such_file", f"there is no {path}", hint=f"Near it: {', '.join(list(self.facts)[:3])}.")

    def open(self, found: Found) -> Content:
        if found.kind is FileKind.FOLDER:
            raise Conflict("is_a_folder", f"{found.path} is a folder", hint="Name a file.")
        return self.contents[found.key]

    def damages(self) -> Sequence[str]:
        return []
