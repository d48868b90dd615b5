"""Structures that tell by themselves what they are, found by the first words of sectors.

Where the structures are told: VMFS_FORMAT (locks, heartbeats and resource headers carry a magic and mostly their own
place), the VMDK and VMX text files by their first letters, guest disks by their partition tables. All numbers are
little-endian; sectors have 512 bytes. A mark is a hint: whoever uses it reads the structure and checks it.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from mmap import mmap

from triune.services.rescue.session import Mark

SECTOR = 512
_WORD, _OWN = struct.Struct("<I"), struct.Struct("<Q")
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
_RESOURCE_HEAD, _RFMD = b"\0\0\1\0", b"dmfr"
_ALIGNED = 4096
_BOOT_ALIGNED = 64 << 10


_MONTHS = (b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec")
_WORDS = frozenset(
    {*LOCKS, *_HEADS, _DIR5_HEAD, *_DIRENTS_HEADS}
    | {int.from_bytes(text[:4], "little") for text, _ in _TEXTS}
    | {int.from_bytes(b"20%d%d" % (tens, ones), "little") for tens in range(4) for ones in range(10)}
    | {int.from_bytes(month + b" ", "little") for month in _MONTHS}
)


def _tables() -> tuple[bytes, bytes]:
    """Bits for the first and for the third byte of a sector, which share one where it may begin with a word.

    Of these two bytes: no sector of zeros passes, and one in 350 of random bytes.
    """
    first, third = bytearray(256), bytearray(256)
    for word in _WORDS:
        bit = 1 << (word >> 16 & 7)
        first[word & 0xFF] |= bit
        third[word >> 16 & 0xFF] |= bit
    return bytes(first), bytes(third)


_FIRST, _THIRD = _tables()
_ANY = b"\0" + b"\1" * 255


def find(chunk: bytes | mmap, offset: int, length: int) -> Iterator[Mark]:
    """Those in the first `length` bytes of a chunk that lies at `offset` of its source, a multiple of 4096.

    Not with numpy: large integers compare as quickly, and its import takes as long as half a GiB takes to be read.
    """
    end = length // SECTOR * SECTOR
    for at in _promising(chunk, end):
        (head,) = _WORD.unpack_from(chunk, at)
        mark = _of_head(chunk, at, head) if head in _WORDS else None
        if mark is not None:
            kind, own = mark
            yield Mark(offset + at, kind, own)
    yield from _aligned(chunk, offset, end)


def _promising(chunk: bytes | mmap, end: int) -> Iterator[int]:
    """The few sectors that may begin with one of the words: two bytes of each rule out nearly all others."""
    first = int.from_bytes(chunk[0:end:SECTOR].translate(_FIRST), "little")
    third = int.from_bytes(chunk[2:end:SECTOR].translate(_THIRD), "little")
    if both := first & third:
        yield from _each(both.to_bytes(end // SECTOR, "little").translate(_ANY), 1, SECTOR)


def _aligned(chunk: bytes | mmap, offset: int, end: int) -> Iterator[Mark]:
    """What has its magic elsewhere than in front, and lies on whole blocks."""
    for at in _each(chunk[10:end:_ALIGNED], 1, _ALIGNED):
        if chunk[at + 8 : at + 12] != _RESOURCE_HEAD:
            continue
        if chunk[at + 32 : at + 36] == _RFMD:
            yield Mark(offset + at, "resource6")
        elif _is_resource5(chunk, at):
            yield Mark(offset + at, "resource5")
    for at in _each(chunk[510:end:_BOOT_ALIGNED], 0x55, _BOOT_ALIGNED):
        if chunk[at + 511] == 0xAA:
            yield Mark(offset + at, "boot")


def _each(data: bytes, value: int, step: int) -> Iterator[int]:
    """Where a value is, in steps of so many bytes."""
    at = data.find(value)
    while at >= 0:
        yield at * step
        at = data.find(value, at + 1)


def _of_head(chunk: bytes | mmap, at: int, head: int) -> tuple[str, int] | None:
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
    text = chunk[at : at + 64]
    for start, name in _TEXTS:
        if text.startswith(start):
            return name, 0
    return ("text-log", 0) if _LOG.match(text) else None


def _is_resource5(chunk: bytes | mmap, at: int) -> bool:
    per_cluster, per_group, _, size, group, count, groups = _RESOURCE.unpack_from(chunk, at)
    return (
        0 < per_cluster <= 4096
        and 0 < per_group <= 4096
        and size in (0, 2048, *(1 << shift for shift in range(9, 24)))
        and group >= per_group * 1024
        and count > 0
        and 0 < groups < 1 << 24
    )
