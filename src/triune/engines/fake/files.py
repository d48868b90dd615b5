"""Files of simulated instances: a folder of the host for each, made when it is first used and gone with the engine."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from triune.domain.files import FileKind, FileStat, inside_path, path_not_found, split
from triune.domain.operation import Silent
from triune.host import treetar, untar
from triune.host.beneath import Root

if TYPE_CHECKING:
    from triune.engines.fake.engine import FakeEngine


class FakeFiles:
    """The `files` facet."""

    def __init__(self, engine: FakeEngine) -> None:
        self._engine = engine
        self._home: tempfile.TemporaryDirectory[str] | None = None

    def stat(self, name: str, path: str) -> FileStat:
        """What is at `path`."""
        with self._root(name) as root:
            try:
                info = root.stat(inside_path(path), follow=False)
            except OSError:
                raise path_not_found(name, path) from None
        kinds = {stat.S_IFREG: FileKind.FILE, stat.S_IFDIR: FileKind.FOLDER, stat.S_IFLNK: FileKind.LINK}
        kind = kinds.get(stat.S_IFMT(info.st_mode), FileKind.OTHER)
        return FileStat(
            kind=kind,
            size=info.st_size,
            mode=stat.S_IMODE(info.st_mode),
            mtime=int(info.st_mtime),
            target="" if kind is FileKind.LINK else None,
            folder=kind is FileKind.FOLDER,
        )

    def read(self, name: str, path: str) -> Iterator[bytes]:
        """A tar stream of what is there."""
        self.stat(name, path)
        folder, entry = split(path)
        with self._root(name) as root:
            parent = root.open(folder, os.O_PATH | os.O_DIRECTORY)
            try:
                yield from treetar.stream(parent, entry, "" if entry == "." else entry)
            finally:
                os.close(parent)

    def write(self, name: str, path: str, tar: Iterator[bytes]) -> None:
        """Unpack into the folder there."""
        if not self.stat(name, path).folder:
            raise path_not_found(name, path)
        with self._root(name) as root:
            top = root.open(path, os.O_RDONLY | os.O_DIRECTORY)
            try:
                untar.unpack(untar.Pieces(tar), top, untar.Policy(), Silent())
            finally:
                os.close(top)

    def _root(self, name: str) -> Root:
        with self._engine.reading():
            self._engine.find(name)
            self._home = self._home or tempfile.TemporaryDirectory(prefix="triune-fake-")
        folder = Path(self._home.name) / name
        (folder / "etc").mkdir(parents=True, exist_ok=True)
        (folder / "etc/hostname").write_text(f"{name}\n")
        return Root(folder)
