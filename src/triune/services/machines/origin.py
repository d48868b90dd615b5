"""Where a machine comes from: its description among its files, and the disks that it names."""

from __future__ import annotations

import contextlib
import difflib
import stat
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from triune.disks import vmdk_disk, vmware_log
from triune.disks.content import Content, Lost, read
from triune.disks.partitions import read_partitions
from triune.disks.stream import ContentSource
from triune.disks.vmdk_descriptor import FLAT_KINDS
from triune.disks.vmdk_disk import Folder
from triune.disks.vmx import LARGEST, Vmx
from triune.domain.errors import Failed, Invalid, NotFound, TriuneError
from triune.domain.machine import Described, Firmware, LeftOut, Machine, MachineCard, MachineDisk
from triune.services.machines import ova, ovf, vmx_machine
from triune.services.rescue.folders import HostFolder, on_host

_BEGINNINGS = {".vmx": "vmx", ".vmtx": "vmx", ".ovf": "ovf", ".vmdk": "disk", ".log": "log"}
ACCEPTED = "Name a .vmx, .vmtx, .ovf, .ova or .vmdk file, or a vmware.log where the VMX is lost"
_OTHER = "Disks of other kinds (qcow2, raw) become images: triune image import FILE --name FAMILY/VERSION"
_LONGEST_SHOWN = 500
_RIGHT = {
    "bad_vmx": 'Is it the right file? A VMX has lines like memsize = "512"; a vmware.log beside it tells the same.',
    "bad_ovf": "Is it the right file? An OVF is XML; it may be cut off: fetch or export it again.",
}
_MOST_MISSING = 1000
_NEAREST = 3
_ESP, _BIOS_BOOT = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b", "21686148-6449-6e6f-744e-656564454649"
_BOOT_CODE = 440  # bytes of a master boot record


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """A description, and the content of each disk by its slot. `notes` tell what is wrong with them."""

    described: Described
    disks: Mapping[str, Content]
    name: str
    notes: tuple[str, ...] = ()


@contextlib.contextmanager
def open_file(path: Path, skip: Collection[str] = ()) -> Iterator[Origin]:
    """A .vmx, .ovf, .ova or .vmdk of this host. Raises NotFound, Invalid, Unsupported."""
    path = path.absolute()
    _require_file(path)
    if path.suffix.lower() == ".ova":
        with ova.Archive(path) as archive:
            yield read_origin(archive, archive.description, skip)
        return
    folder, name = on_host(path)
    with folder:
        if path.suffix.lower() == ".ovf":
            ova.verify(folder, name)
        yield read_origin(folder, name, skip)


def _require_file(path: Path) -> None:
    """Refuse what is no file with words that help. Raises NotFound, Invalid, Failed."""
    try:
        found = path.stat()
    except FileNotFoundError:
        near = _near(path.parent, path.name)
        told = f"Did you mean {near[0]}? {ACCEPTED}." if near else f"{ACCEPTED}."
        raise NotFound("no_source", f"there is no {path}", hint=told) from None
    except OSError as error:
        raise Failed(
            "source_refused", f"{path}: {error.strerror}", hint="Check the path and who may read it."
        ) from None
    if stat.S_ISDIR(found.st_mode):
        inside = _near(path)
        told = f"Name the machine's file in it: {', '.join(inside)}." if inside else f"{ACCEPTED}."
        raise Invalid("no_description", f"{path} is a folder", hint=told)
    if not (stat.S_ISREG(found.st_mode) or stat.S_ISBLK(found.st_mode)):
        raise Invalid("no_description", f"{path} is no file", hint=f"{ACCEPTED}.")
    if stat.S_ISREG(found.st_mode) and not found.st_size:
        raise Invalid("no_description", f"{path} is empty", hint="Fetch or export it again.")


def _near(folder: Path, name: str = "") -> list[str]:
    """Paths of machines' files in a folder: what describes one before mere disks, those like `name` if one is given."""
    try:
        there = sorted(
            one.name for one in folder.iterdir() if one.suffix.lower() in (*_BEGINNINGS, ".ova") and one.is_file()
        )
    except OSError:
        return []
    there.sort(key=lambda one: (one.lower().endswith((".vmdk", ".log")), one))
    chosen = difflib.get_close_matches(name, there, 1) if name else there[:_NEAREST]
    return [str(folder / one) for one in chosen]


def read_origin(folder: Folder, name: str, skip: Collection[str] = ()) -> Origin:
    """The machine that a file of a folder describes; the disks in the slots `skip` are not looked for.

    Raises NotFound, Invalid, Unsupported.
    """
    try:
        described = _described(folder, name)
    except Invalid as error:
        if error.code not in _RIGHT:
            raise
        raise Invalid(error.code, f"{name}: {error.message}", hint=_RIGHT[error.code], **error.details) from None
    return with_disks(described, folder, name, skip)


def _described(folder: Folder, name: str) -> Described:
    kind = _BEGINNINGS.get(Path(name).suffix.lower())
    if kind == "disk":
        return _of_disk(name)
    if kind == "vmx":
        return _of_vmx(Vmx.parse(_whole(folder, name, LARGEST)))
    if kind == "log":
        return _of_log(_whole(folder, name, vmware_log.LARGEST), name)
    if kind == "ovf":
        return ovf.describe(_whole(folder, name, ovf.LARGEST))
    raise Invalid("no_description", f"{name or '/'} is no description of a machine", hint=f"{ACCEPTED}. {_OTHER}")


def _of_vmx(vmx: Vmx) -> Described:
    """What its lines say; those that say nothing are told with the rest that is left out."""
    described = vmx_machine.describe(vmx)
    unread = [LeftOut(line, "", text[:_LONGEST_SHOWN], "the line can't be read") for line, text in vmx.unread_lines()]
    return replace(described, left_out=tuple(sorted((*described.left_out, *unread), key=lambda one: one.line)))


def _of_log(log: bytes, name: str) -> Described:
    """The settings that VMware wrote to its log at the last start."""
    logged = vmware_log.settings_of(log)
    if logged is None:
        raise Invalid(
            "no_description",
            f"{name} does not tell a machine's settings",
            hint="An older one may: vmware-1.log, vmware-2.log, …",
        )
    described = vmx_machine.describe(logged.vmx)
    note = f"its VMX is rebuilt from {name}: what was changed while it ran is not there"
    cut = () if logged.complete else (f"{name} ends within the settings: some are missing",)
    return replace(described, notes=(note, *cut, *described.notes))


def _of_disk(name: str) -> Described:
    """A disk alone says nothing of its machine."""
    machine = Machine(
        name=Path(name).stem,
        memory=1 << 30,
        disks=(MachineDisk(slot="disk0", file=name, bus="sata"),),
        cards=(MachineCard(slot="ethernet0", model="e1000", network="unknown"),),
    )
    note = "a disk alone does not say what its machine was: 1 CPU and 1 GiB are taken (--cpus, --memory, --firmware)"
    return Described(machine=machine, notes=(note,))


def with_disks(described: Described, folder: Folder, name: str, skip: Collection[str] = ()) -> Origin:
    """Open every disk of a description but those in the slots `skip`. Raises NotFound("disk_missing"), Invalid."""
    disks: dict[str, Content] = {}
    notes: list[str] = []
    sized = []
    for disk in described.machine.disks:
        if disk.slot in skip:
            sized.append(disk)
            continue
        content = _open(folder, disk, alone=disk.file == name)
        disks[disk.slot] = content
        sized.append(replace(disk, size=content.size))
        notes += [f"{disk.slot}: {sentence}" for sentence in content.damages()]
        if len(content.chain) > 1:
            notes.append(f"{disk.slot} is a snapshot: the {len(content.chain)} disks of its chain are made one")
    machine = replace(described.machine, disks=tuple(sized))
    if Path(name).suffix.lower() == ".vmdk" and any(_wants_uefi(content) for content in disks.values()):
        machine = replace(machine, firmware=Firmware.UEFI)
    return Origin(described=replace(described, machine=machine), disks=disks, name=name, notes=tuple(notes))


def _wants_uefi(content: Content) -> bool:
    """Whether a disk has a partition for UEFI, and nothing that a BIOS would start."""
    try:
        table = read_partitions(ContentSource(content, "disk"))
        code = read(content, 0, _BOOT_CODE)
    except TriuneError:
        return False
    codes = {partition.code.lower() for partition in table.partitions} if table and table.kind == "gpt" else set()
    return _ESP in codes and _BIOS_BOOT not in codes and not any(code)


def _open(folder: Folder, disk: MachineDisk, *, alone: bool) -> vmdk_disk.Disk:
    """By the name it has; what had an absolute path or one with `..` is looked for beside, by its last name."""
    last = disk.file.replace("\\", "/").rpartition("/")[2]
    tries: list[tuple[Folder, str]] = []
    if vmdk_disk.leads_inside(disk.file):
        tries.append((folder, disk.file))
    if (found := folder.beside(disk.file)) is not None:
        tries.append(found)
    if vmdk_disk.leads_inside(last):
        tries.append((folder, last))
    for where, name in tries:
        try:
            return vmdk_disk.open_disk(where, name)
        except NotFound:
            continue
        except Invalid as error:
            if error.code != "unknown_disk":
                raise
            others = f"Without it: --skip {disk.slot}. " if not alone else ""
            hint = f"Is it the right file? {others}{_OTHER}"
            raise Invalid(error.code, f"{disk.slot}: {error.message}", hint=hint) from None
    raise NotFound(
        "disk_missing",
        f"the disk {disk.slot} is {disk.file!r}, which is not in {folder.name}",
        hint=f"Put it there, or import without it: --skip {disk.slot}",
    )


def direct(content: Content) -> dict[str, str | int]:
    """`path` and `format` of the one file of this host that holds all of a disk, so that QEMU can read it alone; of a
    member of an archive `offset` and `length` too. Empty where it takes more to read it."""
    if not isinstance(content, vmdk_disk.Disk) or not isinstance(content.folder, (HostFolder, ova.Archive)):
        return {}
    if len(content.chain) != 1 or content.needs_parent or len(content.extents) != 1 or content.damages():
        return {}
    line, folder = content.extents[0][0], content.folder.path
    if line.kind == "SPARSE" and line.name == content.name and content.descriptor is not None:
        if isinstance(content.folder, ova.Archive):
            offset, length = content.folder.place(content.name)
            return {"path": str(folder), "format": "vmdk", "offset": offset, "length": length}
        return {"path": str(folder / content.name), "format": "vmdk"}
    if isinstance(content.folder, ova.Archive):
        return {}
    whole = line.kind in FLAT_KINDS and line.start == 0 and vmdk_disk.leads_inside(line.name)
    flat = folder / line.name
    if whole and not flat.is_symlink() and flat.is_file() and flat.stat().st_size == content.size:
        return {"path": str(flat), "format": "raw"}
    return {}


def missing(content: Content) -> list[tuple[int, int]]:
    """The first ranges of a disk that nobody knows, neighbours joined."""
    found: list[tuple[int, int]] = []
    for run in content.runs():
        if not run.missing:
            continue
        if found and sum(found[-1]) == run.offset:
            found[-1] = (found[-1][0], found[-1][1] + run.length)
        elif len(found) == _MOST_MISSING:
            break
        else:
            found.append((run.offset, run.length))
    return found


def require_whole(origin: Origin) -> None:
    """Raise Failed("disk_incomplete") where bytes of a disk are missing."""
    for slot, content in origin.disks.items():
        lost = missing(content)
        if lost:
            why = next((run.why for run in content.runs(lost[0][0]) if run.missing), "")
            raise Failed(
                "disk_incomplete",
                f"{slot} lacks {sum(length for _, length in lost)} bytes in {len(lost)} places, first at {lost[0][0]}: "
                f"{why}",
                hint="If zeros may take their place: --damaged",
                missing=lost,
            )


def _whole(folder: Folder, name: str, most: int) -> bytes:
    content = folder.open(name)
    if not content.size:
        raise Invalid("no_description", f"{name} is empty", hint="Fetch or export it again.")
    if content.size > most:
        raise Invalid("too_large", f"{name} has {content.size} bytes: that is no description", hint="Check the file.")
    try:
        return read(content, 0, content.size)
    except Lost as error:
        raise Failed(
            "description_damaged",
            f"{name} is damaged: {error.message}",
            hint="Name the vmware.log beside it instead: it tells the settings of the last start.",
        ) from None


def left_out(described: Described) -> list[dict[str, object]]:
    """Every line that was not carried over, for JSON."""
    return [_line(one) for one in described.left_out]


def _line(one: LeftOut) -> dict[str, object]:
    return {"line": one.line, "key": one.key, "value": one.value, "reason": one.reason}
