"""An extent on which nothing names its place: no LVM header, no lock, data alone.

Where one volume lacks as many blocks as one source is left over for, they belong together: the volume counts its
blocks, and PEs are 256 MiB.
"""

from __future__ import annotations

from dataclasses import replace

from triune.disks.vmfs.space import Segment, Space
from triune.services.rescue.generations import DATA_OFFSET, Extent, Generation
from triune.services.rescue.rebuild_geometry import geometry_of
from triune.services.rescue.session import Session

_PE = 256 << 20


def adopt(session: Session, found: list[Generation]) -> None:
    """Give the one source that is left over to the one volume that lacks it."""
    taken = {extent.source for generation in found for extent in generation.extents}
    idle = [number for number in range(len(session.sources)) if number not in taken]
    live = [generation for generation in found if not generation.former]
    if len(idle) != 1 or len(live) != 1:
        return
    generation, source = live[0], session.sources[idle[0]]
    blocks = sum(header.total for header in generation.clusters.get("fb", {}).values())
    expected = blocks * geometry_of(generation).file_block
    segments = list(generation.space.segments)
    if not segments:
        return
    last = segments[-1]
    start = (last.offset + last.length) // _PE * _PE
    room = (source.size - DATA_OFFSET) // _PE * _PE
    if room <= 0 or not start < expected <= start + room:
        return
    segments[-1] = replace(last, length=start - last.offset)
    segments.append(Segment(start, expected - start, source, DATA_OFFSET))
    base = DATA_OFFSET - start
    generation.extents.append(Extent(idle[0], base, generation.wide, generation.unit))
    generation.space = Space(f"{generation.space.name}, {source.name}", segments, expected)
