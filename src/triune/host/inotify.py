"""Names that appear in and vanish from one folder, by inotify(7)."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from triune.host import syscalls

_HEADER = struct.Struct("iIII")
_MASK = syscalls.IN_CREATE | syscalls.IN_DELETE | syscalls.IN_MOVED_FROM | syscalls.IN_MOVED_TO


@dataclass(frozen=True, slots=True)
class Change:
    """`kind` is created, deleted, moved-from, moved-to or overflow (names were lost); `cookie` pairs the two moves."""

    kind: str
    name: str = ""
    folder: bool = False
    cookie: int = 0


_KINDS = {
    syscalls.IN_CREATE: "created",
    syscalls.IN_DELETE: "deleted",
    syscalls.IN_MOVED_FROM: "moved-from",
    syscalls.IN_MOVED_TO: "moved-to",
    syscalls.IN_Q_OVERFLOW: "overflow",
}


class FolderWatch:
    """An inotify descriptor on one folder; `fileno` is for select."""

    def __init__(self, path: Path) -> None:
        """Begin to watch. Raises OSError."""
        self._fd = syscalls.inotify_init()
        try:
            syscalls.inotify_add_watch(self._fd, path, _MASK | syscalls.IN_ONLYDIR)
        except OSError:
            os.close(self._fd)
            raise

    def fileno(self) -> int:
        """The descriptor."""
        return self._fd

    def read(self) -> list[Change]:
        """What changed since the last call; empty when nothing did."""
        try:
            return list(parse(os.read(self._fd, 65536)))
        except BlockingIOError:
            return []

    def close(self) -> None:
        """Stop watching."""
        os.close(self._fd)


def parse(data: bytes) -> Iterator[Change]:
    """Decode `struct inotify_event` records: wd, mask, cookie, len, then the name padded with NULs."""
    offset = 0
    while offset + _HEADER.size <= len(data):
        _, mask, cookie, length = _HEADER.unpack_from(data, offset)
        offset += _HEADER.size
        name = os.fsdecode(data[offset : offset + length].split(b"\0", 1)[0])
        offset += length
        for bit, kind in _KINDS.items():
            if mask & bit:
                yield Change(kind, name, bool(mask & syscalls.IN_ISDIR), cookie)
