"""A disk of a guest, wherever it lies: on this host or on a rescued volume."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from triune.disks.detect import Content, detect
from triune.disks.source import Source
from triune.disks.stream import ContentSource, Stream
from triune.disks.vmdk_disk import Disk, Folder, open_disk
from triune.domain.errors import Unsupported
from triune.services.rescue.containers import open_paths
from triune.services.rescue.folders import on_host, on_volume
from triune.services.rescue.volume import Volume


@dataclass(frozen=True, slots=True)
class GuestDisk:
    """`source` are the disk's bytes as the guest saw them, `form` the format it is kept in. `disk` knows more of a
    VMDK, and of a raw one."""

    name: str
    source: Source
    form: str
    disk: Disk | None = None

    def damages(self) -> tuple[str, ...]:
        """What is wrong with the file or its chain, as far as it was read."""
        return self.disk.damages() if self.disk else ()


@contextmanager
def disk_on_host(path: Path) -> Iterator[GuestDisk]:
    """A disk in a file of this host: VMDK with all that belongs to it, qcow2, VHD, VHDX, VDI, or else raw."""
    folder, name = on_host(path)
    with folder:
        stream = cast(BinaryIO, Stream(ContentSource(folder.open(name), name)))
        form = detect(stream).content
        if form in (Content.VMDK, Content.UNKNOWN, Content.ISO, Content.TAR):
            yield _joined(folder, name)
            return
    if form in (Content.GZIP, Content.XZ, Content.ZSTD, Content.BZIP2, Content.ZIP, Content.LUKS):
        raise Unsupported("no_disk", f"{path} is {form}, not a disk", hint="Unpack it first.")
    (source,) = open_paths([path])
    try:
        yield GuestDisk(name, source, str(form))
    finally:
        source.close()


@contextmanager
def disk_on_volume(volume: Volume, path: str) -> Iterator[GuestDisk]:
    """A VMDK, or else a raw disk, on a volume."""
    folder, name = on_volume(volume, path)
    yield _joined(folder, name)


def _joined(folder: Folder, name: str) -> GuestDisk:
    disk = open_disk(folder, name, raw=True)
    return GuestDisk(name, ContentSource(disk, name), disk.kind, disk)
