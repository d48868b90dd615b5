"""The `files` facet: Docker's own archives of a container's paths, running or stopped."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from triune.domain.files import FileKind, FileStat, inside_path, path_not_found, split
from triune.engines.docker.client import DockerClient
from triune.engines.docker.containers import describe, timestamp

_CHUNK = 1 << 18
# Go's io/fs.FileMode.
_DIR, _LINK = 1 << 31, 1 << 27
_NOT_REGULAR = _DIR | _LINK | 1 << 26 | 1 << 25 | 1 << 24 | 1 << 21 | 1 << 19
_SPECIAL = {1 << 23: 0o4000, 1 << 22: 0o2000, 1 << 20: 0o1000}


class DockerFiles:
    """Implements engines.base.Files."""

    def __init__(self, client: DockerClient) -> None:
        self._client = client

    def stat(self, name: str, path: str) -> FileStat:
        """What is at `path`."""
        pieces, found = self._archive(name, inside_path(path))
        pieces.close()
        mode = int(found["mode"])
        kind = FileKind.FOLDER if mode & _DIR else FileKind.LINK if mode & _LINK else FileKind.FILE
        if kind is FileKind.FILE and mode & _NOT_REGULAR:
            kind = FileKind.OTHER
        when = timestamp(str(found["mtime"])) or datetime.fromtimestamp(0).astimezone()
        return FileStat(
            kind=kind,
            size=int(found["size"]),
            mode=mode & 0o777 | sum(bits for flag, bits in _SPECIAL.items() if mode & flag),
            mtime=int(when.timestamp()),
            target=str(found["linkTarget"]) if kind is FileKind.LINK else None,
            folder=kind is FileKind.FOLDER or (kind is FileKind.LINK and self._leads_to_folder(name, path)),
        )

    def _leads_to_folder(self, name: str, path: str) -> bool:
        pieces, found = self._archive(name, f"{path}/.", or_none=True)
        pieces.close()
        return bool(int(found.get("mode", 0)) & _DIR)

    def read(self, name: str, path: str) -> Iterator[bytes]:
        """A tar stream of what is there."""
        folder, entry = split(inside_path(path))
        pieces, _ = self._archive(name, f"{folder.rstrip('/')}/{entry}")
        try:
            yield from pieces
        finally:
            pieces.close()

    def write(self, name: str, path: str, tar: Iterator[bytes]) -> None:
        """Unpack into the folder there. Docker writes holes as zeros."""
        container = str(describe(self._client, name)["Id"])
        where = inside_path(path)
        self._client.act(lambda api: api.put_archive(container, where, tar), missing=path_not_found(name, path))

    def _archive(self, name: str, path: str, *, or_none: bool = False) -> tuple[Any, dict[str, Any]]:
        container = str(describe(self._client, name)["Id"])
        missing = path_not_found(name, path)
        try:
            found: tuple[Any, dict[str, Any]] = self._client.act(
                lambda api: api.get_archive(container, path, chunk_size=_CHUNK), missing=missing
            )
            return found
        except type(missing):
            if or_none:
                return iter_nothing(), {}
            raise


def iter_nothing() -> Iterator[bytes]:
    """A generator that ends at once."""
    yield from ()
