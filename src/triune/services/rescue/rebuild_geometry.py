"""Sizes of a volume whose superblock is lost: what its FDs, cluster headers and heartbeats tell."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

from triune.disks.vmfs.damaged import Damaged
from triune.disks.vmfs.descriptor import Layout
from triune.disks.vmfs.geometry import Geometry
from triune.services.rescue.generations import Generation, Header

_HEARTBEAT_VERSION = slice(0x30, 0x35)
_MOST_HEARTBEATS = 64
_MAJOR_WIDE, _MAJOR5, _MAJOR3 = 24, 14, 4
_FDC_OFFSET = 0x10000


def geometry_of(generation: Generation) -> Geometry:
    """The volume's geometry, from its superblock or by what else is left."""
    if generation.superblock is not None:
        return generation.superblock.geometry
    major, minor = _version(generation)
    geometry = Geometry(
        major=major,
        minor=minor,
        file_block=_file_block(generation),
        sub_block=1 << 16,
        alignment=generation.unit if generation.wide else 512,
        large_shift=9 if generation.wide else 0,
        dense=any(header.total > 16 for header in generation.clusters.get("sb", {}).values()),
    )
    geometry = replace(geometry, sub_block=_sub_block(generation, geometry))
    return replace(geometry, fdc_clusters=_fdc_clusters(generation, geometry))


def _version(generation: Generation) -> tuple[int, int]:
    """From a host's heartbeat; else what is most usual for the structures there are."""
    for count, place in enumerate(generation.places("heartbeat")):
        data = generation.read(place, 512)[_HEARTBEAT_VERSION]
        if count > _MOST_HEARTBEATS:
            break
        major, minor = int.from_bytes(data[:4], "little"), data[4] if len(data) == 5 else 0
        if 0 < major < 64 and (major >= _MAJOR_WIDE) == generation.wide:
            return major, minor
    if generation.wide:
        return _MAJOR_WIDE, 0
    fdc = generation.clusters.get("fdc", {})
    return (_MAJOR3 if any(header.total == 32 for header in fdc.values()) else _MAJOR5), 0


def _common(generation: Generation, layouts: set[Layout]) -> int:
    """The block size that most files of some layouts have; 0 without any."""
    sizes = Counter(
        node.descriptor.block_size for node in generation.nodes.values() if node.descriptor.layout in layouts
    )
    for size, _ in sizes.most_common():
        try:
            Geometry(major=_MAJOR5, file_block=max(size, 1 << 16), sub_block=min(size, 1 << 20))
        except Damaged:
            continue
        return size
    return 0


def _file_block(generation: Generation) -> int:
    """As files have it; else what divides the begins of all resource files."""
    size = _common(generation, {Layout.BLOCKS, Layout.POINTERS, Layout.POINTERS2, Layout.DOUBLE})
    if size or generation.wide:
        return size or 1 << 20
    begins = [headers[0].place - _FDC_OFFSET for headers in generation.clusters.values() if 0 in headers]
    common = math.gcd(*begins, 1 << 23)
    return min(1 << 20, max(1 << 16, common & -common)) if len(begins) > 1 else 1 << 20


def _sub_block(generation: Generation, geometry: Geometry) -> int:
    size = _common(generation, {Layout.SUB_BLOCKS, Layout.RESIDENT})
    if 512 <= size < geometry.file_block:
        return size
    if generation.wide:
        return 1 << 16
    return 1 << 13 if geometry.dense else 1 << 16


def _fdc_clusters(generation: Generation, geometry: Geometry) -> int:
    """From where the first FDs lie behind their clusters' headers."""
    start = geometry.fdc_start + _FDC_OFFSET
    for address, node in generation.nodes.items():
        if address >> 6 & 0xFFFF == 0:
            first = node.place - (address >> 22) * geometry.descriptor_size
            count, rest = divmod(first - start, geometry.header_size)
            if rest == 0 and 0 < count <= 256:
                return count
    headers = generation.clusters.get("fdc", {})
    count = in_row(headers, geometry.header_size, 0)
    return count if count > 1 else (8 if generation.wide else 64)


def in_row(headers: dict[int, Header], step: int, first: int) -> int:
    """How many headers stand one behind the other, from the first one on."""
    count = 0
    while count < 4096 and first + count in headers:
        if headers[first + count].place != headers[first].place + count * step:
            break
        count += 1
    return count
