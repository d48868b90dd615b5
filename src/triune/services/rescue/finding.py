"""The volumes on what the user names: read as they are where they are healthy, put together again where not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from triune.disks.content import read
from triune.disks.source import Source
from triune.disks.vmfs.address import Kind
from triune.disks.vmfs.resource import parse_cluster
from triune.disks.vmfs.volume import VmfsVolume
from triune.domain.errors import NotFound, TriuneError
from triune.domain.rescue import Status
from triune.services.rescue import schemes
from triune.services.rescue.esxi.access import Access
from triune.services.rescue.opening import open_volumes
from triune.services.rescue.sources import open_sources
from triune.services.rescue.volume import Volume

if TYPE_CHECKING:
    from triune.services.rescue.scan import Told

_TOO_MANY = 1 << 62
_EXTENTS = (
    "Name all its extents, as disks or images of disks. A machine's own files (.vmx, .ova, …) go to: triune import"
)


def volumes(
    names: Sequence[str],
    session: Path | None = None,
    told: Told | None = None,
    *,
    deleted: bool = False,
    access: Access | None = None,
) -> list[Volume]:
    """The volumes on all sources together, as the user named them. Raises NotFound("no_volume").

    They are scanned for where one is damaged, a session is named or `deleted` files are wanted; `told` hears how far
    that is. `access` is how hosts are entered; what a host itself shows as a volume is taken as it is.
    """
    shown, rest = schemes.open_stores(names, access)
    if not rest:
        return shown
    sources = open_sources(rest, access)
    found = read_volumes(sources, session, told, deleted=deleted)
    if not found:
        raise NotFound("no_volume", f"there is no VMFS volume on {', '.join(names)}", hint=_EXTENTS)
    return shown + found


def read_volumes(
    sources: Sequence[Source], session: Path | None = None, told: Told | None = None, *, deleted: bool = False
) -> list[Volume]:
    """The volumes on these sources: as they are where nothing at all is wrong, as a scan finds them where not."""
    found = _healthy(sources) if session is None and not deleted else []
    if found:
        return found
    from triune.services.rescue.scanning import scan_volumes  # healthy volumes need none of it

    return scan_volumes(sources, session, told)


def _healthy(sources: Sequence[Source]) -> list[Volume]:
    """The volumes, if nothing at all is wrong with any of them."""
    try:
        found = open_volumes(sources)
        return list(found) if all(map(_is_healthy, found)) else []
    except TriuneError:
        return []


def _is_healthy(volume: VmfsVolume) -> bool:
    """Whether everything below the root can be read, and no file that its bitmaps know of is without a name."""
    reached = sum(1 for found in volume.walk(system=True) if found.status == Status.INTACT)
    return not volume.damages() and reached >= _used(volume)


def _used(volume: VmfsVolume) -> int:
    """How many FDs the bitmaps call used, but for that of the root; too many where they can't be read."""
    file = volume.resources.files.get(Kind.DESCRIPTOR)
    if file is None:
        return _TOO_MANY
    used = 0
    for number in range(-(-file.header.count // max(1, file.header.per_cluster))):
        try:
            data = read(file.content, file.header.header_offset(number), volume.geometry.header_size)
            used += len(parse_cluster(data, volume.geometry).used)
        except TriuneError:
            return _TOO_MANY
    return used - 1
