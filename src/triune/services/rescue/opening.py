"""From what the user names to volumes."""

from __future__ import annotations

from collections.abc import Sequence

from triune.disks.source import Source
from triune.disks.vmfs import assembly
from triune.disks.vmfs.damaged import Damaged
from triune.disks.vmfs.space import Space
from triune.disks.vmfs.volume import VmfsVolume


def open_volumes(sources: Sequence[Source]) -> list[VmfsVolume]:
    """The healthy volumes on all sources together, spanned ones joined whatever the order.

    Raises Damaged where a source holds none.
    """
    members: list[assembly.Member] = []
    volumes: list[VmfsVolume] = []
    for source in sources:
        try:
            members += assembly.members(source)
        except Damaged:
            volumes.append(VmfsVolume(Space.plain(source)))
    for joined in assembly.logical_volumes(members):
        volumes.append(VmfsVolume(joined.space(), damages=joined.damages))
    return volumes
