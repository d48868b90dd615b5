"""What a file is, told from its content: disk image formats, installers, archives.

Only fixed places of the first 36 KiB and the last 512 bytes are read, whatever the file says. A raw disk has no mark of
its own, so nothing is ever *found* to be raw: such a file is `unknown`, perhaps with a partition table, and calling it
raw is the user's choice.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import StrEnum
from typing import BinaryIO

from triune.domain.errors import Failed

_HEAD = 0x9000
_ISO_OFFSET = 0x8001
_TAR_OFFSET = 257


class Content(StrEnum):
    """What a file may hold."""

    QCOW2 = "qcow2"
    QCOW = "qcow"
    VMDK = "vmdk"
    VDI = "vdi"
    VHD = "vhd"
    VHDX = "vhdx"
    LUKS = "luks"
    ISO = "iso"
    TAR = "tar"
    GZIP = "gzip"
    XZ = "xz"
    ZSTD = "zstd"
    BZIP2 = "bzip2"
    ZIP = "zip"
    SQUASHFS = "squashfs"
    UNKNOWN = "unknown"


COMPRESSED = frozenset({Content.GZIP, Content.XZ, Content.ZSTD, Content.BZIP2})

# Order does not matter: no two of these marks can stand at the same place.
_MARKS: tuple[tuple[int, bytes, Content], ...] = (
    (0, b"QFI\xfb\x00\x00\x00\x01", Content.QCOW),
    (0, b"QFI\xfb", Content.QCOW2),
    (0, b"KDMV", Content.VMDK),
    (0, b"COWD", Content.VMDK),
    (0, b"\xbe\xba\xfe\xca\x00\x00\x00\x00", Content.VMDK),
    (0x40, b"\x7f\x10\xda\xbe", Content.VDI),
    (0, b"vhdxfile", Content.VHDX),
    (0, b"conectix", Content.VHD),
    (0, b"LUKS\xba\xbe", Content.LUKS),
    (0, b"\x1f\x8b", Content.GZIP),
    (0, b"\xfd7zXZ\x00", Content.XZ),
    (0, b"\x28\xb5\x2f\xfd", Content.ZSTD),
    (0, b"BZh", Content.BZIP2),
    (0, b"PK\x03\x04", Content.ZIP),
    (0, b"hsqs", Content.SQUASHFS),
    (_ISO_OFFSET, b"CD001", Content.ISO),
    (_TAR_OFFSET, b"ustar", Content.TAR),
)


@dataclass(frozen=True, slots=True)
class Detected:
    """The content found; `partitions` is "gpt" or "mbr" where an unknown one begins like a partitioned disk."""

    content: Content
    partitions: str | None = None


def detect(stream: BinaryIO) -> Detected:
    """Tell what the file is. Raises Failed("unreadable") when it cannot be read; leaves the position anywhere."""
    try:
        stream.seek(0, os.SEEK_END)
        size = stream.tell()
        stream.seek(0)
        head = stream.read(_HEAD)
        stream.seek(max(0, size - 512))
        tail = stream.read(512)
    except OSError as error:
        raise Failed("unreadable", f"the image cannot be read: {error.strerror}", hint="Check the file.") from error
    for offset, mark, content in _MARKS:
        if head.startswith(mark, offset):
            return Detected(content)
    # A descriptor file may begin with a byte order mark or blank lines.
    if head[:512].lstrip(b"\xef\xbb\xbf \r\n\t").lower().startswith(b"# disk descriptorfile"):
        return Detected(Content.VMDK)
    # A fixed VHD is a raw disk with a footer: the one format whose mark is at the end.
    if tail.startswith(b"conectix"):
        return Detected(Content.VHD)
    return Detected(Content.UNKNOWN, _partitions(head))


def _partitions(head: bytes) -> str | None:
    if head.startswith(b"EFI PART", 512) or head.startswith(b"EFI PART", 4096):
        return "gpt"
    if head[510:512] == b"\x55\xaa":
        return "mbr"
    return None
