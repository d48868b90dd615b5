"""A datastore that its host can read, as a volume: names from the host's API, bytes over HTTPS."""

from __future__ import annotations

import difflib
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from triune.disks.content import Run
from triune.domain.errors import Conflict, NotFound
from triune.domain.rescue import FileKind, Found, Status
from triune.services.rescue.esxi.access import Access
from triune.services.rescue.esxi.address import Address
from triune.services.rescue.esxi.buffered import RemoteSource
from triune.services.rescue.esxi.inventory import Entry, Host
from triune.services.rescue.esxi.web import WebLine

_DEEPEST = 64
_MOST_OPEN = 4
_REASON = "read through its host, which vouches for it"


@dataclass(slots=True)
class _Opened:
    source: RemoteSource
    users: int = 0


class DatastoreVolume:
    """A datastore. Files are opened as they are read, a few at a time; `close` hangs up."""

    def __init__(self, address: Address, access: Access) -> None:
        """Look at it. Raises NotFound("no_datastore"), and what `Host` raises."""
        self._address, self._access = replace(address, path=(address.datastore,)), replace(access, cache=None)
        self._host = Host(address, access)
        self._found = self._host.datastore(address.datastore)
        self._lock = threading.Lock()
        self._opened: OrderedDict[str, _Opened] = OrderedDict()

    @property
    def label(self) -> str:
        """The datastore's name."""
        return self._found.name

    @property
    def uuid(self) -> str:
        """Of the volume, where it is a VMFS."""
        return self._found.uuid

    @property
    def version(self) -> str:
        """As the host words it."""
        return self._found.kind

    def damages(self) -> Sequence[str]:
        """None that a host would tell, but that it can't reach it."""
        return () if self._found.accessible else (f"the host can't reach {self.label}",)

    def walk(self, *, deleted: bool = False, system: bool = False) -> Iterator[Found]:
        """Everything below the root; a host tells of nothing that was deleted, nor of the volume's own files."""
        del deleted, system
        yield from self._below("", 0)

    def find(self, path: str) -> Found:
        """One file by its path."""
        path = "/".join(name for name in path.split("/") if name)
        folder, _, name = path.rpartition("/")
        if not path:
            return Found(path="", key="/", kind=FileKind.FOLDER, size=0, status=Status.INTACT)
        entries = self._host.entries(self.label, folder)
        for entry in entries:
            if entry.name == name:
                return self._told(path, entry)
        near = difflib.get_close_matches(name, [entry.name for entry in entries], 3)
        hint = f"Did you mean {' or '.join(near)}?" if near else "List the folder."
        raise NotFound("no_such_file", f"{self.label} has no {path}", hint=hint)

    def open(self, found: Found) -> HostedContent:
        """A file's content."""
        if found.kind is FileKind.FOLDER:
            raise Conflict("is_folder", f"{found.path or '/'} is a folder", hint="Name a file in it.")
        return HostedContent(self, found.path, self._size(found.path))

    def read(self, path: str, offset: int, length: int) -> bytes:
        """Bytes of a file, opened again where it was closed for others."""
        opened = self._use(path)
        try:
            return opened.source.read(offset, length)
        finally:
            self._done(opened)

    def close(self) -> None:
        """Hang up."""
        self._host.close()
        with self._lock:
            opened = list(self._opened.values())
            self._opened.clear()
        for each in opened:
            each.source.close()

    def _below(self, folder: str, depth: int) -> Iterator[Found]:
        for entry in self._host.entries(self.label, folder):
            path = f"{folder}/{entry.name}" if folder else entry.name
            yield self._told(path, entry)
            if entry.folder and depth < _DEEPEST:
                yield from self._below(path, depth + 1)

    def _told(self, path: str, entry: Entry) -> Found:
        return Found(
            path=path,
            key=path,
            kind=FileKind.FOLDER if entry.folder else FileKind.FILE,
            size=entry.size,
            status=Status.INTACT,
            modified=entry.modified,
            reasons=(_REASON,),
        )

    def _size(self, path: str) -> int:
        """As the file's own server tells it: the list gives what a whole disk takes for its descriptor."""
        opened = self._use(path)
        self._done(opened)
        return opened.source.size

    def _use(self, path: str) -> _Opened:
        with self._lock:
            if path not in self._opened:
                address = replace(self._address, path=(self.label, *path.split("/")))
                line = WebLine(address, self._access)
                self._opened[path] = _Opened(RemoteSource(line, self._access))
            opened = self._opened[path]
            self._opened.move_to_end(path)
            opened.users += 1
            return opened

    def _done(self, opened: _Opened) -> None:
        idle: list[_Opened] = []
        with self._lock:
            opened.users -= 1
            for path in [path for path, each in self._opened.items() if not each.users]:
                if len(self._opened) <= _MOST_OPEN:
                    break
                idle.append(self._opened.pop(path))
        for each in idle:
            each.source.close()


@dataclass(frozen=True, slots=True)
class HostedContent:
    """A file's bytes, and the source they come from at once: its size in bytes."""

    volume: DatastoreVolume
    path: str
    size: int

    @property
    def name(self) -> str:
        """For people."""
        return f"[{self.volume.label}] {self.path}"

    def runs(self, start: int = 0, end: int | None = None) -> Iterator[Run]:
        """One run: a host tells nothing of holes."""
        stop = self.size if end is None else min(end, self.size)
        if start < stop:
            yield Run(start, stop - start, self, start)

    def read(self, offset: int, length: int) -> bytes:
        """The bytes there."""
        return self.volume.read(self.path, offset, length)

    def close(self) -> None:
        """The volume closes it."""
