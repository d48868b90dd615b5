"""The slots in which hosts say that they live: they name the file system's version and the host's journal."""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct

from triune.disks.vmfs.damaged import Damaged, text, unpack, uuid
from triune.disks.vmfs.geometry import MOST_BYTES

SIZE = 0x6C
FREE, USED = 0xABCDEF01, 0xABCDEF02
_LAYOUT = Struct("<IQQQ16sIIBB46sQ")


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """One slot. `place` is its own volume offset; `journal` the volume offset of the host's journal, 0 for none.

    `major` and `minor` are the file system's version, 0 in a slot that was never used. `uptime` in microseconds.
    """

    used: bool
    place: int
    generation: int
    uptime: int
    host: str
    journal_address: int
    major: int
    minor: int
    ip: str
    journal: int


def parse(data: bytes | memoryview, offset: int = 0) -> Heartbeat:
    """Raises Damaged where there is no slot."""
    what = "a heartbeat"
    mark, place, generation, uptime, host, address, major, minor, _, ip, journal = unpack(_LAYOUT, data, offset, what)
    if mark not in (FREE, USED):
        raise Damaged(f"{what} has the mark {mark:#x}")
    if place % 512 or max(place, journal) > MOST_BYTES:
        raise Damaged(f"{what} names an impossible place")
    return Heartbeat(mark == USED, place, generation, uptime, uuid(host), address, major, minor, text(ip), journal)
