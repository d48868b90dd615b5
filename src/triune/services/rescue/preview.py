"""A first look at a file, in lines for a terminal: what it is, and the beginning of what is in it."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from triune.disks.content import Content, Lost, read
from triune.disks.source import Unreadable
from triune.disks.vmware_text import decode
from triune.domain.errors import TriuneError
from triune.domain.units import format_size
from triune.services.rescue.guest import Guest
from triune.services.rescue.guest_disks import GuestDisk

_LOOKED_AT = 1 << 16
_PER_LINE = 16
_MOST_NAMES = 40
_TEXT = re.compile(r"[^\t\n\r\x0c\x20-\x7e\xa0-\U0010ffff]")


@dataclass(frozen=True, slots=True)
class Picture:
    """An image's measure, in pixels."""

    kind: str
    width: int
    height: int


def head_of(content: Content, length: int = _LOOKED_AT) -> bytes:
    """The file's beginning, as far as it can be read."""
    try:
        return read(content, 0, length)
    except (Lost, Unreadable):
        parts = []
        for offset in range(0, min(content.size, length), 512):
            try:
                parts.append(read(content, offset, 512))
            except (Lost, Unreadable):
                break
        return b"".join(parts)


def hexdump(data: bytes, start: int = 0, most: int = 512) -> Iterator[str]:
    """Offsets, bytes and characters, 16 a line; equal lines in a row are one `*`, as hexdump(1) has it."""
    last, skipping = b"", False
    for offset in range(0, min(len(data), most), _PER_LINE):
        line = data[offset : offset + _PER_LINE]
        if line == last and len(line) == _PER_LINE:
            if not skipping:
                yield "*"
            skipping = True
            continue
        last, skipping = line, False
        left, right = line[:8].hex(" "), line[8:].hex(" ")
        characters = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in line)
        yield f"{start + offset:08x}  {left:<23}  {right:<23}  |{characters}|"


def as_text(data: bytes) -> str | None:
    """The text, where the beginning of a file is one."""
    if not data or b"\0" in data[:4096]:
        return None
    text, codec = decode(data)
    odd = len(_TEXT.findall(text[:4096]))
    if odd > len(text[:4096]) // 100 or (codec == "latin-1" and not data.isascii()):
        return None
    return text


def picture(data: bytes) -> Picture | None:
    """What an image's header says: PNG, GIF, BMP, JPEG."""
    if data.startswith(b"\x89PNG\r\n\x1a\n") and len(data) >= 24:
        width, height = struct.unpack_from(">II", data, 16)
        return Picture("PNG", width, height)
    if data.startswith((b"GIF87a", b"GIF89a")) and len(data) >= 10:
        width, height = struct.unpack_from("<HH", data, 6)
        return Picture("GIF", width, height)
    if data.startswith(b"BM") and len(data) >= 26 and data[14:18] == b"\x28\0\0\0":
        width, height = struct.unpack_from("<ii", data, 18)
        return Picture("BMP", width, abs(height))
    return _jpeg(data) if data.startswith(b"\xff\xd8\xff") else None


def _jpeg(data: bytes) -> Picture | None:
    place = 2
    while place + 9 <= len(data) and data[place] == 0xFF:
        kind = data[place + 1]
        (length,) = struct.unpack_from(">H", data, place + 2)
        if 0xC0 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", data, place + 5)
            return Picture("JPEG", width, height)
        if length < 2:
            return None
        place += 2 + length
    return None


@dataclass(frozen=True, slots=True)
class PartShown:
    """One part of a disk, and the first names of its top folder."""

    name: str
    start: int | None
    size: int
    type: str
    holds: str
    label: str
    names: tuple[str, ...]
    more: int
    why: str = ""


def parts_of(disk: GuestDisk) -> tuple[list[PartShown], list[str]]:
    """A disk's parts, and what is wrong with its table."""
    guest = Guest(disk.source)
    shown = []
    for part in guest.parts:
        names: list[str] = []
        why = part.why
        if part.files is not None:
            try:
                names = [each.name + ("/" if each.kind == "folder" else "") for each in guest.list(part.name)]
            except TriuneError as error:
                why = error.message
        shown.append(
            PartShown(
                part.name, part.start, part.size, part.type, part.holds, part.label,
                tuple(names[:_MOST_NAMES]), max(0, len(names) - _MOST_NAMES), why,
            )
        )  # fmt: skip
    return shown, guest.problems


def facts_of(disk: GuestDisk) -> list[tuple[str, str]]:
    """What its descriptor says, for a table of two columns."""
    facts = [("format", disk.form), ("size", f"{format_size(disk.source.size)} ({disk.source.size} bytes)")]
    if disk.disk is None:
        return facts
    descriptor = disk.disk.descriptor
    if descriptor is not None:
        cid = descriptor.cid
        facts.append(("CID", f"{cid:08x}" if cid is not None else "missing"))
        for key in ("adaptertype", "virtualhwversion", "thinprovisioned", "uuid"):
            if key in descriptor.ddb:
                facts.append((key, descriptor.ddb[key][:80]))
    extents = disk.disk.extents
    facts += [("extent", f"{line.access} {line.sectors} {line.kind} {line.name}") for line, _ in extents[:16]]
    if len(extents) > 16:
        facts.append(("extents", f"{len(extents)} in all"))
    facts += [("on", each.name) for each in disk.disk.chain[1:]]
    return facts
