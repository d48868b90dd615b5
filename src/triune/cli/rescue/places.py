"""A file that a command of `triune rescue` is about: on this host, or on a volume of sources."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from triune.cli.rescue.sources import opened, with_path

if TYPE_CHECKING:
    from triune.disks.vmdk_disk import Folder
    from triune.domain.rescue import Found
    from triune.services.rescue.guest_disks import GuestDisk
    from triune.services.rescue.volume import Volume


@dataclass(frozen=True, slots=True)
class Place:
    """A file by its folder and name. `host` is its path on this host, None where it is on a volume; there, `found` is
    what the volume says of it."""

    folder: Folder
    name: str
    host: Path | None = None
    volume: Volume | None = None
    found: Found | None = None

    def disk(self) -> AbstractContextManager[GuestDisk]:
        """The disk that it is or describes."""
        from triune.services.rescue.guest_disks import disk_on_host, disk_on_volume

        if self.host is not None or self.volume is None or self.found is None:
            return disk_on_host(self.host or Path(self.name))
        return disk_on_volume(self.volume, self.found.path)


@contextmanager
def placed(arguments: Sequence[str], session: Path | None = None, only: str | None = None) -> Iterator[Place]:
    """One argument is a file of this host, or of a datastore by its address; with several, or a session, the last is a
    path on the sources before it."""
    from triune.services.rescue.folders import on_host, on_volume
    from triune.services.rescue.schemes import scheme
    from triune.services.rescue.selecting import file

    alone = len(arguments) == 1 and not scheme(arguments[0])
    if alone and session is None:
        path = Path(arguments[0])
        folder, name = on_host(path)
        with folder:
            yield Place(folder, name, host=path)
        return
    sources, inside = ([], arguments[0]) if alone else with_path(arguments)
    with opened(sources, session, only) as volumes:
        one = file(inside, volumes)
        where, name = on_volume(one.named.volume, one.found.path)
        yield Place(where, name, volume=one.named.volume, found=one.found)
