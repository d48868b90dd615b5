"""An OVF envelope as a machine. Source of the format: DSP0243 (DMTF), and what ESXi, vCenter and VirtualBox write.

The XML is a stranger's: a document type or an entity ends the reading, depth and size are bounded, and the elements are
compared by their local names, as the programs that write them differ in their name spaces.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from xml.parsers import expat

from triune.domain.errors import Invalid, Unsupported
from triune.domain.machine import Described, Firmware, LeftOut, Machine, MachineCard, MachineDisk
from triune.domain.names import single_line

LARGEST = 8 << 20
_DEEPEST = 64
_MOST_ELEMENTS = 1 << 17
_MOST_DISKS, _MOST_CARDS = 64, 16
_CPU, _MEMORY, _IDE, _SCSI, _CARD, _DISK, _SATA, _SERIAL = "3", "4", "5", "6", "10", "17", "20", "21"
_BUSES = {_IDE: "ide", _SCSI: "scsi", _SATA: "sata"}
_MODELS = {"vmxnet3": "vmxnet3", "e1000": "e1000", "e1000e": "e1000e", "pcnet32": "pcnet", "virtio": "virtio"}
_CONTROLLERS = {"lsilogic": "lsilogic", "lsilogicsas": "lsisas1068", "virtualscsi": "pvscsi", "buslogic": "buslogic",
                "virtio": "virtio"}  # fmt: skip
_UNIT = re.compile(r"byte\s*\*\s*2\s*\^\s*(\d{1,2})")
_OTHER = {"14": "a floppy drive", "15": "a CD drive", "16": "a DVD drive", "23": "a USB controller", "24": "a display",
          "1": "another device", "35": "a sound card"}  # fmt: skip
_REPORTED = ("AnnotationSection", "ProductSection", "EulaSection", "ResourceAllocationSection", "StartupSection",
             "DeploymentOptionSection", "Config", "ExtraConfig", "Machine", "BootOrderSection")  # fmt: skip


@dataclass
class Element:
    """One element: its local name, its attributes by local name, its line."""

    name: str
    attributes: dict[str, str]
    line: int
    children: list[Element] = field(default_factory=list)
    text: str = ""

    def all(self, name: str) -> Iterator[Element]:
        """Every element of that name below."""
        for child in self.children:
            if child.name == name:
                yield child
            yield from child.all(name)

    def child(self, name: str) -> str:
        """The text of a child, "" where there is none."""
        return next((child.text.strip() for child in self.children if child.name == name), "")


class _Builder:
    def __init__(self) -> None:
        self.top: Element | None = None
        self._open: list[Element] = []
        self._count = 0
        self.parser = expat.ParserCreate(namespace_separator="}")
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self._text
        self.parser.StartDoctypeDeclHandler = self._refuse
        self.parser.EntityDeclHandler = self._refuse

    @staticmethod
    def _refuse(*_: object) -> None:
        raise Invalid("bad_ovf", "the OVF declares a document type: no OVF needs one", hint="Is it the right file?")

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self._count += 1
        if len(self._open) >= _DEEPEST or self._count > _MOST_ELEMENTS:
            raise Invalid("bad_ovf", "the OVF has too many or too deep elements", hint="Is it the right file?")
        own = {key.rpartition("}")[2]: value for key, value in attributes.items()}
        element = Element(name.rpartition("}")[2], own, self.parser.CurrentLineNumber)
        if self._open:
            self._open[-1].children.append(element)
        else:
            self.top = element
        self._open.append(element)

    def _end(self, _: str) -> None:
        self._open.pop()

    def _text(self, data: str) -> None:
        self._open[-1].text += data


def parse(data: bytes) -> Element:
    """The tree. Raises Invalid("bad_ovf")."""
    builder = _Builder()
    try:
        builder.parser.Parse(data, True)
    except expat.ExpatError as error:
        raise Invalid("bad_ovf", f"the OVF is no XML: {error}", hint="Is it the right file?") from None
    if builder.top is None or builder.top.name != "Envelope":
        raise Invalid("bad_ovf", "the file is no OVF envelope", hint="Is it the right file?")
    return builder.top


def describe(data: bytes) -> Described:
    """The machine. Raises Invalid("bad_ovf"), Unsupported for what it can't be made of."""
    top = parse(data)
    systems = list(top.all("VirtualSystem"))
    if len(systems) != 1:
        raise Unsupported(
            "not_one_machine",
            f"the OVF describes {len(systems)} machines",
            hint="Import each from an OVF of its own.",
        )
    return _Reader(top, systems[0]).described()


class _Reader:
    def __init__(self, top: Element, system: Element) -> None:
        self._system = system
        self._files = {one.attributes.get("id", ""): one for one in top.all("File")}
        self._disks = {one.attributes.get("diskId", ""): one for one in top.all("Disk")}
        self._left: list[LeftOut] = []
        self._notes: list[str] = []
        hardware = next(iter(system.all("VirtualHardwareSection")), None)
        if hardware is None:
            raise Invalid("bad_ovf", "the OVF tells nothing of the machine's hardware", hint="Export it again.")
        self._items = [one for one in hardware.children if one.name in ("Item", "StorageItem", "EthernetPortItem")]
        self._controllers = {one.child("InstanceID"): one for one in self._items if one.child("ResourceType") in _BUSES}
        self._config = {
            one.attributes.get("key", ""): one.attributes.get("value", "")
            for one in [*hardware.all("Config"), *hardware.all("ExtraConfig")]
        }

    def described(self) -> Described:
        """The whole."""
        efi = self._config.get("firmware", "").lower() == "efi"
        cpus, cores = self._cpus()
        machine = Machine(
            name=_plain(self._system.child("Name") or self._system.attributes.get("id", ""))[:120] or "machine",
            guest=self._guest(),
            firmware=Firmware.UEFI if efi else Firmware.BIOS,
            secure_boot=efi and self._config.get("bootOptions.efiSecureBootEnabled", "").lower() == "true",
            cpus=cpus,
            cores=cores,
            memory=self._memory(),
            disks=tuple(self._found_disks()),
            cards=tuple(self._cards()),
            tpm=any(_is_tpm(one) for one in self._items),
            serials=sum(one.child("ResourceType") == _SERIAL for one in self._items),
            clock="localtime" if self._guest().startswith("win") else "utc",
        )
        self._report()
        return Described(machine=machine, left_out=tuple(self._left), notes=tuple(self._notes))

    def _guest(self) -> str:
        section = next(iter(self._system.all("OperatingSystemSection")), None)
        if section is None:
            return ""
        said = section.attributes.get("osType") or section.child("Description") or section.child("OSType")
        return _plain(said).lower().removesuffix("guest").replace("64", "-64").replace("_", "")[:120]

    def _of(self, kind: str) -> list[Element]:
        return [one for one in self._items if one.child("ResourceType") == kind]

    def _cpus(self) -> tuple[int, int]:
        item = next(iter(self._of(_CPU)), None)
        cpus = _number(item.child("VirtualQuantity"), 1, 4096) if item else 1
        cores = _number(item.child("CoresPerSocket"), 1, 4096) if item else 1
        return cpus, cores if cpus % cores == 0 else 1

    def _memory(self) -> int:
        item = next(iter(self._of(_MEMORY)), None)
        if item is None:
            self._notes.append("the OVF does not say how much memory it has: 1 GiB is taken")
            return 1 << 30
        unit = _scale(item.child("AllocationUnits") or "byte * 2^20")
        return max(1 << 20, min(_number(item.child("VirtualQuantity"), 1024, 1 << 50) * unit, 1 << 50))

    def _found_disks(self) -> Iterator[MachineDisk]:
        items = sorted(self._of(_DISK), key=self._place)
        if len(items) > _MOST_DISKS:
            raise Invalid("bad_ovf", f"the OVF names {len(items)} disks", hint="Is it the right file?")
        for item in items:
            controller = self._controllers.get(item.child("Parent"))
            kind = controller.child("ResourceType") if controller else ""
            bus = _BUSES.get(kind, "sata")
            number = list(self._controllers).index(item.child("Parent")) if controller else 0
            slot = f"{bus}{number}:{_number(item.child('AddressOnParent'), 0, 1000)}"
            file = self._file(item)
            if file is None:
                self._leave(item, "it names no disk's file")
                continue
            model = controller.child("ResourceSubType").lower() if controller is not None and bus == "scsi" else ""
            chosen = _CONTROLLERS.get(model, "lsilogic") if bus == "scsi" else ""
            yield MachineDisk(slot=slot, file=file, bus=bus, controller=chosen)

    def _place(self, item: Element) -> tuple[int, int]:
        parents = list(self._controllers)
        parent = item.child("Parent")
        return parents.index(parent) if parent in parents else 99, _number(item.child("AddressOnParent"), 0, 1000)

    def _file(self, item: Element) -> str | None:
        disk = self._disks.get(item.child("HostResource").rpartition("/")[2])
        if disk is None:
            return None
        file = self._files.get(disk.attributes.get("fileRef", ""))
        if file is None or disk.attributes.get("parentRef"):
            return None
        if file.attributes.get("compression", "identity") not in ("", "identity") or file.attributes.get("chunkSize"):
            raise Unsupported(
                "packed_disk",
                f"{_plain(file.attributes.get('href', ''))[:200]} is packed or in pieces, as OVF allows",
                hint="Export it again without compression; a streamOptimized VMDK is small by itself.",
            )
        return single_line(file.attributes.get("href", ""), "the name of a disk's file")

    def _cards(self) -> Iterator[MachineCard]:
        for number, item in enumerate(self._of(_CARD)[:_MOST_CARDS]):
            model = _MODELS.get(item.child("ResourceSubType").split(" ")[0].lower(), "e1000")
            mac = item.child("Address").lower()
            good = re.fullmatch(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}", mac) and not int(mac[:2], 16) & 1
            network = _plain(item.child("Connection"))[:200] or "unknown"
            yield MachineCard(slot=f"ethernet{number}", mac=mac if good else "", model=model, network=network)

    def _report(self) -> None:
        known = {_CPU, _MEMORY, _CARD, _DISK, _SERIAL, *_BUSES}
        for item in self._items:
            kind = item.child("ResourceType")
            if kind not in known and not _is_tpm(item):
                self._leave(item, f"{_OTHER.get(kind, 'a device of its kind')} is not carried over")
        carried = {"firmware", "bootOptions.efiSecureBootEnabled"}
        for name in _REPORTED:
            for element in self._system.all(name):
                if element.attributes.get("key") not in carried:
                    key = _plain(element.attributes.get("key") or name)
                    value = _plain(element.attributes.get("value", ""))[:500]
                    self._left.append(LeftOut(element.line, key, value, "nothing here is like it"))
        self._left.sort(key=lambda one: one.line)

    def _leave(self, item: Element, why: str) -> None:
        self._left.append(LeftOut(item.line, _plain(item.child("ElementName"))[:200] or item.name, "", why))


def _is_tpm(item: Element) -> bool:
    """VMware's placeholder: "Virtual TPM", of the kind "other"."""
    return item.child("ResourceSubType").lower() == "vmware.vtpm"


def _number(text: str, default: int, most: int) -> int:
    good = text.isascii() and text.isdigit() and 0 <= int(text[:18]) <= most
    return (int(text[:18]) or default) if good else default


def _scale(text: str) -> int:
    match = _UNIT.fullmatch(text.strip().lower())
    if match:
        return 1 << min(50, int(match[1]))
    return {"megabytes": 1 << 20, "gigabytes": 1 << 30, "kilobytes": 1 << 10, "byte": 1}.get(
        text.strip().lower(), 1 << 20
    )


def _plain(text: str) -> str:
    return "".join(char for char in text if char.isprintable())
