"""Headers of sparse VMDK extents: hosted ones ("KDMV") and those of snapshots on old VMFS ("COWD").

Source of the format: "Virtual Disk Format 5.0" (VMware), and block/vmdk.c of QEMU. Numbers are little-endian, sizes
and places are in sectors of 512 bytes. A grain directory points to grain tables, and those to grains; 0 stands for no
grain, and 1 for zeros where the header says so.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from triune.domain.errors import Invalid

SECTOR = 512
FOOTER = 1024  # from the end: the footer and the end-of-stream marker
MOST_TABLES = 1 << 21  # of 512 grains of 64 KiB: 64 TiB
_KDMV = struct.Struct("<4sIIQQQQIQQQB4sH")
_COWD = struct.Struct("<4sIIIIIII")
_COWD_ENTRIES = 4096
_COWD_HEADER = 4
_REDUNDANT = 1 << 1
_ZERO_GRAINS = 1 << 2
_COMPRESSED = 1 << 16
_MARKERS = 1 << 17
_AT_END = (1 << 64) - 1
_LINE_ENDS = b"\n \r\n"


@dataclass(frozen=True, slots=True)
class Layout:
    """What a header says. `grain`, `entries` (grains of a table) and all places as in the format; `directory` is
    None where only the footer at the file's end tells, `redundant` where there is no second directory."""

    kind: str
    capacity: int
    grain: int
    entries: int
    directory: int | None
    redundant: int | None
    overhead: int
    descriptor: int
    descriptor_length: int
    tables: int
    compressed: bool
    markers: bool
    zero_grains: bool
    unclean: bool
    mangled: bool

    @property
    def needed_tables(self) -> int:
        """How many grain tables the capacity takes."""
        return -(-self.capacity // (self.grain * self.entries))

    def require_sane(self) -> None:
        """Raise Invalid("corrupt_image") where no table could be found by it."""
        if not 0 < self.grain <= 1 << 20 or not 0 < self.entries <= 1 << 16:
            raise corrupt("its grains have an absurd size")
        # Both are powers of two by the format: what isn't was damaged, and every offset would be wrong.
        if self.grain & (self.grain - 1) or self.entries & (self.entries - 1):
            raise corrupt("its grains have an absurd size")
        if self.needed_tables > MOST_TABLES:
            raise corrupt("it has too many grain tables")


def read_layout(head: bytes) -> Layout | None:
    """Read the file's first sector (or the footer's); None where it is no such extent.

    Raises Invalid("corrupt_image") for a version or sizes that can't be. The sizes of grains and tables are not looked
    at: see `require_sane`.
    """
    if head.startswith(b"KDMV"):
        found = _hosted(head)
    elif head.startswith(b"COWD"):
        found = _cowd(head)
    else:
        return None
    if found.capacity > 1 << 54:
        raise corrupt("its capacity is absurd")
    return found


def _hosted(head: bytes) -> Layout:
    if len(head) < _KDMV.size:
        raise corrupt("its header is cut off")
    fields = _KDMV.unpack_from(head)
    _, version, flags, capacity, grain, descriptor, length, entries, redundant, directory, overhead = fields[:11]
    unclean, ends, _ = fields[11:]
    if not 1 <= version <= 3:
        raise corrupt(f"version {version} of its header does not exist")
    if descriptor > 1 << 54:
        raise corrupt("its descriptor is out of reach")
    return Layout(
        kind="sparse",
        capacity=capacity,
        grain=grain,
        entries=entries,
        directory=None if directory == _AT_END else directory,
        redundant=redundant if flags & _REDUNDANT and redundant else None,
        overhead=overhead,
        descriptor=descriptor,
        descriptor_length=length,
        tables=-(-capacity // (grain * entries)) if grain and entries else 0,
        compressed=bool(flags & _COMPRESSED),
        markers=bool(flags & _MARKERS),
        zero_grains=bool(flags & _ZERO_GRAINS),
        unclean=bool(unclean),
        mangled=ends != _LINE_ENDS,
    )


def _cowd(head: bytes) -> Layout:
    if len(head) < _COWD.size:
        raise corrupt("its header is cut off")
    _, _, _, capacity, grain, directory, tables, _ = _COWD.unpack_from(head)
    return Layout(
        kind="cowd",
        capacity=capacity,
        grain=grain,
        entries=_COWD_ENTRIES,
        directory=directory,
        redundant=None,
        overhead=_COWD_HEADER,
        descriptor=0,
        descriptor_length=0,
        tables=tables,
        compressed=False,
        markers=False,
        zero_grains=False,
        unclean=False,
        mangled=False,
    )


def corrupt(why: str) -> Invalid:
    """The error of all readers of VMDKs."""
    return Invalid("corrupt_image", f"the VMDK is damaged: {why}", hint="Fetch or export it again.")
