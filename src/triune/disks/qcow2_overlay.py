"""Empty qcow2 overlays, written directly: starting a program for 256 KiB takes longer than all else a clone does.

Layout of a new one, in clusters of 64 KiB: header with the backing file's name, refcount table, one refcount block,
level-one table (all zeros: everything is read from the backing file). Source of the format: docs/interop/qcow2.txt.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import BinaryIO

from triune.disks.qcow2 import read_header
from triune.domain.errors import Invalid

_CLUSTER_BITS = 16
_CLUSTER = 1 << _CLUSTER_BITS
_HEADER = struct.Struct(">4sIQIIQIIQQIIQQQQII")
_EXTENSION = struct.Struct(">II")
_BACKING_FORMAT = 0xE2792ACA
_REFCOUNT_ORDER = 4  # 16 bits
_REFCOUNT_TABLE, _REFCOUNT_BLOCK, _LEVEL_ONE = 1, 2, 3
_COVERED = _CLUSTER // 8 * _CLUSTER  # bytes of the disk per entry of the level-one table
_LONGEST_NAME = 1023
_MOST_OFFSET = 1 << 56  # the format's own limit
_MOST_LEVEL_ONE = 32 * 2**20  # QEMU's limit
_LEVEL_ONE_FIELDS = struct.Struct(">IQ")  # l1_size, l1_table_offset
_LEVEL_ONE_FIELDS_OFFSET = 36


def write_overlay(path: Path, size: int, backing: Path, backing_format: str) -> None:
    """Make an overlay of `size` bytes at `path` (which must not exist), on disk when it returns.

    Raises FileExistsError, and Invalid("bad_disk_size") for what QEMU would not open.
    """
    name = os.fsencode(backing)
    entries = -(-size // _COVERED)
    if size <= 0 or size % 512 or entries * 8 > _MOST_LEVEL_ONE or len(name) > _LONGEST_NAME:
        raise Invalid("bad_disk_size", f"no overlay of {size} bytes can stand on {backing}", hint="See: qemu-img info")
    clusters = _LEVEL_ONE + -(-entries * 8 // _CLUSTER)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.ftruncate(fd, clusters * _CLUSTER)
        os.pwrite(fd, _header(size, entries, name, backing_format.encode()), 0)
        os.pwrite(fd, struct.pack(">Q", _REFCOUNT_BLOCK * _CLUSTER), _REFCOUNT_TABLE * _CLUSTER)
        os.pwrite(fd, struct.pack(">H", 1) * clusters, _REFCOUNT_BLOCK * _CLUSTER)
        os.fdatasync(fd)
    finally:
        os.close(fd)


def _header(size: int, entries: int, backing: bytes, backing_format: bytes) -> bytes:
    padded = backing_format.ljust(-(-len(backing_format) // 8) * 8, b"\0")
    extensions = _EXTENSION.pack(_BACKING_FORMAT, len(backing_format)) + padded + _EXTENSION.pack(0, 0)
    fixed = _HEADER.pack(
        b"QFI\xfb", 3, _HEADER.size + len(extensions), len(backing), _CLUSTER_BITS, size, 0,
        entries, _LEVEL_ONE * _CLUSTER, _REFCOUNT_TABLE * _CLUSTER, 1, 0, 0,
        0, 0, 0, _REFCOUNT_ORDER, _HEADER.size,
    )  # fmt: skip
    return fixed + extensions + backing


def is_untouched(stream: BinaryIO) -> bool:
    """Whether nothing was ever written to an image: every entry of its level-one table is zero."""
    header = read_header(stream)
    if header.snapshots:
        return False
    stream.seek(_LEVEL_ONE_FIELDS_OFFSET)
    entries, offset = _LEVEL_ONE_FIELDS.unpack(stream.read(_LEVEL_ONE_FIELDS.size))
    if entries * 8 > _MOST_LEVEL_ONE or offset > _MOST_OFFSET:
        return False
    stream.seek(offset)
    return not any(stream.read(entries * 8))
