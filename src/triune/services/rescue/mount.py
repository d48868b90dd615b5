"""Volumes as a read-only tree of files, for the file system in user space that shows them."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from functools import lru_cache
from threading import Lock

from triune.disks.content import Content, Run
from triune.domain.errors import TriuneError
from triune.domain.rescue import FileKind, Found
from triune.host.fuse import Node
from triune.services.rescue.names import Names
from triune.services.rescue.selecting import Named, select

_ROOT = 1
_OPEN = 64
# A program looks for holes where a file takes less than its size; below this they save nothing.
_WORTH_COUNTING = 1 << 26
_MOST_RUNS = 100_000


class VolumeTree:
    """What volumes hold, under names that are safe here; a folder for each where there are several.

    The tree is read once; contents when they are asked for. Bytes that are missing are EIO.
    """

    def __init__(self, volumes: Sequence[Named], *, deleted: bool = False, system: bool = False) -> None:
        self._entries: list[tuple[Named, Found] | None] = [None, None]  # by node; None is a folder without a Found
        self._children: dict[int, dict[str, int]] = {_ROOT: {}}
        self._folders: dict[str, int] = {"": _ROOT}
        self._locks = {id(one.volume): Lock() for one in volumes}
        self._opening = Lock()
        names = Names(lambda _path, _folder: False)
        for number, one in enumerate(select(volumes, deleted=deleted, system=system)):
            if one.found.kind is FileKind.FOLDER:
                self._entries[self._folder(names.folder(one.path))] = (one.named, one.found)
            else:
                self._add(names.file(one.path, str(number)), (one.named, one.found))
        self._content = lru_cache(_OPEN)(self._opened)
        self._listed = lru_cache(4)(self._list)
        self._allocated = lru_cache(4096)(self._taken)

    def node(self, number: int) -> Node | None:
        """A node by its number."""
        if not _ROOT <= number < len(self._entries):
            return None
        entry = self._entries[number]
        if entry is None:
            return Node(number, 0, 0, folder=True, mode=0o755)
        found = entry[1]
        folder, link = found.kind is FileKind.FOLDER, found.kind is FileKind.LINK
        size = 0 if folder else len(found.target.encode()) if link else found.size
        counted = not folder and not link and size >= _WORTH_COUNTING
        return Node(
            number,
            size,
            max(0, min(found.modified, 1 << 33)) * 10**9,
            folder=folder,
            link=link,
            mode=found.mode & (0o555 if folder else 0o444) or (0o555 if folder else 0o444),
            uid=found.uid & 0xFFFFFFFF,
            gid=found.gid & 0xFFFFFFFF,
            allocated=self._allocated(number) if counted else None,
        )

    def find(self, folder: int, name: str) -> Node | None:
        """A node by its name."""
        number = self._children.get(folder, {}).get(name)
        return None if number is None else self.node(number)

    def names(self, folder: int) -> Sequence[tuple[str, Node]]:
        """What a folder holds."""
        return self._listed(folder)

    def target(self, number: int) -> str:
        """Where a link points."""
        return self._file(number)[1].target.replace("\0", "%00")

    def read(self, number: int, offset: int, length: int) -> bytes:
        """Bytes of a file. Raises OSError(EIO) for missing ones."""
        entry = self._file(number)
        found = entry[1]
        end = min(found.size, offset + length)
        if any(start < end and offset < start + size for start, size in found.missing):
            raise OSError(errno.EIO, "bytes are missing")
        try:
            parts = [_bytes(run) for run in self._runs(number, offset, end)]
        except TriuneError as error:
            raise OSError(errno.EIO, error.message) from None
        return b"".join(parts)

    def data(self, number: int, offset: int) -> tuple[int, int] | None:
        """The next range that is no hole; what is missing is none, or it would pass for zeros."""
        entry = self._file(number)
        try:
            with self._locks[id(entry[0].volume)]:
                for run in self._content(number).runs(offset):
                    if run.source is not None or run.missing:
                        return run.offset, run.offset + run.length
        except TriuneError as error:
            raise OSError(errno.EIO, error.message) from None
        return None

    def _file(self, number: int) -> tuple[Named, Found]:
        entry = self._entries[number] if number < len(self._entries) else None
        if entry is None:
            raise FileNotFoundError(errno.ENOENT, "no such file")
        return entry

    def _runs(self, number: int, start: int, end: int) -> list[Run]:
        entry = self._file(number)
        content = self._content(number)
        with self._locks[id(entry[0].volume)]:
            return list(content.runs(start, end))

    def _opened(self, number: int) -> Content:
        entry = self._file(number)
        with self._opening:
            return entry[0].volume.open(entry[1])

    def _taken(self, number: int) -> int:
        """Bytes that are no hole; the whole size where that is not known at once."""
        entry = self._file(number)
        total = 0
        try:
            with self._locks[id(entry[0].volume)]:
                for count, run in enumerate(self._content(number).runs()):
                    if count > _MOST_RUNS:
                        return entry[1].size
                    total += run.length if run.source is not None or run.missing else 0
        except TriuneError:
            return entry[1].size
        return total

    def _list(self, folder: int) -> list[tuple[str, Node]]:
        inside = self._children.get(folder)
        if inside is None:
            raise NotADirectoryError(errno.ENOTDIR, "not a folder")
        return [(name, node) for name, number in inside.items() if (node := self.node(number))]

    def _folder(self, path: str) -> int:
        """The node of a folder; those above it are made where nothing has told of them."""
        known = self._folders.get(path)
        if known is None:
            known = self._folders[path] = self._add(path, None)
            self._children[known] = {}
        return known

    def _add(self, path: str, entry: tuple[Named, Found] | None) -> int:
        above, _, name = path.rpartition("/")
        parent = self._folder(above)
        number = len(self._entries)
        self._entries.append(entry)
        self._children[parent][name] = number
        return number


def _bytes(run: Run) -> bytes:
    if run.missing:
        raise OSError(errno.EIO, run.why)
    if run.source is None:
        return bytes(run.length)
    data = run.source.read(run.at, run.length)
    if len(data) < run.length:
        raise OSError(errno.EIO, f"{run.source.name} ends before")
    return data
