"""What a VMware .nvram file says of the machine's firmware.

VMware never published the format. Source: virt-firmware's reader (Gerd Hoffmann) and notes of others, not checked
against files of every version: "MRVN" begins the file; with EFI, "VMWNVRAM" is followed by 4 bytes, the length of the
region (4) and its variables: GUID (16), attributes (4), length of name and data (4), length of the name (4), name in
UTF-16, data.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from uuid import UUID

MAGIC = b"MRVN"
LARGEST = 16 << 20
_REGION = b"VMWNVRAM"
_VARIABLE = struct.Struct("<16sIII")
_MOST_VARIABLES = 4096


@dataclass(frozen=True, slots=True)
class Variable:
    """One EFI variable."""

    guid: str
    name: str
    attributes: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Nvram:
    """`firmware` is "efi", "bios", or empty where the file is none of VMware's. `whole` says that all variables could
    be read."""

    firmware: str
    variables: tuple[Variable, ...]
    whole: bool

    @property
    def secure_boot_keys(self) -> bool:
        """Whether a platform key is enrolled, which secure boot needs."""
        return any(each.name == "PK" and each.data for each in self.variables)


def read_nvram(data: bytes) -> Nvram:
    """Read it. Never fails: see `firmware` and `whole`."""
    if not data.startswith(MAGIC) or len(data) > LARGEST:
        return Nvram("", (), whole=False)
    region = data.find(_REGION)
    if region < 0:
        return Nvram("bios", (), whole=True)
    length = int.from_bytes(data[region + 12 : region + 16], "little")
    place, end = region + 16, region + length
    if end > len(data) or length < 16:
        return Nvram("efi", (), whole=False)
    found: list[Variable] = []
    while place + _VARIABLE.size <= end and len(found) < _MOST_VARIABLES:
        guid, attributes, size, name_size = _VARIABLE.unpack_from(data, place)
        place += _VARIABLE.size
        if name_size > size or place + size > end:
            return Nvram("efi", tuple(found), whole=False)
        name = data[place : place + name_size].decode("utf-16-le", "replace").rstrip("\0")
        found.append(Variable(str(UUID(bytes_le=guid)), name, attributes, data[place + name_size : place + size]))
        place += size
    return Nvram("efi", tuple(found), whole=place == end)
