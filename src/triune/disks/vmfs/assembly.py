"""Logical volumes put together from their devices, in whatever order these come."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from triune.disks.source import Source
from triune.disks.vmfs import lvm
from triune.disks.vmfs.damaged import Damaged
from triune.disks.vmfs.space import Segment, Space
from triune.domain.errors import TriuneError

_PE = 256 << 20


@dataclass(frozen=True, slots=True)
class Member:
    """A device's part in a logical volume. `damages` are sentences."""

    source: Source
    device: lvm.Device
    share: lvm.Share
    extents: tuple[lvm.Extent, ...]
    damages: tuple[str, ...] = ()


@dataclass(slots=True)
class LogicalVolume:
    """What its devices say of one volume. `damages` are sentences: extents that are not there, and the like."""

    uuid: str
    snapshot: int
    members: list[Member] = field(default_factory=list)
    damages: list[str] = field(default_factory=list)

    def space(self) -> Space:
        """Its bytes; what is not on a device at hand is missing."""
        segments = [
            Segment(extent.offset, extent.length, member.source, extent.place)
            for member in self.members
            for extent in member.extents
        ]
        name = " + ".join(member.source.name for member in self.members)
        return Space(name, segments, self.members[0].share.size)


def members(source: Source) -> list[Member]:
    """The volumes that a device takes part in. Raises Damaged where there is no LVM header."""
    device = lvm.parse_device(source.read(lvm.HEADER, lvm.SIZE))
    found = []
    for number in range(device.volumes):
        share = lvm.parse_share(source.read(device.volume_table + number * lvm.SIZE, lvm.SIZE))
        extents, damages = _extents(source, device, share)
        found.append(Member(source, device, share, extents, damages))
    return found


def logical_volumes(parts: Iterable[Member]) -> list[LogicalVolume]:
    """The members grouped to volumes, each with what is wrong with it."""
    found: dict[tuple[str, int], LogicalVolume] = {}
    for member in parts:
        key = (member.share.uuid, member.share.snapshot)
        volume = found.setdefault(key, LogicalVolume(*key))
        if any(other.device.uuid == member.device.uuid for other in volume.members):
            volume.damages.append(f"{member.source.name} is the same extent as another source: it is left out")
        else:
            volume.members.append(member)
    for volume in found.values():
        _examine(volume)
    return list(found.values())


def _extents(source: Source, device: lvm.Device, share: lvm.Share) -> tuple[tuple[lvm.Extent, ...], tuple[str, ...]]:
    """The PEs of one volume; where their table can't be used, what the volume table tells of them."""
    try:
        found = tuple(extent for extent in lvm.extents(device, source.read) if extent.volume == share.number)
        if sum(extent.length for extent in found) == 0:
            raise Damaged("the LVM's table of extents is empty")
    except TriuneError as error:
        why = getattr(error, "why", "") or error.message
        length = min((share.last - share.first + 1) * _PE, max(0, share.size - share.first * _PE))
        whole = lvm.Extent(share.number, device.data_offset, share.first * _PE, length)
        return (whole,), (f"{source.name}: {why}; its volume table is used instead",)
    return found, ()


def _examine(volume: LogicalVolume) -> None:
    volume.members.sort(key=lambda member: member.share.first)
    for member in volume.members:
        volume.damages += member.damages
    there, wanted = len(volume.members), max(member.share.devices for member in volume.members)
    if there < wanted:
        volume.damages.append(f"{there} of the volume's {wanted} extents are here: what lies on the others is missing")
    sizes = {member.share.size for member in volume.members}
    if len(sizes) > 1:
        volume.damages.append("the extents disagree on the volume's size: they are of different times")
