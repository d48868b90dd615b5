"""The descriptor of a VMDK: text that names the disk's extents, its parent and its geometry.

Source of the format: "Virtual Disk Format 5.0" (VMware), block/vmdk.c of QEMU, and descriptors that ESXi hosts wrote.
Sizes in it are in sectors of 512 bytes. A descriptor is somebody else's text: lines that say nothing known are kept
and never fail.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from triune.disks.vmware_text import decode

SECTOR = 512
LONGEST = 1 << 20
NO_PARENT = 0xFFFFFFFF
_MOST_EXTENTS = 1 << 15
_MOST_SECTORS = 1 << 54
_EXTENT = re.compile(
    r"^\s*(?P<access>RW|RDONLY|NOACCESS)\s+(?P<sectors>\d{1,19})\s+(?P<kind>[A-Z]+)"
    r'(?:\s+"(?P<name>[^"\r\n]*)"(?:\s+(?P<start>\d{1,19}))?)?',
    re.IGNORECASE,
)
_FIELD = re.compile(r'^\s*(?P<key>[\w.]+)\s*=\s*"?(?P<value>[^"\r\n]*?)"?\s*$')
_MARK = re.compile(rb"^\s*#\s*disk\s*descriptor\s*file", re.IGNORECASE | re.MULTILINE)
_TELLING = re.compile(rb"^\s*(?:createType\s*=|(?:RW|RDONLY|NOACCESS)\s+\d+\s+[A-Z]+)", re.MULTILINE)
FLAT_KINDS = frozenset({"FLAT", "VMFS"})
SPARSE_KINDS = frozenset({"SPARSE", "VMFSSPARSE", "SESPARSE"})
DEVICE_KINDS = frozenset({"VMFSRDM", "VMFSRAW"})


@dataclass(frozen=True, slots=True)
class ExtentLine:
    """One extent: `sectors` of the disk, in the file `name` from its sector `start` on. `kind` is FLAT, SPARSE, ZERO,
    VMFS, VMFSSPARSE, SESPARSE, VMFSRDM or VMFSRAW."""

    access: str
    sectors: int
    kind: str
    name: str = ""
    start: int = 0

    def __str__(self) -> str:
        name = f' "{self.name}"' if self.name else ""
        start = f" {self.start}" if self.kind == "FLAT" else ""
        return f"{self.access} {self.sectors} {self.kind}{name}{start}"


@dataclass(frozen=True, slots=True)
class Descriptor:
    """Everything of one: `fields` and `ddb` with their keys in small letters (`ddb` without the prefix).

    `text` is the whole as read, `codec` how to write it again.
    """

    text: str
    codec: str
    fields: dict[str, str]
    ddb: dict[str, str]
    extents: tuple[ExtentLine, ...]

    @property
    def cid(self) -> int | None:
        """Number of the content's state; None where it is missing or no number."""
        return _hex(self.fields.get("cid", ""))

    @property
    def parent_cid(self) -> int | None:
        """The state of the parent that this is a difference to; None where the disk stands alone, or doesn't tell."""
        number = _hex(self.fields.get("parentcid", ""))
        return None if number == NO_PARENT else number

    @property
    def parent_name(self) -> str:
        """Where the parent was, as it says; empty where there is none."""
        return self.fields.get("parentfilenamehint", "")

    @property
    def has_parent(self) -> bool:
        """Whether it is a difference to another disk."""
        return self.parent_cid is not None or bool(self.parent_name)

    @property
    def create_type(self) -> str:
        """`vmfs`, `monolithicSparse`, `seSparse` …"""
        return self.fields.get("createtype", "")

    @property
    def size(self) -> int:
        """Of the disk, in bytes."""
        return min(sum(extent.sectors for extent in self.extents), _MOST_SECTORS) * SECTOR

    def with_field(self, key: str, value: str) -> Descriptor:
        """The same text with one field changed where it stands, or added behind `version=`."""
        line = re.compile(rf"^([ \t]*{re.escape(key)}[ \t]*=[ \t]*).*?(\r?)$", re.MULTILINE | re.IGNORECASE)
        text, changed = line.subn(lambda match: f"{match[1]}{value}{match[2]}", self.text, count=1)
        if not changed:
            head, mark, tail = self.text.partition("version=1")
            text = f"{head}{mark}\n{key}={value}{tail}" if mark else f"{key}={value}\n{self.text}"
        return parse(text.encode(self.codec, "replace"))

    def renamed(self, names: dict[str, str]) -> Descriptor:
        """The same text with extents' file names replaced."""
        lines = []
        for line in self.text.splitlines(keepends=True):
            match = _EXTENT.match(line)
            if match and (fresh := names.get(match["name"] or "")):
                line = line[: match.start("name")] + fresh + line[match.end("name") :]  # noqa: PLW2901
            lines.append(line)
        return parse("".join(lines).encode(self.codec, "replace"))

    def resized(self, name: str, sectors: int) -> Descriptor:
        """The same text with another size of the extent in the file `name`."""
        lines = []
        for line in self.text.splitlines(keepends=True):
            match = _EXTENT.match(line)
            if match and match["name"] == name:
                line = line[: match.start("sectors")] + str(sectors) + line[match.end("sectors") :]  # noqa: PLW2901
            lines.append(line)
        return parse("".join(lines).encode(self.codec, "replace"))

    def encode(self) -> bytes:
        """The text's bytes."""
        return self.text.encode(self.codec, "replace")


def looks_like(head: bytes) -> bool:
    """Whether a file that begins so is a descriptor, perhaps a damaged one."""
    head = head.split(b"\0", 1)[0] if not head.startswith(b"\0") else head.lstrip(b"\0")[:4096]
    return bool(_MARK.search(head[:4096]) or _TELLING.search(head[:4096]))


def parse(data: bytes) -> Descriptor:
    """Read what can be read of it; what follows a zero byte is padding. Never raises."""
    text, codec = decode(data[:LONGEST].split(b"\0", 1)[0])
    fields: dict[str, str] = {}
    ddb: dict[str, str] = {}
    extents: list[ExtentLine] = []
    for line in text.lstrip("\ufeff").splitlines():
        if found := _EXTENT.match(line):
            if len(extents) < _MOST_EXTENTS:
                extents.append(_extent(found))
        elif found := _FIELD.match(line):
            key, value = found["key"].lower(), found["value"].strip()
            into = ddb if key.startswith("ddb.") else fields
            into.setdefault(key.removeprefix("ddb."), value)
    return Descriptor(text, codec, fields, ddb, tuple(extents))


def _extent(found: re.Match[str]) -> ExtentLine:
    return ExtentLine(
        access=found["access"].upper(),
        sectors=min(int(found["sectors"]), _MOST_SECTORS),
        kind=found["kind"].upper(),
        name=found["name"] or "",
        start=min(int(found["start"] or 0), _MOST_SECTORS),
    )


def _hex(text: str) -> int | None:
    text = text.strip().lower()
    return int(text, 16) if re.fullmatch(r"[0-9a-f]{1,8}", text) else None


@dataclass(frozen=True, slots=True)
class Geometry:
    """What the guest's BIOS is told of a disk."""

    cylinders: int
    heads: int
    sectors: int


def geometry(size: int, adapter: str) -> Geometry:
    """What VMware's products write for a disk of `size` bytes on an `adapter` (ide, lsilogic, buslogic, pvscsi)."""
    total = size // SECTOR
    if adapter == "ide":
        return Geometry(min(total // (16 * 63), 16383), 16, 63)
    if size < 1 << 30:
        heads, sectors = 64, 32
    elif size < 2 << 30:
        heads, sectors = 128, 32
    else:
        heads, sectors = 255, 63
    return Geometry(total // (heads * sectors), heads, sectors)


def compose(
    extents: tuple[ExtentLine, ...],
    *,
    create_type: str,
    adapter: str = "lsilogic",
    thin: bool = False,
    cid: int = 0xFFFFFFFE,
    parent: tuple[int, str] | None = None,
    hardware: str = "",
) -> Descriptor:
    """A descriptor of its own. `parent` is its CID and its file's name; `hardware` the virtual hardware's version."""
    size = sum(extent.sectors for extent in extents) * SECTOR
    shape = geometry(size, adapter)
    lines = ["# Disk DescriptorFile", "version=1", 'encoding="UTF-8"', f"CID={cid:08x}"]
    lines.append(f"parentCID={parent[0] if parent else NO_PARENT:08x}")
    lines.append(f'createType="{create_type}"')
    if parent:
        lines.append(f'parentFileNameHint="{parent[1]}"')
    lines += ["", "# Extent description", *map(str, extents), "", "# The Disk Data Base", "#DDB", ""]
    ddb = {
        "adapterType": adapter,
        "geometry.cylinders": str(shape.cylinders),
        "geometry.heads": str(shape.heads),
        "geometry.sectors": str(shape.sectors),
    }
    if thin:
        ddb["thinProvisioned"] = "1"
    ddb["virtualHWVersion"] = hardware or "13"
    lines += [f'ddb.{key} = "{value}"' for key, value in ddb.items() if not parent or key == "virtualHWVersion"]
    return parse(("\n".join(lines) + "\n").encode())


def with_cids(descriptor: Descriptor, *, cid: int | None = None, parent_cid: int | None = None) -> Descriptor:
    """The same with other numbers; the old long content ID, which ends in the CID, follows it."""
    if parent_cid is not None:
        descriptor = descriptor.with_field("parentCID", f"{parent_cid:08x}")
    if cid is None:
        return descriptor
    descriptor = descriptor.with_field("CID", f"{cid:08x}")
    long_id = descriptor.ddb.get("longcontentid", "")
    if len(long_id) == 32:
        descriptor = descriptor.with_field("ddb.longContentID", f'"{long_id[:24]}{cid:08x}"')
    return descriptor
