"""Descriptors of VMDKs that are lost or wrong: what they should say, told from the extents, parents and the VMX.

Nothing is written here but by `apply`, and only into a folder of this host: a source is never changed.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from triune.disks import vmdk_descriptor, vmdk_sesparse
from triune.disks.content import Content, Lost, read
from triune.disks.source import Unreadable
from triune.disks.vmdk_descriptor import FLAT_KINDS, SECTOR, SPARSE_KINDS, Descriptor, ExtentLine
from triune.disks.vmdk_disk import Folder, first_sector, leads_inside
from triune.disks.vmdk_layout import Layout, read_layout
from triune.disks.vmdk_sesparse import SeSparseExtent
from triune.disks.vmx import LARGEST, Vmx
from triune.domain.errors import Conflict, Invalid, NotFound, TriuneError
from triune.host.beneath import Root

_SPLIT = re.compile(r"-([sf])(\d{3,4})\.vmdk$")
_SLOT = re.compile(r"^((?:scsi|sata|ide|nvme)\d+):\d+\.filename$", re.IGNORECASE)
_PARENT_AT, _PARENT_LENGTH = 4 * 11, 1024
_LARGEST_LOOKED_AT = 64


@dataclass(frozen=True, slots=True)
class Proposal:
    """What a descriptor should say. `before` is what it says now, None where there is none; `why` are sentences. Where
    it is within a sparse disk, it has `room` bytes from the byte `at` on; else it is the whole file."""

    name: str
    before: Descriptor | None
    after: Descriptor
    why: tuple[str, ...]
    at: int = 0
    room: int = 0


@dataclass(frozen=True, slots=True)
class _Held:
    """Where a descriptor is kept, and what it says; None where that is lost."""

    descriptor: Descriptor | None
    layout: Layout | None = None

    @property
    def at(self) -> int:
        return self.layout.descriptor * SECTOR if self.layout else 0

    @property
    def room(self) -> int:
        return min(self.layout.descriptor_length * SECTOR, vmdk_descriptor.LONGEST) if self.layout else 0


def propose(folder: Folder, name: str, parent: str = "") -> Proposal | None:
    """What to change in a disk's descriptor; None where nothing needs to be.

    `parent` names the parent's descriptor where nothing else tells it. Raises NotFound where there is neither a
    descriptor nor an extent, and Invalid("no_proposal") where what is there isn't enough.
    """
    held = _held(folder, name)
    current = held.descriptor if held else None
    if held is not None and held.layout is not None and (current is None or not current.extents):
        return _within(folder, name, held, held.layout, parent)
    if held is None or current is None or not current.extents:
        return _anew(folder, name, current, parent)
    after, why = (current, []) if held.layout else _extents_mended(folder, name, current)
    after, more = _parent_mended(folder, after, parent)
    if not why and not more:
        return None
    return _fitting(Proposal(name, current, after, (*why, *more), held.at, held.room))


def apply(path: Path, proposal: Proposal) -> Path:
    """Write it to a folder of this host, and keep what was there beside it; returns where. Raises Conflict."""
    kept = f"{path.name}.before-repair"
    with Root(path.parent) as root:
        if root.exists(kept, follow=False):
            raise Conflict(
                "exists", f"{kept} is there already", hint="Move it away: it is what an earlier repair kept."
            )
        if proposal.room:
            _write_within(root, path.name, kept, proposal)
        else:
            if root.exists(path.name, follow=False):
                root.write_bytes(kept, root.read_bytes(path.name, vmdk_descriptor.LONGEST))
            root.write_bytes(path.name, proposal.after.encode())
    return path.parent / kept


def _write_within(root: Root, name: str, kept: str, proposal: Proposal) -> None:
    fd = root.open(name, os.O_RDWR | os.O_NOFOLLOW)
    try:
        root.write_bytes(kept, os.pread(fd, proposal.room, proposal.at))
        os.pwrite(fd, proposal.after.encode().ljust(proposal.room, b"\0"), proposal.at)
        os.fsync(fd)
    finally:
        os.close(fd)


def _fitting(proposal: Proposal) -> Proposal:
    if proposal.room and len(proposal.after.encode()) > proposal.room:
        raise Invalid("no_proposal", f"{proposal.name!r} has no room for its descriptor", hint="Convert it: qemu-img.")
    return proposal


def _text(content: Content) -> bytes:
    try:
        return read(content, 0, min(content.size, vmdk_descriptor.LONGEST))
    except (Lost, Unreadable):
        return b""


def _held(folder: Folder, name: str) -> _Held | None:
    """None where there is no such file, or nothing of a descriptor in it."""
    try:
        content = folder.open(name)
    except NotFound:
        return None
    head = first_sector(content)
    layout = None if head.startswith(b"COWD") else read_layout(head)
    if head.startswith((b"COWD", vmdk_sesparse.MAGIC)) or (
        layout and not (layout.descriptor and layout.descriptor_length)
    ):
        raise Invalid("no_proposal", f"{name!r} is an extent, it holds no descriptor", hint="Name the descriptor.")
    if layout is not None:
        try:
            text = read(content, layout.descriptor * SECTOR, layout.descriptor_length * SECTOR)
        except (Lost, Unreadable):
            text = b""
        return _Held(vmdk_descriptor.parse(text) if vmdk_descriptor.looks_like(text[:SECTOR]) else None, layout)
    return _Held(vmdk_descriptor.parse(_text(content))) if vmdk_descriptor.looks_like(head) else None


def _current(folder: Folder, name: str) -> Descriptor | None:
    held = _held(folder, name)
    return held.descriptor if held else None


def _within(folder: Folder, name: str, held: _Held, layout: Layout, parent: str) -> Proposal:
    """A descriptor for the disk that lost the one within it."""
    adapter, hardware = _of_machine(folder, name)
    why = ["the descriptor within the disk is lost"]
    above = None
    if parent:
        above, sentence = _parent_of(folder, folder.open(name), parent)
        why.append(sentence)
    else:
        why.append("nothing tells whether it is a difference to another disk: if it is, say --parent NAME.vmdk")
    after = vmdk_descriptor.compose(
        (ExtentLine("RW", layout.capacity, "SPARSE", name),),
        create_type="streamOptimized" if layout.compressed else "monolithicSparse",
        adapter=adapter,
        cid=_fresh_cid(folder, name),
        parent=above,
        hardware=hardware,
    )
    return _fitting(Proposal(name, held.descriptor, after, tuple(why), held.at, held.room))


def _anew(folder: Folder, name: str, current: Descriptor | None, parent: str) -> Proposal:
    """A descriptor out of the extents beside it."""
    stem = name.removesuffix(".vmdk")
    lines = tuple(_lines(folder, stem))
    if not lines:
        raise NotFound(
            "no_extents", f"there is neither a descriptor {name!r} nor an extent of it", hint="See what is there: ls"
        )
    why = [f"the descriptor is {'empty or damaged' if current else 'missing'}: made from {len(lines)} extent(s)"]
    adapter, hardware = _of_machine(folder, name)
    why.append(f"adapter {adapter} and hardware version {hardware or '13'}" + (" from the VMX" if hardware else ""))
    first = folder.open(lines[0].name)
    above = None
    if lines[0].kind in ("VMFSSPARSE", "SESPARSE"):
        above, sentence = _parent_of(folder, first, parent)
        why.append(sentence)
    thin = lines[0].kind == "VMFS" and any(run.source is None for run in first.runs())
    cid = current.cid if current and current.cid is not None else _fresh_cid(folder, name)
    after = vmdk_descriptor.compose(
        lines, create_type=_create_type(lines), adapter=adapter, thin=thin, cid=cid, parent=above, hardware=hardware
    )
    return Proposal(name, current, after, tuple(why))


def _lines(folder: Folder, stem: str) -> list[ExtentLine]:
    for mark, kind in (("-flat", "VMFS"), ("-delta", "VMFSSPARSE"), ("-sesparse", "SESPARSE")):
        found = _line(folder, f"{stem}{mark}.vmdk", kind)
        if found:
            return [found]
    parts: dict[int, ExtentLine] = {}
    for name in folder.names():
        match = _SPLIT.search(name)
        if match and name[: match.start()] == stem:
            line = _line(folder, name, "SPARSE" if match[1] == "s" else "FLAT")
            if line:
                parts[int(match[2])] = line
    if parts and sorted(parts) != list(range(1, len(parts) + 1)):
        lacking = next(number for number in range(1, max(parts) + 1) if number not in parts)
        raise Invalid(
            "no_proposal", f"extent {lacking} of {stem!r} is missing", hint="Its size can't be told from the others."
        )
    return [parts[number] for number in sorted(parts)]


def _line(folder: Folder, name: str, kind: str) -> ExtentLine | None:
    try:
        content = folder.open(name)
    except TriuneError:
        return None
    size = _extent_size(content, kind)
    return ExtentLine("RW", size // SECTOR, kind, name) if size else None


def _extent_size(content: Content, kind: str) -> int | None:
    """Bytes of the disk that an extent holds; None where its header doesn't tell."""
    if kind in FLAT_KINDS:
        return content.size
    head = first_sector(content)
    try:
        if head.startswith(vmdk_sesparse.MAGIC):
            return SeSparseExtent(content, head).size
        layout = read_layout(head)
    except TriuneError:
        return None
    return layout.capacity * SECTOR if layout else None


def _create_type(lines: tuple[ExtentLine, ...]) -> str:
    kind = lines[0].kind
    split = {"SPARSE": "twoGbMaxExtentSparse", "FLAT": "twoGbMaxExtentFlat"}
    return {"VMFS": "vmfs", "VMFSSPARSE": "vmfsSparse", "SESPARSE": "seSparse"}.get(kind) or split[kind]


def _of_machine(folder: Folder, name: str) -> tuple[str, str]:
    """The adapter and the hardware's version out of a VMX beside it, lsilogic where none tells."""
    stem = re.sub(r"-\d{6}$", "", name.removesuffix(".vmdk"))
    for file in [each for each in folder.names() if each.lower().endswith((".vmx", ".vmtx"))][:_LARGEST_LOOKED_AT]:
        try:
            vmx = Vmx.parse(read(folder.open(file), 0, LARGEST))
        except TriuneError:
            continue
        for key, value, _ in vmx.items():
            slot = _SLOT.match(key)
            used = value.rpartition("/")[2].removesuffix(".vmdk")
            if slot and re.sub(r"-\d{6}$", "", used) == stem:
                controller = slot[1].lower()
                device = vmx.get(f"{controller}.virtualDev").lower()
                known = "ide" if controller.startswith("ide") else "buslogic" if device == "buslogic" else "lsilogic"
                return known, vmx.get("virtualHW.version") if vmx.get("virtualHW.version").isdecimal() else ""
    return "lsilogic", ""


def _parent_of(folder: Folder, extent: Content, named: str) -> tuple[tuple[int, str], str]:
    """The parent's CID and name. Only an old extent (COWD) knows its parent's name."""
    if not named:
        head = _text(extent)[: _PARENT_AT + _PARENT_LENGTH]
        raw = head[_PARENT_AT:].split(b"\0", 1)[0] if head.startswith(b"COWD") else b""
        named = raw.decode("utf-8", "replace").rpartition("/")[2]
    if not named:
        raise Invalid(
            "no_proposal", "nothing tells which disk it is a difference to", hint="Say it: --parent NAME.vmdk"
        )
    found = _current(folder, named) if leads_inside(named) else None
    if found is None or found.cid is None:
        raise Invalid("no_proposal", f"its parent {named!r} has no descriptor", hint="Repair the parent's first.")
    return (found.cid, named), f"its parent is {named!r} in the state {found.cid:08x}, which is taken for the right one"


def _fresh_cid(folder: Folder, name: str) -> int:
    """The CID that a child of it beside it expects, else VMware's first one."""
    for other in folder.names()[:1024]:
        if not other.endswith(".vmdk") or other == name:
            continue
        try:
            child = _current(folder, other)
        except TriuneError:
            continue
        if child and child.parent_name.rpartition("/")[2] == name and child.parent_cid is not None:
            return child.parent_cid
    return 0xFFFFFFFE


def _extents_mended(folder: Folder, name: str, current: Descriptor) -> tuple[Descriptor, list[str]]:
    """Extents that were renamed with the disk, and sizes that the files contradict."""
    after, why = current, []
    for line in current.extents:
        if line.kind not in FLAT_KINDS | SPARSE_KINDS or not leads_inside(line.name):
            continue
        try:
            content = folder.open(line.name)
        except TriuneError:
            suffix = re.search(r"(-(?:flat|delta|sesparse|[sf]\d{3,4}))\.vmdk$", line.name)
            renamed = f"{name.removesuffix('.vmdk')}{suffix[1]}.vmdk" if suffix else ""
            if renamed and renamed != line.name and _line(folder, renamed, line.kind):
                after = after.renamed({line.name: renamed})
                why.append(f"the extent {line.name!r} is called {renamed!r} here")
            continue
        size = _extent_size(content, line.kind)
        expected = line.sectors * SECTOR
        if size is not None and line.kind != "FLAT" and size != expected and len(current.extents) == 1:
            after = after.resized(line.name, size // SECTOR)
            why.append(f"the extent {line.name!r} holds {size} bytes, not {expected}")
    return after, why


def _parent_mended(folder: Folder, current: Descriptor, named: str) -> tuple[Descriptor, list[str]]:
    if not current.has_parent:
        return current, []
    hint = named or current.parent_name
    plain = hint.replace("\\", "/")
    last = plain if leads_inside(plain) else plain.rpartition("/")[2]
    beside = folder.beside(hint) if not named else None
    parent = None
    for where, name in [(folder, last)] + ([beside] if beside else []):
        try:
            parent = _current(where, name)
        except Invalid:
            return current, []
        if parent is not None:
            break
    if parent is None or parent.cid is None:
        return current, []
    why: list[str] = []
    if named and named != current.parent_name:
        current = current.with_field("parentFileNameHint", f'"{named}"')
        why.append(f"the parent is {named!r}, as you say")
    if current.parent_cid != parent.cid:
        before = f"{current.parent_cid:08x}" if current.parent_cid is not None else "none"
        current = vmdk_descriptor.with_cids(current, parent_cid=parent.cid)
        why.append(
            f"the parent's CID is {parent.cid:08x}, not {before}: right only if nothing was written to the parent since"
        )
    return current, why
