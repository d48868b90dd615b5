"""Folders that disks are read from: of this host, and of a volume.

A descriptor names files. On this host they are opened beneath the folder by the kernel, links included; on a volume a
name stays a name of that volume.
"""

from __future__ import annotations

import errno
import os
import posixpath
from collections.abc import Sequence
from pathlib import Path

from triune.disks.content import Content
from triune.disks.source import FileSource
from triune.disks.stream import SourceContent
from triune.disks.vmdk_disk import Folder
from triune.domain.errors import Conflict, Denied, Failed, NotFound
from triune.domain.rescue import FileKind, Found
from triune.host.beneath import Root
from triune.services.rescue.links import resolved
from triune.services.rescue.volume import Volume

_VOLUMES = "/vmfs/volumes/"
_MOST_OPEN = 4096


class HostFolder:
    """A folder of this host, read-only. Use as a context manager: what it opened is closed with it."""

    def __init__(self, path: Path) -> None:
        try:
            self._root = Root(path)
        except FileNotFoundError:
            raise NotFound("no_folder", f"there is no folder {path}", hint="Check the path.") from None
        except OSError as error:
            raise Failed("folder_refused", f"{path}: {error.strerror}", hint="Run as a user who may read it.") from None
        self.path = path
        self._open: dict[str, FileSource] = {}

    def __enter__(self) -> HostFolder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close it and all that was opened in it."""
        for source in self._open.values():
            source.close()
        self._open.clear()
        self._root.close()

    @property
    def name(self) -> str:
        """Its path."""
        return str(self.path)

    def names(self) -> Sequence[str]:
        """Of what is in it, sorted."""
        return self._root.names(".")

    def open(self, path: str) -> Content:
        """A file in it or below. Raises NotFound, and Denied for a link that leads out or what isn't a file."""
        if path not in self._open:
            if len(self._open) >= _MOST_OPEN:
                raise Failed(
                    "too_many_files", f"{self.name} has too many files open", hint="Look at one disk at a time."
                )
            self._open[path] = self._opened(path)
        return SourceContent(self._open[path])

    def _opened(self, path: str) -> FileSource:
        try:
            fd = self._root.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR):
                raise NotFound("no_source", f"there is no {path!r} in {self.name}", hint="See: ls") from None
            refused = error.errno in (errno.EACCES, errno.EPERM)
            hint = "Run as a user who may read it." if refused else "Only files of the folder are read."
            raise Denied("source_refused", f"{path!r} in {self.name}: {error.strerror}", hint=hint) from None
        return FileSource(self.path / path, fd)

    def beside(self, hint: str) -> tuple[Folder, str] | None:
        """Nothing of this host but the folder itself is trusted to a descriptor."""
        return None


class VolumeFolder:
    """A folder of a rescued volume."""

    def __init__(self, volume: Volume, path: str = "") -> None:
        self.volume, self.path = volume, path.strip("/")

    @property
    def name(self) -> str:
        """Its path on the volume."""
        return self.path or "/"

    def names(self) -> Sequence[str]:
        """Of what is in it, sorted."""
        within = f"{self.path}/" if self.path else ""
        return sorted(
            found.path.removeprefix(within)
            for found in self.volume.walk()
            if found.path.startswith(within) and "/" not in found.path.removeprefix(within)
        )

    def find(self, path: str) -> Found:
        """A file in it or below. Raises NotFound."""
        return self.volume.find(f"{self.path}/{path}" if self.path else path)

    def open(self, path: str) -> Content:
        """A file in it or below. Raises NotFound, and Conflict for a folder or a link."""
        found = self.find(path)
        if found.kind in (FileKind.FOLDER, FileKind.LINK):
            raise Conflict("not_a_file", f"{found.path!r} is a {found.kind}", hint="Name a file.")
        return self.volume.open(found)

    def beside(self, hint: str) -> tuple[Folder, str] | None:
        """A parent's path on the same volume: `../base/base.vmdk`, `/vmfs/volumes/UUID-OR-LABEL/base/base.vmdk`."""
        if hint.startswith(_VOLUMES):
            owner, _, inside = hint.removeprefix(_VOLUMES).partition("/")
            if owner not in (self.volume.label, self.volume.uuid) or not inside:
                return None
            path = posixpath.normpath(inside)
        elif hint.startswith("/") or "\\" in hint:
            return None
        else:
            path = posixpath.normpath(posixpath.join(self.path, hint))
        if path.startswith("..") or path in ("", "."):
            return None
        folder, _, last = path.rpartition("/")
        return VolumeFolder(self.volume, folder), last


def on_host(file: Path) -> tuple[HostFolder, str]:
    """The folder of a file of this host, and its name there; a link is followed first, for the user named it."""
    real = resolved(file)
    if not real.exists():
        raise NotFound("no_source", f"there is no {file}", hint="Check the path: files of this host are meant.")
    return HostFolder(real.parent), real.name


def on_volume(volume: Volume, path: str) -> tuple[VolumeFolder, str]:
    """The folder of a file of a volume, and its name there."""
    folder, _, last = path.strip("/").rpartition("/")
    return VolumeFolder(volume, folder), last
