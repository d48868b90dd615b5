"""What a guest's file systems tell of the order of a deleted disk's pointer blocks.

File systems keep copies of their own heads at places that follow from the first one: ext2 to ext4 in some of their
groups, with the group's number; XFS at the begin of every allocation group, with its number; Btrfs at fixed places;
NTFS its table of files where the boot sector says, and a copy of that sector at the end. A pointer block that maps
such a copy has its place on the disk by that.

Sources of the formats: Linux `fs/ext4/ext4.h`, `fs/xfs/libxfs/xfs_format.h`, `fs/btrfs/disk-io.h`; NTFS after
linux-ntfs' documentation. Numbers are little-endian, but for XFS, whose are big-endian.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

_EXT = struct.Struct(
    "<I12xII4xI"
)  # block count at 4, first block at 0x14, block size at 0x18, blocks of a group at 0x20
_EXT_MAGIC, _EXT_UUID, _EXT_GROUP = slice(0x38, 0x3A), slice(0x68, 0x78), slice(0x5A, 0x5C)
_XFS = struct.Struct(">II")  # magic, block size
_XFS_UUID, _XFS_AGS = slice(32, 48), struct.Struct(">II")  # blocks of a group at 84, groups at 88
_BTRFS_MAGIC, _BTRFS_PLACES = b"_BHRfS_M", (64 << 10, 64 << 20, 256 << 30)
_NTFS = struct.Struct("<HB")  # bytes of a sector at 11, sectors of a cluster at 13
_MOST_GROUPS = 1 << 20
_MOST_ANCHORS = 4096
_HEAD = 4096

Read = Callable[[int, int], bytes]


@dataclass(frozen=True, slots=True)
class Anchor:
    """At `place` of the disk are `length` bytes of which `fits` tells whether they are those that belong there."""

    place: int
    length: int
    fits: Callable[[bytes], bool]


def anchors(read: Read, start: int, size: int) -> Iterator[Anchor]:
    """The copies that the file system of a partition keeps, by `read(offset, length)` of the disk."""
    head = read(start, _HEAD)
    if len(head) < _HEAD:
        return
    for kind in (_ext, _xfs, _btrfs, _ntfs):
        for count, anchor in enumerate(kind(read, head, start, size)):
            if count >= _MOST_ANCHORS:
                break
            yield anchor


def _ext(read: Read, head: bytes, start: int, size: int) -> Iterator[Anchor]:
    del read
    first = head[1024:2048]
    if first[_EXT_MAGIC] != b"\x53\xef":
        return
    blocks, _, log, per_group = _EXT.unpack_from(first, 4)
    if log > 6 or not 0 < per_group <= 1 << 16:
        return
    block = 1024 << log
    for group in _sparse(min(_MOST_GROUPS, -(-blocks // per_group))):
        place = start + group * per_group * block + (1024 if log == 0 else 0)
        if place + 1024 <= start + size:
            yield Anchor(place, 1024, _is_ext(first[_EXT_UUID], group))


def _is_ext(name: bytes, group: int) -> Callable[[bytes], bool]:
    return lambda data: (
        data[_EXT_MAGIC] == b"\x53\xef"
        and data[_EXT_UUID] == name
        and int.from_bytes(data[_EXT_GROUP], "little") == group & 0xFFFF
    )


def _sparse(groups: int) -> list[int]:
    """The groups that have a copy: 1, and powers of 3, 5 and 7."""
    found = {1} if groups > 1 else set()
    for base in (3, 5, 7):
        group = base
        while group < groups:
            found.add(group)
            group *= base
    return sorted(found)


def _xfs(read: Read, head: bytes, start: int, size: int) -> Iterator[Anchor]:
    del read
    if not head.startswith(b"XFSB"):
        return
    _, block = _XFS.unpack_from(head)
    blocks, groups = _XFS_AGS.unpack_from(head, 84)
    if not 512 <= block <= 65536 or not blocks:
        return
    for group in range(1, min(groups, _MOST_ANCHORS)):
        place = start + group * blocks * block
        if place + 1024 <= start + size:
            yield Anchor(place, 1024, _is_xfs(head[_XFS_UUID], group))


def _is_xfs(name: bytes, group: int) -> Callable[[bytes], bool]:
    """A copy of the superblock, and behind it the free space's head with the group's number at 8."""
    return lambda data: (
        data.startswith(b"XFSB")
        and data[_XFS_UUID] == name
        and data[512:516] == b"XAGF"
        and int.from_bytes(data[520:524], "big") == group
    )


def _btrfs(read: Read, head: bytes, start: int, size: int) -> Iterator[Anchor]:
    del head
    first = read(start + _BTRFS_PLACES[0], _HEAD)
    if first[64:72] != _BTRFS_MAGIC:
        return
    for place in _BTRFS_PLACES[1:]:
        if place + _HEAD <= size:
            yield Anchor(start + place, _HEAD, _is_btrfs(first[32:48], place))


def _is_btrfs(name: bytes, place: int) -> Callable[[bytes], bool]:
    return lambda data: (
        data[64:72] == _BTRFS_MAGIC and data[32:48] == name and int.from_bytes(data[48:56], "little") == place
    )


def _ntfs(read: Read, head: bytes, start: int, size: int) -> Iterator[Anchor]:
    del read
    if head[3:11] != b"NTFS    ":
        return
    sector, per_cluster = _NTFS.unpack_from(head, 11)
    cluster = sector * per_cluster
    table = int.from_bytes(head[48:56], "little") * cluster
    if sector not in (512, 1024, 2048, 4096) or not cluster or not 0 < table < size:
        return
    yield Anchor(start + table, 48, _is_file_table)
    sectors = int.from_bytes(head[40:48], "little")
    if sectors * sector + sector <= size:
        boot = head[:512]
        yield Anchor(start + sectors * sector, 512, lambda data: data == boot)


def _is_file_table(data: bytes) -> bool:
    return data.startswith(b"FILE") and data[44:48] == bytes(4)
