"""A guest's partitions as a read-only tree of files, for the file system in user space that shows them."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from functools import lru_cache
from threading import RLock

from triune.domain.errors import NotFound, TriuneError
from triune.host.fuse import Node
from triune.services.rescue.guest import Guest, GuestFile, GuestReader
from triune.services.rescue.names import Names

_ROOT = 1
_OPEN = 64
_LATEST = 1 << 33


class GuestTree:
    """A folder for each part that can be read; under it its files, by names that are safe here.

    Folders are read when they are asked for. Bytes that are missing are EIO. Devices and pipes are left out.
    """

    def __init__(self, guest: Guest) -> None:
        self._guest = guest
        self._files = [GuestFile("", "folder", 0, mode=0o755), GuestFile("", "folder", 0, mode=0o755)]
        self._children: dict[int, dict[str, int]] = {}
        self._lock = RLock()
        self._reader = lru_cache(_OPEN)(self._opened)

    def node(self, number: int) -> Node | None:
        """A node by its number."""
        if not _ROOT <= number < len(self._files):
            return None
        file = self._files[number]
        folder, link = file.kind == "folder", file.kind == "link"
        size = 0 if folder else len(file.target.encode(errors="surrogateescape")) if link else file.size
        return Node(
            number,
            size,
            int(max(0, min(file.modified, _LATEST)) * 10**9),
            folder=folder,
            link=link,
            mode=file.mode & (0o555 if folder else 0o444) or (0o555 if folder else 0o444),
            uid=file.uid & 0xFFFFFFFF,
            gid=file.gid & 0xFFFFFFFF,
        )

    def find(self, folder: int, name: str) -> Node | None:
        """A node by its name."""
        number = self._inside(folder).get(name)
        return None if number is None else self.node(number)

    def names(self, folder: int) -> Sequence[tuple[str, Node]]:
        """What a folder holds."""
        return [(name, node) for name, number in self._inside(folder).items() if (node := self.node(number))]

    def target(self, number: int) -> str:
        """Where a link points, as the guest sees it."""
        return self._file(number).target.replace("\0", "%00")

    def data(self, number: int, offset: int) -> tuple[int, int] | None:
        """Everything counts as data: where a guest's file has holes is its file system's affair."""
        size = self._file(number).size
        return (offset, size) if offset < size else None

    def read(self, number: int, offset: int, length: int) -> bytes:
        """Bytes of a file. Raises OSError(EIO) for missing ones."""
        self._file(number)
        try:
            return self._reader(number).read(offset, length)
        except TriuneError as error:
            raise _refused(error) from None

    def _file(self, number: int) -> GuestFile:
        if not _ROOT <= number < len(self._files):
            raise FileNotFoundError(errno.ENOENT, "no such file")
        return self._files[number]

    def _opened(self, number: int) -> GuestReader:
        return self._guest.open(self._files[number].path)

    def _inside(self, folder: int) -> dict[str, int]:
        """The names in a folder with their nodes; read once, for numbers must not change."""
        file = self._file(folder)
        if file.kind != "folder":
            raise NotADirectoryError(errno.ENOTDIR, "not a folder")
        with self._lock:
            known = self._children.get(folder)
            if known is not None:
                return known
            try:
                found = self._guest.list(file.path)
            except TriuneError as error:
                raise _refused(error) from None
            if folder == _ROOT:
                readable = {part.name for part in self._guest.readable}
                found = [each for each in found if each.path in readable]
            names = Names(lambda _path, _folder: False)
            known = {}
            for each in found:
                if each.kind == "other":
                    continue
                name = each.path[len(file.path) + 1 if file.path else 0 :].replace("/", "%2F")
                known[names.file(name, each.path)] = len(self._files)
                self._files.append(each)
            self._children[folder] = known
            return known


def _refused(error: TriuneError) -> OSError:
    if isinstance(error, NotFound):
        return FileNotFoundError(errno.ENOENT, error.message)
    return OSError(errno.EIO, error.message)
