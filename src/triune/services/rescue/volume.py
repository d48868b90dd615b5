"""What browsing, extracting and importing need of a volume, however it was found."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from triune.disks.content import Content
from triune.domain.rescue import Found


class Volume(Protocol):
    """A file system on one or several sources, healthy or put together again.

    `version` is "VMFS5", "VMFS6", "VMFS-L 6", …; `label` and `uuid` are empty where nothing tells.
    """

    @property
    def label(self) -> str: ...
    @property
    def uuid(self) -> str: ...
    @property
    def version(self) -> str: ...

    def walk(self, *, deleted: bool = False, system: bool = False) -> Iterator[Found]:
        """Everything below the root, folders before what is in them, in order of paths; deleted files and the volume's
        own ones (`.fbb.sf` …) when asked."""

    def find(self, path: str) -> Found:
        """One file by its path. Raises NotFound("no_such_file") with the nearest names as hint."""

    def open(self, found: Found) -> Content:
        """A file's content. Raises Conflict for a folder."""

    def damages(self) -> Sequence[str]:
        """What is wrong with the volume itself, a sentence each."""
