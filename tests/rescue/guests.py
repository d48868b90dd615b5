"""What is on the disks of the fixtures: a partition table as guests have it, and data all over."""

from __future__ import annotations

from binascii import crc32
from random import Random
from struct import pack

from tests.rescue.writer import Content

SECTOR = 512
MIB = 1 << 20
_LINUX = bytes.fromhex("af3dc60f838472478e793d69d8477de4")


def gpt_disk(size: int, used: int, seed: int) -> Content:
    """A disk of `size` bytes with a GPT at its head, its copy at the end, and data in `used` blocks of 1 MiB."""
    random = Random(seed)
    last = size // SECTOR - 1
    entry = (
        _LINUX + random.randbytes(16) + pack("<QQQ", 2048, last - 2048, 0) + "data".encode("utf-16-le").ljust(72, b"\0")
    )
    entries = entry.ljust(128 * 128, b"\0")
    guid = random.randbytes(16)
    head = _header(1, last, guid, 2, entries)
    copy = _header(last, 1, guid, last - 32, entries)
    mbr = bytearray(512)
    mbr[446:462] = pack("<BBBBBBBBII", 0, 0, 2, 0, 0xEE, 255, 255, 255, 1, min(last, 0xFFFFFFFF))
    mbr[510:] = b"\x55\xaa"
    pieces = {0: bytes(mbr) + head + entries, (last - 32) * SECTOR: entries + copy}
    blocks = random.sample(range(1, size // MIB - 1), min(used, size // MIB - 2))
    pieces.update({number * MIB: random.randbytes(4096) + b"%d of %d" % (number, seed) for number in blocks})
    return Content(size, pieces)


def _header(here: int, other: int, guid: bytes, entries_at: int, entries: bytes) -> bytes:
    """One of the two headers, with its checksums."""
    last = max(here, other)
    body = pack("<QQQQ", here, other, 34, last - 33) + guid + pack("<QIII", entries_at, 128, 128, crc32(entries))
    front = b"EFI PART" + pack("<II", 0x10000, 92)
    total = crc32(front + bytes(8) + body)
    return (front + pack("<II", total, 0) + body).ljust(SECTOR, b"\0")
