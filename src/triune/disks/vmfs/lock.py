"""The lock that every FD and every cluster header begins with. It names its own place on the volume."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from struct import Struct

from triune.disks.vmfs.damaged import Damaged, unpack, uuid
from triune.disks.vmfs.geometry import MOST_BYTES

SIZE = 0x44
_LAYOUT = Struct("<IQQQQI16sQ")


class LockType(IntEnum):
    """What kind of object follows."""

    DESCRIPTOR = 0x10C00001
    FILE_BLOCKS = 0x10C00002
    SUB_BLOCKS = 0x10C00003
    POINTER_BLOCKS = 0x10C00004
    DESCRIPTORS = 0x10C00005
    POINTER_BLOCKS2 = 0x10C00006
    JOURNAL = 0x10C00007
    LARGE_BLOCKS = 0x10C00008
    UNMAP = 0x10C00009


_TYPES = frozenset(LockType)


@dataclass(frozen=True, slots=True)
class Lock:
    """`place` is its own offset on the volume. `token` grows at each change. `modified` as stored."""

    type: LockType
    place: int
    heartbeat: int
    heartbeat_generation: int
    token: int
    mode: int
    owner: str
    modified: int


def parse(data: bytes | memoryview, offset: int = 0) -> Lock:
    """Raises Damaged where there is no lock."""
    kind, place, heartbeat, generation, token, mode, owner, modified = unpack(_LAYOUT, data, offset, "a lock")
    if kind not in _TYPES:
        raise Damaged(f"a lock has the mark {kind:#x}")
    if place % 512 or place >= MOST_BYTES:
        raise Damaged(f"a lock claims the impossible place {place}")
    return Lock(LockType(kind), place, heartbeat, generation, token, mode, uuid(owner), modified)
