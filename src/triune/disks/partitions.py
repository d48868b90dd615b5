"""Partition tables: GPT with its backup, MBR with its extended partitions.

Source of the formats: UEFI Specification 2.10, chapter 5. Numbers are little-endian. A table is somebody else's: every
count and chain is bounded, and a partition that leads behind the disk's end is told, not followed.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from uuid import UUID

from triune.disks.content import Lost
from triune.disks.source import Source, Unreadable

SECTOR = 512
_GPT = struct.Struct("<8sIIIIQQQQ16sQIII")
_ENTRY = struct.Struct("<16s16sQQQ")
_MBR_ENTRY = struct.Struct("<B3sB3sII")
_MBR_TABLE, _SIGNATURE = 446, b"\x55\xaa"
_EXTENDED = frozenset({0x05, 0x0F, 0x85})
_PROTECTIVE = 0xEE
_MOST_ENTRIES = 4096
_MOST_LOGICAL = 256
_MOST_ENTRY_BYTES = 1 << 20
_BOOT_SECTORS = (b"NTFS", b"MSDOS", b"MSWIN", b"mkfs.fat", b"EXFAT", b"-FVE-FS-", b"FAT")

_TYPES = {
    "c12a7328-f81f-11d2-ba4b-00a0c93ec93b": "EFI system",
    "21686148-6449-6e6f-744e-656564454649": "BIOS boot",
    "e3c9e316-0b5c-4db8-817d-f92df00215ae": "Microsoft reserved",
    "ebd0a0a2-b9e5-4433-87c0-68b6b72699c7": "Microsoft data",
    "de94bba4-06d1-4d40-a16a-bfd50179d6ac": "Windows recovery",
    "5808c8aa-7e8f-42e0-85d2-e1e90434cfb3": "Windows LDM metadata",
    "af9b60a0-1431-4f62-bc68-3311714a69ad": "Windows LDM data",
    "0fc63daf-8483-4772-8e79-3d69d8477de4": "Linux data",
    "4f68bce3-e8cd-4db1-96e7-fbcaf984b709": "Linux root",
    "0657fd6d-a4ab-43c4-84e5-0933c84b4f4f": "Linux swap",
    "e6d6d379-f507-44c2-a23c-238f2a3df928": "Linux LVM",
    "a19d880f-05fc-4d3b-a006-743f0f84911e": "Linux RAID",
    "933ac7e1-2eb4-4f13-b844-0e14e2aef915": "Linux home",
    "516e7cb6-6ecf-11d6-8ff8-00022d09712b": "FreeBSD UFS",
    "516e7cba-6ecf-11d6-8ff8-00022d09712b": "FreeBSD ZFS",
    "aa31e02a-400f-11db-9590-000c2911d1b8": "VMFS",
    "9d275380-40ad-11db-bf97-000c2911d1b8": "VMware core dump",
    "9198effc-31c0-11db-8f78-000c2911d1b8": "VMware reserved",
}
_MBR_TYPES = {
    0x01: "FAT12", 0x04: "FAT16", 0x06: "FAT16", 0x07: "NTFS or exFAT", 0x0B: "FAT32", 0x0C: "FAT32", 0x0E: "FAT16",
    0x27: "Windows recovery", 0x42: "Windows LDM", 0x82: "Linux swap", 0x83: "Linux", 0x8E: "Linux LVM",
    0xA5: "FreeBSD", 0xA6: "OpenBSD", 0xA9: "NetBSD", 0xAF: "HFS", 0xBF: "Solaris", 0xEF: "EFI system", 0xFB: "VMFS",
    0xFC: "VMware core dump", 0xFD: "Linux RAID",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Partition:
    """`number` as Linux counts; `start` and `size` in bytes; `type` for people, `code` as in the table."""

    number: int
    start: int
    size: int
    type: str
    code: str
    name: str = ""


@dataclass(frozen=True, slots=True)
class PartitionTable:
    """`kind` is gpt or mbr, `sector` the size its numbers count in. `problems` are sentences."""

    kind: str
    sector: int
    partitions: tuple[Partition, ...]
    problems: tuple[str, ...] = ()


def read_partitions(source: Source) -> PartitionTable | None:
    """The table of a disk; None where there is none, or nothing of it can be trusted."""
    problems: list[str] = []
    for sector in (SECTOR, 4096):
        if (found := _gpt(source, sector, problems)) is not None:
            return found
    return _mbr(source)


def _read(source: Source, offset: int, length: int) -> bytes:
    """What is there; nothing where it can't be read."""
    if offset < 0 or offset >= source.size:
        return b""
    try:
        return source.read(offset, min(length, source.size - offset))
    except (Lost, Unreadable):
        return b""


@dataclass(frozen=True, slots=True)
class _Header:
    backup: int
    disk: bytes
    entries: bytes
    size: int


def _gpt(source: Source, sector: int, problems: list[str]) -> PartitionTable | None:
    first = _header(source, sector, 1)
    last = source.size // sector - 1
    backup = _header(source, sector, first.backup if first else last)
    header = first or backup
    if header is None:
        return None
    if first is None:
        problems.append("the partition table (GPT) is damaged: its backup was used")
    elif backup is None:
        moved = " (the disk was made larger or smaller?)" if first.backup != last else ""
        problems.append(f"the backup of the partition table (GPT) is damaged or missing{moved}")
    elif (backup.disk, backup.entries) != (first.disk, first.entries):
        problems.append("the partition table (GPT) and its backup differ")
    found = []
    for number in range(len(header.entries) // header.size):
        code, _, begin, end, _ = _ENTRY.unpack_from(header.entries, number * header.size)
        if code == bytes(16) or end < begin:
            continue
        name = header.entries[number * header.size + 56 : number * header.size + 128].decode("utf-16-le", "replace")
        uuid = str(UUID(bytes_le=code))
        known = _TYPES.get(uuid, "unknown")
        size = (end - begin + 1) * sector
        found.append(Partition(number + 1, begin * sector, size, known, uuid, name.split("\0", 1)[0]))
    return _checked(PartitionTable("gpt", sector, tuple(found), tuple(problems)), source.size)


def _header(source: Source, sector: int, place: int) -> _Header | None:
    raw = _read(source, place * sector, sector)
    if len(raw) < _GPT.size or not raw.startswith(b"EFI PART"):
        return None
    _, _, length, crc, _, own, backup, _, _, disk, entries_at, count, size, entries_crc = _GPT.unpack_from(raw)
    if not _GPT.size <= length <= len(raw) or own != place:
        return None
    if zlib.crc32(raw[:16] + bytes(4) + raw[20:length]) != crc:
        return None
    if not 0 < count <= _MOST_ENTRIES or not 128 <= size <= 4096 or count * size > _MOST_ENTRY_BYTES:
        return None
    entries = _read(source, entries_at * sector, count * size)
    if len(entries) < count * size or zlib.crc32(entries) != entries_crc:
        return None
    return _Header(backup, disk, entries, size)


def _mbr(source: Source) -> PartitionTable | None:
    raw = _read(source, 0, SECTOR)
    if len(raw) < SECTOR or raw[510:] != _SIGNATURE or any(mark in raw[3:11].upper() for mark in _BOOT_SECTORS):
        return None
    entries = [_MBR_ENTRY.unpack_from(raw, _MBR_TABLE + 16 * number) for number in range(4)]
    if any(flag not in (0, 0x80) for flag, *_ in entries):
        return None
    found: list[Partition] = []
    problems: list[str] = []
    for number, (_, _, code, _, start, sectors) in enumerate(entries, 1):
        if code == 0 or sectors == 0:
            continue
        if code == _PROTECTIVE:
            problems.append("it was partitioned with a GPT, which is damaged, and so is its backup")
        elif code in _EXTENDED:
            found += _logical(source, start, problems)
        elif start * SECTOR >= source.size and not found:
            return None
        else:
            found.append(_mbr_partition(number, start, sectors, code))
    if not found and not problems:
        return None
    return _checked(PartitionTable("mbr", SECTOR, tuple(found), tuple(problems)), source.size)


def _mbr_partition(number: int, start: int, sectors: int, code: int) -> Partition:
    return Partition(number, start * SECTOR, sectors * SECTOR, _MBR_TYPES.get(code, "unknown"), f"{code:#04x}")


def _logical(source: Source, base: int, problems: list[str]) -> list[Partition]:
    """Logical partitions: each sector tells one, and where the next sector is."""
    found: list[Partition] = []
    seen: set[int] = set()
    place = base
    while place not in seen and len(seen) < _MOST_LOGICAL:
        seen.add(place)
        raw = _read(source, place * SECTOR, SECTOR)
        if len(raw) < SECTOR or raw[510:] != _SIGNATURE:
            problems.append("the chain of logical partitions is broken")
            break
        _, _, code, _, start, sectors = _MBR_ENTRY.unpack_from(raw, _MBR_TABLE)
        _, _, link, _, follows, _ = _MBR_ENTRY.unpack_from(raw, _MBR_TABLE + 16)
        if code and sectors:
            found.append(_mbr_partition(5 + len(found), place + start, sectors, code))
        if link not in _EXTENDED or not follows:
            return found
        place = base + follows
    else:
        problems.append("the chain of logical partitions has no end")
    return found


def _checked(table: PartitionTable, size: int) -> PartitionTable:
    problems = list(table.problems)
    end = 0
    for each in sorted(table.partitions, key=lambda part: part.start):
        if each.start + each.size > size:
            problems.append(f"partition {each.number} ends {each.start + each.size - size} bytes behind the disk's end")
        if each.start < end:
            problems.append(f"partition {each.number} begins within another one")
        end = max(end, each.start + each.size)
    return PartitionTable(table.kind, table.sector, table.partitions, tuple(problems))
