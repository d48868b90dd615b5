"""POSIX access control lists: from the text of acl(5), as tar archives have it, to the kernel's extended attribute.

The attribute is struct posix_acl_xattr_header and its entries (include/uapi/linux/posix_acl_xattr.h), little-endian.
"""

from __future__ import annotations

import re
import struct

from triune.domain.errors import Invalid

_TAGS = {"user": (0x01, 0x02), "group": (0x04, 0x08), "mask": (0x10, 0x10), "other": (0x20, 0x20)}
_NO_ID = 0xFFFFFFFF
_MOST = 1024


def to_attribute(text: str) -> bytes:
    """The attribute of entries like `user:1005:r-x`, separated by commas or lines. Ids are numbers, or a name that
    has its number after it (as star writes). Raises Invalid("corrupt_archive")."""
    entries = []
    for word in re.split(r"[,\n]", text):
        line = word.partition("#")[0].strip()
        if line:
            entries.append(_entry(line))
    if not 3 <= len(entries) <= _MOST:
        raise _wrong(text)
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in sorted(entries))


def _entry(line: str) -> tuple[int, int, int]:
    parts = line.split(":")
    if not 3 <= len(parts) <= 4 or parts[0] not in _TAGS or not re.fullmatch(r"[r-][w-][x-]", parts[2]):
        raise _wrong(line)
    number = parts[3] if len(parts) == 4 else parts[1]
    mode = sum(bit for letter, bit in zip(parts[2], (4, 2, 1), strict=True) if letter != "-")
    own, named = _TAGS[parts[0]]
    if not parts[1]:
        return own, mode, _NO_ID
    if not (number.isascii() and number.isdigit()) or int(number) >= _NO_ID:
        raise _wrong(line)
    return named, mode, int(number)


def _wrong(text: str) -> Invalid:
    return Invalid(
        "corrupt_archive", f"the archive holds an access list that is none: {text[:80]!r}", hint="Make it again."
    )
