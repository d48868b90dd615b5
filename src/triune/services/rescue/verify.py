"""Whether a machine's file is whole: a disk against its descriptor, extents, parents, and what its guest stored on it;
a VMX against the files it names.

Nothing here says "ok" of what was not looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from triune.disks.content import Lost, read
from triune.disks.nvram import MAGIC as NVRAM
from triune.disks.nvram import read_nvram
from triune.disks.source import Unreadable
from triune.disks.vmdk_descriptor import FLAT_KINDS, SECTOR, Descriptor
from triune.disks.vmdk_disk import Disk, Folder
from triune.disks.vmdk_sesparse import SeSparseExtent
from triune.disks.vmdk_sparse import SparseExtent
from triune.disks.vmsd import snapshots
from triune.disks.vmware_log import settings_of
from triune.disks.vmx import LARGEST, Vmx
from triune.domain.errors import Invalid, TriuneError
from triune.domain.units import format_size
from triune.services.rescue.descriptors import propose
from triune.services.rescue.guest import Guest
from triune.services.rescue.guest_disks import GuestDisk

_MOST_RUNS = 5_000_000
_SHOWN_GAPS = 5
_MOST_LOG = 64 << 20
_FILES = (".vmdk", ".nvram", ".iso", ".flp", ".img")


class Level(StrEnum):
    """How a finding is meant. `warning`: works with a drawback, or could not be looked at."""

    OK = "ok"
    WARNING = "warning"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class Finding:
    """One fact: what was looked at, and a sentence."""

    level: Level
    what: str
    text: str


def verify_disk(disk: GuestDisk, progress: Callable[[int, int], None] | None = None) -> Iterator[Finding]:
    """Everything about a disk. `progress` is told bytes of the disk looked at, and its size."""
    yield Finding(Level.OK, "format", f"{disk.form}, {format_size(disk.source.size)}")
    if disk.disk is not None:
        told = [*_chain(disk.disk), *_grains(disk.disk), *_ranges(disk.disk, progress)]
        yield from told
        known = " ".join(finding.text for finding in told)
        for sentence in disk.damages():
            if sentence.partition(": ")[2] not in known:
                yield Finding(Level.WARNING, "state", sentence)
    yield from _guest(disk)


def verify_descriptor(folder: Folder, name: str) -> Iterator[Finding]:
    """What a disk that can be read should say and doesn't: a descriptor that is none, extents of another size."""
    try:
        proposal = propose(folder, name)
    except TriuneError:
        return
    if proposal is None:
        return
    if proposal.before is None:
        yield Finding(Level.BAD, "descriptor", f"{name} holds none, and its extents are here; see: --repair")
        return
    wrong = proposal.before.extents != proposal.after.extents
    for sentence in proposal.why:
        yield Finding(Level.BAD if wrong else Level.WARNING, "descriptor", f"{name}: {sentence}; see: --repair")


def _chain(disk: Disk) -> Iterator[Finding]:
    for number, each in enumerate(disk.chain):
        what = "descriptor" if number == 0 else f"parent {number}"
        if each.kind == "raw":
            yield Finding(Level.WARNING, "format", "nothing says what it is: taken for a raw disk")
        elif each.descriptor is None:
            yield Finding(Level.BAD, what, f"{each.name} has none, or it is lost; see: --repair")
        else:
            yield from _descriptor(each, each.descriptor, what)
        yield from _extents(each, number)
    last = disk.chain[-1]
    if last.needs_parent and last.parent is None:
        hint = last.descriptor.parent_name if last.descriptor else ""
        yield Finding(Level.BAD, "chain", f"the parent{f' {hint!r}' if hint else ''} of {last.name} is missing")
    elif len(disk.chain) > 1:
        yield from _cids(disk)


def _descriptor(disk: Disk, descriptor: Descriptor, what: str) -> Iterator[Finding]:
    problems = []
    if descriptor.cid is None:
        problems.append("it has no CID")
    if not descriptor.create_type:
        problems.append("it has no createType")
    if descriptor.fields.get("version", "1") not in ("1", "2", "3", "4"):
        problems.append(f"its version {descriptor.fields['version'][:20]!r} is not known")
    if descriptor.size and descriptor.size != disk.size:
        problems.append(f"it says {descriptor.size} bytes, the disk has {disk.size}")
    problems += _geometry(descriptor, disk.size)
    for problem in problems:
        yield Finding(Level.WARNING, what, f"{disk.name}: {problem}")
    if not problems:
        yield Finding(Level.OK, what, f"{disk.name}: {disk.kind}, {_counted(len(disk.extents), 'extent')}")


def _geometry(descriptor: Descriptor, size: int) -> Iterator[str]:
    told = [descriptor.ddb.get(f"geometry.{part}", "") for part in ("cylinders", "heads", "sectors")]
    if all(part.isdecimal() and len(part) < 12 for part in told):
        cylinders, heads, sectors = (int(part) for part in told)
        if cylinders * heads * sectors * SECTOR > max(size, 1) and cylinders > 1:
            yield "its geometry is larger than the disk"


def _extents(disk: Disk, number: int) -> Iterator[Finding]:
    if disk.kind == "raw":
        return
    what = "extents" if number == 0 else f"extents of parent {number}"
    bad = 0
    for line, extent in disk.extents:
        level, text = Level.OK, ""
        expected = line.sectors * SECTOR
        if extent.size < expected:
            level, text = Level.BAD, f"holds {extent.size} bytes, the descriptor says {expected}"
        elif extent.size > expected:
            level, text = (
                Level.WARNING,
                f"holds {extent.size} bytes, the descriptor says {expected}: what follows is left out",
            )
        elif line.kind in FLAT_KINDS or not line.name or type(extent).__name__ == "_Nothing":
            notes = extent.notes()
            level, text = (Level.BAD, notes[0]) if notes else (Level.OK, "")
        if text:
            bad += 1
            yield Finding(level, what, f"{line.name or disk.name}: {text}")
    if not bad:
        names = [line.name for line, _ in disk.extents if line.name]
        yield Finding(Level.OK, what, ", ".join(names[:3]) + (f" … {len(names)} in all" if len(names) > 3 else ""))


def _grains(disk: Disk) -> Iterator[Finding]:
    """No two grains may lie in the same place: where they do, an entry of a grain table is wrong."""
    for each in disk.chain:
        for line, extent in each.extents:
            if not isinstance(extent, SparseExtent | SeSparseExtent):
                continue
            name = line.name or each.name
            told = extent.shared_grains()
            marked = extent.marked_grains()
            if told and marked is not None and marked != told[0]:
                # What seSparse's own list holds after a discard was never seen: its word alone proves nothing.
                level = Level.BAD if isinstance(extent, SparseExtent) else Level.WARNING
                yield Finding(level, "grains", f"{name}: its tables know {told[0]}, the file itself {marked}")
            if told is None:
                yield Finding(Level.WARNING, "grains", f"{name}: too many to compare their places")
            elif told[1]:
                text = f"{name}: {told[1]} of {told[0]} lie where another one does: bytes of the disk are wrong"
                yield Finding(Level.BAD, "grains", text)
            else:
                yield Finding(Level.OK, "grains", f"{name}: {told[0]}, each in a place of its own")


def _cids(disk: Disk) -> Iterator[Finding]:
    wrong = False
    for child, parent in zip(disk.chain, disk.chain[1:], strict=False):
        expected = child.descriptor.parent_cid if child.descriptor else None
        cid = parent.descriptor.cid if parent.descriptor else None
        if expected is None or cid is None:
            wrong = True
            yield Finding(
                Level.WARNING, "chain", f"{child.name} on {parent.name}: a CID is missing, so nothing is proved"
            )
        elif expected != cid:
            wrong = True
            text = f"{child.name} expects {parent.name} in the state {expected:08x}, it is in {cid:08x}; see: --repair"
            yield Finding(Level.BAD, "chain", text)
    if not wrong:
        yield Finding(Level.OK, "chain", " on ".join(each.name for each in disk.chain[:6]))


def _ranges(disk: Disk, progress: Callable[[int, int], None] | None) -> Iterator[Finding]:
    """Data, holes and gaps, without reading the data (but for packed grains, which are unpacked)."""
    data = holes = lost = 0
    gaps: list[str] = []
    whole = True
    for number, run in enumerate(disk.runs()):
        if number >= _MOST_RUNS:
            whole = False
            break
        if run.missing:
            lost += run.length
            if len(gaps) < _SHOWN_GAPS:
                gaps.append(f"{run.length} bytes at {run.offset} ({run.why})")
        elif run.source is None:
            holes += run.length
        else:
            data += run.length
        if progress and number % 256 == 0:
            progress(run.offset, disk.size)
    seen = f"{format_size(data)} of data, {format_size(holes)} of holes"
    if lost:
        more = "; …" if len(gaps) == _SHOWN_GAPS else ""
        yield Finding(Level.BAD, "bytes", f"{seen}, {format_size(lost)} missing: {'; '.join(gaps)}{more}")
    elif whole:
        yield Finding(Level.OK, "bytes", seen)
    else:
        yield Finding(Level.WARNING, "bytes", f"{seen}; the rest of its many pieces was not looked at")


def _guest(disk: GuestDisk) -> Iterator[Finding]:
    """The partition table and file systems: each is opened and its top folder listed."""
    guest = Guest(disk.source)
    if guest.table is not None:
        kind = guest.table.kind.upper()
        yield Finding(Level.OK, "partitions", f"{kind} with {_counted(len(guest.table.partitions), 'partition')}")
    for problem in guest.problems:
        yield Finding(Level.WARNING, "partitions", problem)
    for part in guest.parts:
        if part.files is not None:
            try:
                names = guest.list(part.name)
            except TriuneError as error:
                yield Finding(Level.BAD, part.name, f"{part.holds}: {error.message}")
                continue
            entries = f"{len(names)} {'entry' if len(names) == 1 else 'entries'} at its top"
            yield Finding(Level.OK, part.name, f"{part.holds}, {format_size(part.size)}, {entries}")
        elif part.why:
            yield Finding(Level.BAD, part.name, f"{part.holds or part.type}: {part.why}")
        elif part.holds:
            yield Finding(Level.OK, part.name, f"{part.holds}: its files can't be looked at")
        else:
            yield Finding(Level.WARNING, part.name, f"{part.type}: no file system was found in it")


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' * (count != 1)}"


def verify_file(folder: Folder, name: str) -> Iterator[Finding] | None:
    """What can be said of a file that is no disk: VMX, VMTX, .vmsd, .nvram, vmware.log; None for others."""
    lower = name.lower()
    if lower.endswith((".vmx", ".vmtx")):
        return _vmx(folder, name)
    if lower.endswith(".vmsd"):
        return _vmsd(folder, name)
    if lower.endswith(".log"):
        return _log(folder, name)
    try:
        nvram = read(folder.open(name), 0, 4) == NVRAM
    except (Lost, Unreadable):
        return None
    return _nvram(folder, name) if nvram else None


def bytes_of(folder: Folder, name: str, most: int) -> bytes:
    """A file's bytes. Raises Lost where some are missing, Invalid("too_large")."""
    content = folder.open(name)
    if content.size > most:
        raise Invalid("too_large", f"{name!r} has {content.size} bytes: that is no such file", hint="Check its name.")
    return read(content, 0, content.size)


def _vmx(folder: Folder, name: str) -> Iterator[Finding]:
    vmx = Vmx.parse(bytes_of(folder, name, LARGEST))
    settings = list(vmx.items())
    yield Finding(Level.OK, "format", f"VMX with {len(settings)} settings of {vmx.get('displayName') or 'a machine'!r}")
    if vmx.encrypted:
        yield Finding(
            Level.BAD, "encryption", "the settings are encrypted: without the password nothing else can be told"
        )
    if vmx.unread:
        numbers = ", ".join(map(str, vmx.unread[:8]))
        yield Finding(Level.WARNING, "lines", f"{_counted(len(vmx.unread), 'line')} can't be read: {numbers}")
    keys = [key.lower() for key, _, _ in settings]
    twice = sorted({key for key in keys if keys.count(key) > 1})[:8] if len(keys) < 5000 else []
    if twice:
        yield Finding(Level.WARNING, "lines", f"said twice, the last counts: {', '.join(twice)}")
    if not vmx.encrypted and not vmx.get("guestOS"):
        yield Finding(Level.WARNING, "settings", "the guest's kind (guestOS) is missing")
    yield from _named(folder, vmx)


def _named(folder: Folder, vmx: Vmx) -> Iterator[Finding]:
    for key, value, _ in vmx.items():
        slot, _, field = key.rpartition(".")
        names_file = field.lower() == "filename" and value.lower().endswith(_FILES)
        if not names_file and key.lower() != "nvram":
            continue
        if vmx.get(f"{slot}.present", "TRUE").upper() == "FALSE" or not value:
            continue
        where = folder.beside(value) if value.startswith(("/", "..")) else (folder, value)
        if not _is_there(where):
            level = Level.BAD if value.lower().endswith(".vmdk") else Level.WARNING
            yield Finding(level, slot or key, f"{value!r} is not here")
        else:
            yield Finding(Level.OK, slot or key, f"{value!r} is here")


def _is_there(where: tuple[Folder, str] | None) -> bool:
    if where is None:
        return False
    try:
        where[0].open(where[1])
    except TriuneError:
        return False
    return True


def _vmsd(folder: Folder, name: str) -> Iterator[Finding]:
    found = snapshots(bytes_of(folder, name, LARGEST))
    yield Finding(Level.OK, "format", f"list of {len(found.snapshots)} snapshots")
    for problem in found.problems:
        yield Finding(Level.WARNING, "snapshots", problem)
    there = set(folder.names())
    for each in found.snapshots:
        for _, file in each.disks:
            present = file in there
            text = f"{each.name!r}: {file!r} is {'here' if present else 'missing'}"
            yield Finding(Level.OK if present else Level.BAD, "snapshots", text)


def _log(folder: Folder, name: str) -> Iterator[Finding]:
    found = settings_of(bytes_of(folder, name, _MOST_LOG))
    if found is None:
        yield Finding(Level.WARNING, "settings", "no machine's settings are in it")
    else:
        level = Level.OK if found.complete else Level.WARNING
        cut = "" if found.complete else "; the log ends within them"
        yield Finding(level, "settings", f"{found.settings} of {found.vmx.get('displayName') or 'a machine'!r}{cut}")


def _nvram(folder: Folder, name: str) -> Iterator[Finding]:
    found = read_nvram(bytes_of(folder, name, LARGEST * 4))
    level = Level.OK if found.whole else Level.BAD
    keys = ", secure boot's keys among them" if found.secure_boot_keys else ""
    text = f"firmware state of {found.firmware.upper()}, {len(found.variables)} variables{keys}"
    yield Finding(level, "format", text if found.whole else f"{text}: the rest is damaged")
