"""Structures that tell by themselves what they are, found by the first words of sectors.

Where the structures are told: VMFS_FORMAT (locks, heartbeats and resource headers carry a magic and mostly their own
place), the VMDK and VMX text files by their first letters, guest disks by their partition tables. All numbers are
little-endian; sectors have 512 bytes. A mark is a hint: whoever uses it reads the structure and checks it.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING

from triune.services.rescue.session import Mark

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SECTOR = 512
_OWN = struct.Struct("<Q")
_MOST = 1 << 62

LOCKS = {
    0x10C00001: "fd",
    0x10C00002: "fb",
    0x10C00003: "sb",
    0x10C00004: "pb",
    0x10C00005: "fdc",
    0x10C00006: "pb2",
    0x10C00007: "jb",
    0x10C00008: "lfb",
    0x10C00009: "unmap",
    0xABCDEF01: "heartbeat-free",
    0xABCDEF02: "heartbeat",
}
_HEADS = {
    0xC001D00D: "lvm",
    0x2FABF15E: "super",
    0x2FABF15F: "super",
    0x00F50001: "dir6",
    0x00FDC001: "dir6",
    int.from_bytes(b"6JSF", "little"): "journal",
    int.from_bytes(b"TO6J", "little"): "journal-block",
    int.from_bytes(b"KDMV", "little"): "vmdk-sparse",
    int.from_bytes(b"COWD", "little"): "vmdk-cowd",
    0xCAFEBABE: "vmdk-sesparse",
    int.from_bytes(b"EFI ", "little"): "gpt",
    int.from_bytes(b"MRVN", "little"): "nvram",
}
_TEXTS = (
    (b"# Disk DescriptorFile", "text-vmdk"),
    (b"#!/usr/bin/vmware", "text-vmx"),
    (b".encoding", "text-vmx"),
    (b"config.version", "text-vmx"),
    (b"virtualHW.version", "text-vmx"),
    (b"<?xml", "text-xml"),
)
_LOG = re.compile(rb"(?:20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d|[A-Z][a-z]{2} \d\d \d\d:\d\d:\d\d)\S* ?(?:\||vmx|In\()")
_DIR5_HEAD = 2
_DIRENTS_HEADS = frozenset({0x00010000, 0x00010001})  # version, type 1
_DIRENT_SLOTS = frozenset({14, 28, 56, 113, 227})  # of blocks of 4 KiB to 64 KiB
_DIRENTS = struct.Struct("<IHH")
_DIR5_TYPES = struct.Struct("<III2s")
_RESOURCE = struct.Struct("<7I")
_RFMD = int.from_bytes(b"dmfr", "little")
_ALIGNED = 4096
_BOOT_ALIGNED = 64 << 10


def _table() -> tuple[NDArray[np.bool_], frozenset[int]]:
    import numpy as np

    words = {*LOCKS, *_HEADS, _DIR5_HEAD, *_DIRENTS_HEADS, *(int.from_bytes(text[:4], "little") for text, _ in _TEXTS)}
    words |= {int.from_bytes(b"20%d%d" % (tens, ones), "little") for tens in range(4) for ones in range(10)}
    words |= {int.from_bytes(month + b" ", "little") for month in _MONTHS}
    table = np.zeros(1 << 16, np.bool_)
    for word in words:
        table[(word ^ (word >> 16)) & 0xFFFF] = True
    return table, frozenset(words)


_MONTHS = (b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec")


class Marks:
    """Finds them in one chunk after the other."""

    def __init__(self) -> None:
        self._table, self._words = _table()

    def find(self, chunk: memoryview, offset: int) -> Iterator[Mark]:
        """Those of a chunk that begins at `offset` of its source, a multiple of 4096."""
        import numpy as np

        words = np.frombuffer(chunk, "<u4", count=len(chunk) // SECTOR * SECTOR // 4)
        heads = words[::128].copy()
        # One look-up rules out nearly every sector; what is left is compared in full.
        hits = np.flatnonzero(self._table[(heads ^ (heads >> 16)) & 0xFFFF])
        for sector, head in zip(hits.tolist(), heads[hits].tolist(), strict=True):
            mark = _of_head(chunk, sector * SECTOR, head) if head in self._words else None
            if mark is not None:
                kind, own = mark
                yield Mark(offset + sector * SECTOR, kind, own)
        yield from self._aligned(chunk, offset, words)

    def _aligned(self, chunk: memoryview, offset: int, words: NDArray[np.uint32]) -> Iterator[Mark]:
        """What has its magic elsewhere than in front, and lies on whole blocks."""
        import numpy as np

        blocks = words[2 :: _ALIGNED // 4]
        for block in np.flatnonzero(blocks == 0x10000).tolist():
            at = block * _ALIGNED
            if words[at // 4 + 8] == _RFMD:
                yield Mark(offset + at, "resource6")
            elif _is_resource5(chunk, at):
                yield Mark(offset + at, "resource5")
        for block in np.flatnonzero(words[127 :: _BOOT_ALIGNED // 4] >> 16 == 0xAA55).tolist():
            yield Mark(offset + block * _BOOT_ALIGNED, "boot")


def _of_head(chunk: memoryview, at: int, head: int) -> tuple[str, int] | None:
    kind = LOCKS.get(head)
    if kind is not None:
        (own,) = _OWN.unpack_from(chunk, at + 4)
        return (kind, own) if own < _MOST and own % SECTOR == 0 else None
    kind = _HEADS.get(head)
    if kind is not None:
        return kind, 0
    if head == _DIR5_HEAD:
        _, address, _, name = _DIR5_TYPES.unpack_from(chunk, at)
        return ("dir5", address) if address & 7 == 4 and name == b".\0" else None
    if head in _DIRENTS_HEADS:
        _, slots, free = _DIRENTS.unpack_from(chunk, at)
        return ("dirents6", 0) if slots in _DIRENT_SLOTS and free < slots else None
    text = bytes(chunk[at : at + 64])
    for start, name in _TEXTS:
        if text.startswith(start):
            return name, 0
    return ("text-log", 0) if _LOG.match(text) else None


def _is_resource5(chunk: memoryview, at: int) -> bool:
    per_cluster, per_group, _, size, group, count, groups = _RESOURCE.unpack_from(chunk, at)
    return (
        0 < per_cluster <= 4096
        and 0 < per_group <= 4096
        and size in (0, 2048, *(1 << shift for shift in range(9, 24)))
        and group >= per_group * 1024
        and count > 0
        and 0 < groups < 1 << 24
    )
