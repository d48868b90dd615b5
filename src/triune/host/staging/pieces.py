"""A disk as a folder of pieces: `000000/000000000` and so on, each one file of PIECE bytes.

A piece's time is when its content last changed as far as anybody knows. A program that compares times with what it saw
before reads only pieces with a new one; what it reads is always what is on the disk. Pieces that are not there are
zeros.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

from triune.host.fuse import Node
from triune.host.nbd import DiskReader

PIECE = 1 << 20
PER_FOLDER = 1024
_ROOT = 1
_FOLDERS = 2
_FILES = 1 << 40
_HELD = 8


def path_of(index: int) -> str:
    """Where a piece is, below its disk's folder."""
    return f"{index // PER_FOLDER:06d}/{index:09d}"


def index_of(path: str) -> int | None:
    """The piece at a path below its disk's folder; None for a folder, or what is no piece."""
    folder, slash, name = path.partition("/")
    if not slash or not name.isdecimal() or not name.isascii() or len(name) != 9:
        return None
    return int(name) if path_of(int(name)) == f"{folder}/{name}" else None


def touched(ranges: Sequence[tuple[int, int]], size: int) -> set[int]:
    """The pieces that (offset, length) ranges of a disk of `size` bytes lie in."""
    found: set[int] = set()
    for offset, length in ranges:
        end = min(offset + length, size)
        if offset < end:
            found.update(range(offset // PIECE, -(-end // PIECE)))
    return found


class Pieces:
    """The content of the file system: which pieces there are, with their times in nanoseconds."""

    def __init__(self, reader: DiskReader, size: int, times: Mapping[int, int]) -> None:
        self._reader = reader
        self._size = size
        self._times = times
        self._folders: dict[int, list[int]] = {}
        for index in sorted(times):
            self._folders.setdefault(index // PER_FOLDER, []).append(index)
        self._piece = lru_cache(_HELD)(self._whole)

    def node(self, number: int) -> Node | None:
        """A folder's or a piece's node."""
        if number >= _FILES:
            return self._file(number - _FILES)
        known = number == _ROOT or number - _FOLDERS in self._folders
        return Node(number, 0, 0, folder=True) if known else None

    def _file(self, index: int) -> Node | None:
        if index not in self._times:
            return None
        return Node(_FILES + index, min(PIECE, self._size - index * PIECE), self._times[index])

    def find(self, folder: int, name: str) -> Node | None:
        """A node by its name."""
        if not name.isdecimal() or not name.isascii():
            return None
        number = int(name)
        if folder == _ROOT and len(name) == 6:
            return self.node(_FOLDERS + number)
        inside = len(name) == 9 and number // PER_FOLDER == folder - _FOLDERS
        return self._file(number) if inside else None

    @lru_cache(2)  # noqa: B019 - it lives as long as its process
    def names(self, folder: int) -> Sequence[tuple[str, Node]]:
        """The folders of the root, or the pieces of a folder."""
        if folder == _ROOT:
            return [(f"{number:06d}", Node(_FOLDERS + number, 0, 0, folder=True)) for number in self._folders]
        indexes = self._folders.get(folder - _FOLDERS, [])
        return [(f"{index:09d}", node) for index in indexes if (node := self._file(index))]

    def read(self, number: int, offset: int, length: int) -> bytes:
        """Bytes of a piece: it is read whole, once, whatever the requests."""
        return self._piece(number - _FILES)[offset : offset + length]

    def _whole(self, index: int) -> bytes:
        start = index * PIECE
        return self._reader.read(start, min(PIECE, self._size - start))
