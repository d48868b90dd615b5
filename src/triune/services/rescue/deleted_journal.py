"""FDs as they were before a deletion: journals still hold the after-images of what changed last."""

from __future__ import annotations

import re
from collections.abc import Iterator

from triune.disks.vmfs.descriptor import Descriptor, FileType
from triune.disks.vmfs.geometry import Geometry
from triune.services.rescue.generations import Generation, parsed
from triune.services.rescue.rebuild_names import journals

_META_WIDE = 0x64
_SIGNATURE = b"dmdf"
_NARROW = re.compile(rb"(?=[\x04\x44\x84\xc4].{7}\x01\0\0\0\x03\0\0\0)", re.DOTALL)  # one link, a file
_MOST_IMAGES = 1 << 16


def images(generation: Generation, geometry: Geometry) -> Iterator[Descriptor]:
    """The FDs in the journals whose files have links and bytes, with the lock that their place has now."""
    count = 0
    for journal in journals(generation):
        for meta in _metas(journal, generation.wide):
            address = int.from_bytes(journal[meta : meta + 4], "little")
            node = generation.nodes.get(address)
            count += 1
            if node is None or count > _MOST_IMAGES:
                continue
            lock = generation.read(node.place, geometry.unit)
            image = journal[meta : meta + geometry.descriptor_size - geometry.unit]
            found = parsed(lock + image, geometry)
            if found is not None and found.links and found.length and found.type == FileType.FILE:
                yield found


def _metas(journal: bytes, wide: bool) -> Iterator[int]:
    """Where a metadata block of an FD may begin."""
    if wide:
        at = journal.find(_SIGNATURE)
        while at >= 0:
            if at >= _META_WIDE:
                yield at - _META_WIDE
            at = journal.find(_SIGNATURE, at + 1)
        return
    yield from (match.start() for match in _NARROW.finditer(journal))
