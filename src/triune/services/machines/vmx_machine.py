"""A VMX as a machine: every line is either carried over, or told with the reason why not.

Source of the keys: VMX files that ESXi 5 to 8, Workstation and Fusion wrote; keys are compared without regard to case,
as VMware does. What a value says is a stranger's word: numbers are bounded, texts are one line, and names of files are
only ever looked for among the files beside the VMX.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol
from uuid import UUID

from triune.domain.errors import Invalid, Unsupported
from triune.domain.machine import Described, Firmware, LeftOut, Machine, MachineCard, MachineDisk
from triune.domain.names import single_line
from triune.services.machines.vmx_reasons import reason

_BUSES = {"scsi": (4, 16), "nvme": (4, 15), "sata": (4, 30), "ide": (2, 2)}
_CARDS = 10
_SERIALS = 4
_MIB = 1 << 20
_MODELS = {"vmxnet3": "vmxnet3", "e1000": "e1000", "e1000e": "e1000e", "vlance": "pcnet", "vmxnet": "pcnet",
           "flexible": "pcnet", "": "e1000"}  # fmt: skip
_CONTROLLERS = {"pvscsi": "pvscsi", "lsisas1068": "lsisas1068", "lsilogic": "lsilogic", "buslogic": "buslogic",
                "": "lsilogic"}  # fmt: skip
_CD = re.compile(r"cdrom|atapi")
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}", re.ASCII)
_ABSENT = "the device is not there"
_LONGEST = 8192


class Lines(Protocol):
    """A VMX that was taken apart: (key, value, number of the line), in order."""

    def items(self) -> Iterable[tuple[str, str, int]]: ...


@dataclass
class _Reader:
    """The lines by their keys in small letters; what was asked for counts as carried over."""

    lines: dict[str, tuple[str, str, int]]
    carried: set[str] = field(default_factory=set)
    reasons: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def peek(self, key: str) -> str:
        """A value, "" where there is none."""
        return self.lines.get(key, ("", "", 0))[1].strip()

    def take(self, key: str) -> str:
        """A value that is carried over."""
        if key in self.lines:
            self.carried.add(key)
        return self.peek(key)

    def truth(self, key: str, default: bool = False) -> bool:
        """A switch that is carried over."""
        value = self.take(key).lower()
        return value in ("true", "yes", "1", "on") if value else default

    def number(self, key: str, default: int, most: int) -> int:
        """A number that is carried over, where it makes sense."""
        text = self.peek(key)
        if text.isascii() and text.isdigit() and 1 <= int(text[:18]) <= most:
            self.carried.add(key)
            return int(text[:18])
        if text:
            self.reasons[key] = f"it is not a number from 1 to {most}; {default} is taken"
        return default

    def leave(self, key: str, why: str) -> None:
        """A line that is not carried over for a reason of its own."""
        self.reasons[key] = why

    def leave_all(self, prefix: str, why: str) -> None:
        """All lines of a device, unless they have a reason already."""
        for key in self.lines:
            if key.startswith(prefix):
                self.carried.discard(key)
                self.reasons.setdefault(key, why)

    def left_out(self) -> Iterator[LeftOut]:
        """Every line that was not carried over."""
        for key, (written, value, line) in self.lines.items():
            if key not in self.carried:
                yield LeftOut(line, written, value[:500], self.reasons.get(key) or reason(key))


def describe(vmx: Lines) -> Described:
    """The machine. Raises Unsupported("encrypted_machine"), Invalid("bad_vmx")."""
    lines: dict[str, tuple[str, str, int]] = {}
    twice: list[LeftOut] = []
    for key, value, line in vmx.items():
        if len(value) > _LONGEST:
            twice.append(LeftOut(line, key[:200], value[:500], "it is longer than any value that makes sense"))
            continue
        single_line(key, f"line {line} of the VMX")
        single_line(value, f"the value of {key[:80]}")
        before = lines.get(key.lower())
        if before is not None:
            twice.append(LeftOut(before[2], before[0], before[1][:500], f"line {line} says it once more"))
        lines[key.lower()] = (key, value, line)
    if "encryption.data" in lines or "encryption.keysafe" in lines:
        raise Unsupported(
            "encrypted_machine",
            "the machine is encrypted: its VMX tells nothing",
            hint="Decrypt it with VMware's own program first, while its password is known.",
        )
    if not lines:
        raise Invalid("bad_vmx", "the VMX has no line that says anything", hint="Is it the right file?")
    reader = _Reader(lines)
    machine = _machine(reader)
    left = sorted([*twice, *reader.left_out()], key=lambda one: one.line)
    return Described(machine=machine, left_out=tuple(left), notes=tuple(reader.notes))


def _machine(reader: _Reader) -> Machine:
    guest = reader.take("guestos").lower()[:120]
    cpus = reader.number("numvcpus", 1, 4096)
    cores = reader.number("cpuid.corespersocket", 1, 4096)
    if cpus % cores:
        reader.carried.discard("cpuid.corespersocket")
        reader.leave("cpuid.corespersocket", f"{cpus} CPUs can't be sockets of {cores} cores; each is a socket")
        cores = 1
    if "memsize" not in reader.lines:
        reader.notes.append("the VMX does not say how much memory it has: 1 GiB is taken")
    firmware = reader.take("firmware").lower()
    efi = firmware == "efi"
    secure = reader.truth("uefi.secureboot.enabled") and efi
    return Machine(
        name=(reader.take("displayname") or "machine")[:120],
        guest=guest,
        firmware=Firmware.UEFI if efi else Firmware.BIOS,
        secure_boot=secure,
        cpus=cpus,
        cores=cores,
        memory=reader.number("memsize", 1024, 1 << 30) * _MIB,
        disks=tuple(_disks(reader)),
        cards=tuple(_cards(reader)),
        display=True,
        serials=_serials(reader),
        tpm=_tpm(reader),
        clock="localtime" if guest.startswith(("win", "longhorn")) else "utc",
        uuid=_uuid(reader),
    )


def _disks(reader: _Reader) -> list[MachineDisk]:
    found = []
    for bus, (controllers, units) in _BUSES.items():
        for number in range(controllers):
            own = f"{bus}{number}"
            there = bus == "ide" or reader.truth(f"{own}.present", default=True)
            model = _controller(reader, own) if bus == "scsi" and there else ""
            for unit in range(units):
                disk = _disk(reader, bus, f"{own}:{unit}", model) if there else None
                found += [disk] if disk else []
            if not there:
                reader.leave_all(f"{own}.", _ABSENT)
                reader.leave_all(f"{own}:", "its controller is not there")
    order = [word.strip().lower() for word in reader.take("bios.hddorder").split(",") if word.strip()]
    ranks = {slot: rank for rank, slot in reversed(list(enumerate(order)))}
    return sorted(found, key=lambda disk: ranks.get(disk.slot, len(order)))


def _controller(reader: _Reader, own: str) -> str:
    said = reader.take(f"{own}.virtualdev").lower()
    if said in _CONTROLLERS:
        return _CONTROLLERS[said]
    reader.carried.discard(f"{own}.virtualdev")
    reader.leave(f"{own}.virtualdev", "it is no SCSI controller that is known here; it is taken for LSI's")
    return "lsilogic"


def _disk(reader: _Reader, bus: str, slot: str, model: str) -> MachineDisk | None:
    file = reader.peek(f"{slot}.filename")
    if not file and f"{slot}.present" not in reader.lines:
        return None
    if not reader.truth(f"{slot}.present", default=True):
        reader.leave_all(f"{slot}.", _ABSENT)
        return None
    kind = reader.take(f"{slot}.devicetype").lower()
    if _CD.search(kind) or file.lower().endswith((".iso", ".flp")):
        reader.leave_all(f"{slot}.", "a CD drive is not carried over; an ISO can be imported: triune image import")
        return None
    if "passthru" in kind or not file:
        reader.leave_all(f"{slot}.", "it is a device of the old host, not a disk in a file")
        return None
    reader.take(f"{slot}.filename")
    mode = reader.peek(f"{slot}.mode").lower()
    if mode in ("persistent", "independent-persistent", "independent_persistent"):
        reader.take(f"{slot}.mode")
    elif mode:
        reader.leave(f"{slot}.mode", "what is written to the disk stays; there are no disks that forget here")
    return MachineDisk(slot=slot, file=file, bus=bus, controller=model)


def _cards(reader: _Reader) -> Iterator[MachineCard]:
    for number in range(_CARDS):
        own = f"ethernet{number}"
        if not any(key.startswith(f"{own}.") for key in reader.lines):
            continue
        if not reader.truth(f"{own}.present"):
            reader.leave_all(f"{own}.", _ABSENT)
            continue
        said = reader.take(f"{own}.virtualdev").lower()
        if said not in _MODELS:
            reader.carried.discard(f"{own}.virtualdev")
            reader.leave(f"{own}.virtualdev", "it is no card that is known here; it is an e1000")
        name = reader.take(f"{own}.networkname") or reader.take(f"{own}.connectiontype") or "bridged"
        yield MachineCard(slot=own, mac=_mac(reader, own), model=_MODELS.get(said, "e1000"), network=name[:200])


def _mac(reader: _Reader, own: str) -> str:
    key = f"{own}.address" if reader.take(f"{own}.addresstype").lower() == "static" else f"{own}.generatedaddress"
    if key not in reader.lines:
        key = f"{own}.address"
    mac = reader.peek(key).lower()
    if _MAC.fullmatch(mac) and not int(mac[:2], 16) & 1:
        reader.take(key)
        return mac
    if mac:
        reader.leave(key, "it is no MAC address of a card; a new one is made")
    reader.notes.append(f"{own} gets a new MAC address: the VMX has none for it")
    return ""


def _serials(reader: _Reader) -> int:
    count = 0
    for number in range(_SERIALS):
        own = f"serial{number}"
        if reader.truth(f"{own}.present"):
            count += 1
        else:
            reader.leave_all(f"{own}.", _ABSENT)
    return count


def _tpm(reader: _Reader) -> bool:
    there = reader.truth("vtpm.present")
    # Workstation's and Fusion's way without encryption has one value: software.
    return reader.take("managedvm.autoaddvtpm").lower() in ("software", "true") or there


def _uuid(reader: _Reader) -> str:
    digits = re.sub(r"[\s-]", "", reader.peek("uuid.bios")).lower()
    if re.fullmatch(r"[0-9a-f]{32}", digits) and int(digits, 16):
        reader.take("uuid.bios")
        return str(UUID(digits))
    return ""
