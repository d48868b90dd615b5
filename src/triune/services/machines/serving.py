"""Disks of an origin, served by NBD for as long as an import takes."""

from __future__ import annotations

import contextlib
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

from triune.disks.content import Content, Run
from triune.host.nbd_server import NbdServer
from triune.services.machines.transfer import Export

_BLOCK = 4096


class Served:
    """A content as a disk for the NBD server. `zeros`: what is missing reads as zeros; else it can't be read.

    The content is asked by one thread at a time: its caches are not made for more.
    """

    def __init__(self, content: Content, *, zeros: bool = False) -> None:
        self._content = content
        self._zeros = zeros
        self._lock = threading.Lock()

    @property
    def size(self) -> int:
        """In bytes."""
        return self._content.size

    def read(self, offset: int, length: int) -> bytes:
        """Exactly these bytes. Raises OSError for those that are missing."""
        parts = []
        with self._lock:
            for run in self._content.runs(offset, offset + length):
                parts.append(self._part(run))
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _part(self, run: Run) -> bytes:
        if run.missing and not self._zeros:
            raise OSError(f"{run.length} bytes at {run.offset} are missing: {run.why}")
        if run.source is None:
            return bytes(run.length)
        data = run.source.read(run.at, run.length)
        if len(data) < run.length:
            if not self._zeros:
                raise OSError(f"{run.source.name} ends at {run.at + len(data)}")
            data += bytes(run.length - len(data))
        return data

    def extents(self, start: int, end: int) -> Iterator[tuple[int, bool]]:
        """(length, whether it is zeros). Only whole blocks count as zeros: QEMU asks for nothing smaller."""
        done, end = start, min(end, self.size)
        with self._lock:
            for run in self._content.runs(start, end):
                if run.source is not None or (run.missing and not self._zeros):
                    continue
                stop = run.offset + run.length
                first = run.offset if run.offset == start else -(-run.offset // _BLOCK) * _BLOCK
                last = stop if stop == end else stop // _BLOCK * _BLOCK
                if first >= last:
                    continue
                if first > done:
                    yield first - done, False
                yield last - first, True
                done = last
        if done < end:
            yield end - done, False


@contextlib.contextmanager
def serve(disks: Mapping[str, Content], *, zeros: bool = False) -> Iterator[dict[str, Export]]:
    """Serve them, by their slots, in a folder that nobody else can enter."""
    with tempfile.TemporaryDirectory(prefix="triune-import-") as folder, contextlib.ExitStack() as servers:
        exports = {}
        for number, (slot, content) in enumerate(disks.items()):
            path = Path(folder) / f"{number}.sock"
            server = NbdServer(Served(content, zeros=zeros), path, f"disk{number}")
            servers.enter_context(server)
            exports[slot] = Export(socket=path, name=server.export)
        yield exports
