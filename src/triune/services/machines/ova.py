"""An OVA: a tar archive of an OVF, its disks and their sums, read where it lies.

Nothing is unpacked: a member is a range of the file. Members have plain names, or they are not looked at.
"""

from __future__ import annotations

import hashlib
import re
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from triune.disks.content import Content, read
from triune.disks.source import FileSource, Window
from triune.disks.stream import SourceContent
from triune.disks.vmdk_disk import Folder, leads_inside
from triune.domain.errors import Failed, Invalid, NotFound

_MOST_MEMBERS = 4096
_LARGEST_MANIFEST = 1 << 20
_CHUNK = 4 << 20
_LINE = re.compile(r"^(SHA1|SHA256|SHA512)\s*\(([^()\r\n]{1,255})\)\s*=\s*([0-9a-fA-F]{40,128})\s*$", re.MULTILINE)
_RIGHT = "Is it the right file? An OVA is a tar archive; it may be cut off: fetch or export it again."


class Archive:
    """An open OVA as a folder of its members. Raises NotFound, Invalid("bad_ova")."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._source = FileSource(path)
        try:
            self._members = dict(_members(path, self._source.size))
            self.description = next((name for name in self._members if name.lower().endswith(".ovf")), "")
            if not self.description:
                raise Invalid("bad_ova", f"{path} holds no OVF", hint="Is it the right file?")
            verify(self, self.description)
        except BaseException:
            self._source.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._source.close()

    @property
    def name(self) -> str:
        """Its path."""
        return str(self.path)

    def names(self) -> Sequence[str]:
        """Of its members."""
        return sorted(self._members)

    def open(self, path: str) -> Content:
        """A member. Raises NotFound."""
        if path not in self._members:
            raise NotFound("no_source", f"there is no {path!r} in {self.name}", hint="See: tar -tf")
        offset, size = self._members[path]
        return SourceContent(Window(self._source, offset, size, f"{self.name}:{path}"))

    def place(self, name: str) -> tuple[int, int]:
        """Where a member lies in the archive: (offset, length)."""
        return self._members[name]

    def beside(self, hint: str) -> tuple[Folder, str] | None:
        """There is nothing beside an archive."""
        del hint
        return None


def _members(path: Path, size: int) -> Iterator[tuple[str, tuple[int, int]]]:
    try:
        with tarfile.open(path, "r:") as archive:
            for count, member in enumerate(archive):
                if count >= _MOST_MEMBERS:
                    raise Invalid("bad_ova", f"{path} has too many members", hint="Is it the right file?")
                name = member.name.removeprefix("./")
                if not member.isreg() or member.issparse() or not leads_inside(name):
                    continue
                if member.offset_data + member.size > size:
                    raise Invalid("bad_ova", f"{path} is cut off within {name}", hint="Fetch or export it again.")
                yield name, (member.offset_data, member.size)
    except (tarfile.TarError, EOFError, UnicodeError) as error:
        raise Invalid("bad_ova", f"{path} is no OVA: {error}", hint=_RIGHT) from None


def verify(folder: Folder, description: str) -> None:
    """Compare all files with the sums in the manifest beside the OVF, where there is one. Raises Failed, Invalid."""
    manifest = f"{description.rpartition('.')[0]}.mf"
    if manifest not in folder.names():
        return
    content = folder.open(manifest)
    if content.size > _LARGEST_MANIFEST:
        raise Invalid("bad_manifest", f"{manifest} is too large", hint="Is it the right file?")
    text = read(content, 0, content.size).decode("utf-8", errors="replace").replace("\r", "")
    for algorithm, name, wanted in _LINE.findall(text):
        if not leads_inside(name):
            raise Invalid("bad_manifest", f"{manifest} names {name!r}, which leads out", hint="Export it again.")
        found = _sum(folder.open(name), algorithm.lower())
        if found != wanted.lower():
            raise Failed(
                "checksum_mismatch",
                f"{name} has the {algorithm} sum {found[:16]}…, and {manifest} says {wanted[:16]}…",
                hint="Fetch or export it again.",
            )


def _sum(content: Content, algorithm: str) -> str:
    total = hashlib.new(algorithm, usedforsecurity=False)
    for offset in range(0, content.size, _CHUNK):
        total.update(read(content, offset, _CHUNK))
    return total.hexdigest()
