"""A machine that was made elsewhere as libvirt's domain XML: pure. Format: libvirt.org/formatdomain.html.

Its devices keep the kinds that its system has drivers for, as QEMU has them: VMware's own SCSI and network cards, LSI's
SAS, AHCI, IDE.
"""

from __future__ import annotations

import uuid
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from triune.domain.errors import Invalid, Unsupported
from triune.domain.machine import CARD_MODELS, CONTROLLERS, DISK_BUSES, Firmware, Machine, MachineCard, MachineDisk
from triune.domain.names import instance_name, single_line
from triune.domain.network import Nic
from triune.engines.importing import MachinePlan
from triune.engines.kvm import mark as marks
from triune.engines.kvm import spec
from triune.engines.kvm.spec import Files, HostFacts, leaf

_PREFIX = {"virtio": "vd", "sata": "sd", "scsi": "sd", "ide": "hd"}
_MOST = {"virtio": 24, "sata": 24, "scsi": 24, "ide": 4}
# libvirt's word for the model, and how many disks one controller takes
_MODELS = {"virtio": ("virtio-scsi", 16), "pvscsi": ("vmpvscsi", 16), "lsisas1068": ("lsisas1068", 7),
           "lsilogic": ("lsilogic", 7)}  # fmt: skip
_SATA_PORTS = 6
_MOST_SERIALS = 4
_TB_CACHE_MIB = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """A disk in its place: the name libvirt knows it by, and its address on the bus ("" where it has none)."""

    disk: MachineDisk
    target: str
    address: tuple[int, int, int] | None = None


def check(plan: MachinePlan, host: HostFacts) -> None:
    """Raise Invalid or Unsupported for what can't be made here."""
    machine, name = plan.machine, instance_name(plan.spec.name)
    if not machine.disks:
        raise Invalid("no_disk", f"{name!r} has no disk", hint="Import a machine that has one.")
    for text in (machine.name, machine.guest, *(disk.slot + disk.file for disk in machine.disks)):
        single_line(text, "the machine's description")
    for nic in plan.nics:
        if nic is not None:
            single_line(nic.mac + nic.address + nic.network.name + nic.network.bridge, "a network card")
    spec.check_memory(name, machine.memory, host)
    spec.check_cpus(name, machine.cpus, host)
    _check_topology(machine)
    for disk in machine.disks:
        if disk.bus not in DISK_BUSES or (disk.bus == "scsi" and disk.controller not in CONTROLLERS):
            raise Unsupported(
                "no_such_bus",
                f"the disk {disk.slot} can't be on {disk.bus} {disk.controller}".rstrip(),
                hint=f"Choose one: --bus {'|'.join(DISK_BUSES)}",
            )
    for card in machine.cards:
        if card.model not in CARD_MODELS:
            raise Unsupported("no_such_card", f"{card.model!r} is no network card", hint=f"Use {CARD_MODELS[0]}.")
    _check_counts(machine)


def _check_topology(machine: Machine) -> None:
    if machine.cores < 1 or machine.cpus % machine.cores:
        raise Invalid(
            "bad_topology",
            f"{machine.cpus} CPUs can't be sockets of {machine.cores} cores",
            hint="Give a number of CPUs that the cores divide: --cpus",
        )


def _check_counts(machine: Machine) -> None:
    for bus, most in _MOST.items():
        if sum(disk.bus == bus for disk in machine.disks) > most:
            raise Unsupported("too_many_disks", f"{bus} takes at most {most} disks", hint="Use another: --bus")
    if machine.secure_boot and any(disk.bus == "ide" for disk in machine.disks):
        raise Unsupported(
            "no_secure_boot",
            "a board with IDE has no secure boot",
            hint="Choose another bus (--bus sata), or: --no-secure-boot",
        )


def place(disks: Sequence[MachineDisk]) -> list[Placed]:
    """Give every disk its name and address, in the order they boot."""
    placed: list[Placed] = []
    names: dict[str, int] = {}
    counts: dict[str, int] = {}
    controllers = _controllers(disks)
    for disk in disks:
        prefix = _PREFIX[disk.bus]
        target = f"{prefix}{chr(ord('a') + names.setdefault(prefix, 0))}"
        names[prefix] += 1
        kind = f"{disk.bus} {disk.controller}" if disk.bus == "scsi" else disk.bus
        number = counts.setdefault(kind, 0)
        counts[kind] += 1
        placed.append(Placed(disk=disk, target=target, address=_address(disk, number, controllers)))
    return placed


def _controllers(disks: Sequence[MachineDisk]) -> list[str]:
    """The models of all SCSI controllers, by their index."""
    found: list[str] = []
    for model in dict.fromkeys(disk.controller for disk in disks if disk.bus == "scsi"):
        count = sum(disk.bus == "scsi" and disk.controller == model for disk in disks)
        found += [model] * -(-count // _MODELS[model][1])
    return found


def _address(disk: MachineDisk, number: int, controllers: Sequence[str]) -> tuple[int, int, int] | None:
    """(controller, target or bus, unit)."""
    if disk.bus == "sata":
        return number // _SATA_PORTS, 0, number % _SATA_PORTS
    if disk.bus == "ide":
        return 0, number // 2, number % 2
    if disk.bus == "scsi":
        most = _MODELS[disk.controller][1]
        index, place = controllers.index(disk.controller) + number // most, number % most
        # Of the plain LSI card libvirt counts units; of the others a target has one unit.
        return (index, 0, place) if disk.controller == "lsilogic" else (index, place, 0)
    return None


def disk_path(files: Files, number: int) -> Path:
    """Where a disk's file is, by the order of the disks."""
    return files.disk if number == 0 else files.folder / f"disk-{number}.qcow2"


def build(plan: MachinePlan, files: Files, host: HostFacts, identity: uuid.UUID, *, tpm: bool) -> str:
    """The domain's XML. `tpm`: this host can emulate one."""
    machine = plan.machine
    root = ET.Element("domain", {"type": "kvm" if host.accelerated else "qemu"})
    leaf(root, "name", plan.spec.name)
    leaf(root, "uuid", str(identity))
    ET.SubElement(root, "metadata").append(marks.write(_mark(plan)))
    leaf(root, "memory", str(machine.memory // 1024), unit="KiB")
    leaf(root, "vcpu", str(machine.cpus))
    _os(root, machine, files)
    features = ET.SubElement(root, "features")
    leaf(features, "acpi", None)
    leaf(features, "apic", None)
    if machine.secure_boot:
        leaf(features, "smm", None, state="on")
    if not host.accelerated:
        leaf(ET.SubElement(features, "tcg"), "tb-cache", str(_TB_CACHE_MIB), unit="MiB")
    cpu = spec.cpu(root, None, host)
    sockets = machine.cpus // machine.cores
    leaf(cpu, "topology", None, sockets=str(sockets), cores=str(machine.cores), threads="1")
    leaf(root, "clock", None, offset=machine.clock)
    for event, action in (("poweroff", "destroy"), ("reboot", "restart"), ("crash", "destroy")):
        leaf(root, f"on_{event}", action)
    devices = ET.SubElement(root, "devices")
    leaf(devices, "emulator", host.emulator)
    _disks(devices, machine, files)
    for card, nic in zip(machine.cards, plan.nics, strict=True):
        if nic is not None:
            _card(devices, card, nic)
    _around(devices, machine, files, tpm=tpm and machine.tpm)
    ET.indent(root)
    return ET.tostring(root, encoding="unicode")


def _mark(plan: MachinePlan) -> marks.Mark:
    plugged = [nic for nic in plan.nics if nic is not None]
    return marks.Mark(
        image=plan.spec.image,
        created=plan.created,
        addresses=tuple((nic.mac, nic.network.name, nic.address) for nic in plugged),
        settings=plan.spec.settings,
    )


def _os(root: ET.Element, machine: Machine, files: Files) -> None:
    uefi = machine.firmware is Firmware.UEFI
    boot = ET.SubElement(root, "os", {"firmware": "efi"} if uefi else {})
    # Only the older board has IDE.
    board = "pc" if any(disk.bus == "ide" for disk in machine.disks) else "q35"
    leaf(boot, "type", "hvm", arch="x86_64", machine=board)
    if uefi:
        firmware = ET.SubElement(boot, "firmware")
        secure = "yes" if machine.secure_boot else "no"
        if machine.secure_boot:
            leaf(firmware, "feature", None, enabled="yes", name="enrolled-keys")
        leaf(firmware, "feature", None, enabled=secure, name="secure-boot")
        leaf(boot, "nvram", str(files.nvram))


def _disks(devices: ET.Element, machine: Machine, files: Files) -> None:
    for number, placed in enumerate(place(machine.disks)):
        disk = ET.SubElement(devices, "disk", {"type": "file", "device": "disk"})
        leaf(disk, "driver", None, name="qemu", type="qcow2", discard="unmap")
        leaf(disk, "source", None, file=str(disk_path(files, number)))
        leaf(disk, "backingStore", None)
        leaf(disk, "target", None, dev=placed.target, bus=placed.disk.bus)
        leaf(disk, "boot", None, order=str(number + 1))
        if placed.address is not None:
            controller, second, unit = (str(part) for part in placed.address)
            middle = (
                {"bus": second, "target": "0"} if placed.disk.bus in ("ide", "sata") else {"bus": "0", "target": second}
            )
            leaf(disk, "address", None, type="drive", controller=controller, unit=unit, **middle)
    for index, model in enumerate(_controllers(machine.disks)):
        leaf(devices, "controller", None, type="scsi", index=str(index), model=_MODELS[model][0])
    for index in range(-(-sum(disk.bus == "sata" for disk in machine.disks) // _SATA_PORTS)):
        leaf(devices, "controller", None, type="sata", index=str(index))


def _card(devices: ET.Element, card: MachineCard, nic: Nic) -> None:
    interface = ET.SubElement(devices, "interface", {"type": "bridge"})
    leaf(interface, "mac", None, address=nic.mac)
    leaf(interface, "source", None, bridge=nic.network.bridge)
    leaf(interface, "model", None, type=card.model)
    leaf(interface, "rom", None, enabled="no")


def _around(devices: ET.Element, machine: Machine, files: Files, *, tpm: bool) -> None:
    """What is beside disks and cards."""
    for port in range(max(1, min(machine.serials, _MOST_SERIALS))):
        serial = ET.SubElement(devices, "serial", {"type": "pty"})
        if port == 0:
            leaf(serial, "log", None, file=str(files.serial_log), append="on")
        leaf(serial, "target", None, type="isa-serial", port=str(port))
    console = ET.SubElement(devices, "console", {"type": "pty"})
    leaf(console, "target", None, type="serial", port="0")
    for name in (spec.AGENT_PORT, *(f"{spec.EXEC_PORT}{number}" for number in range(spec.EXEC_PORTS))):
        channel = ET.SubElement(devices, "channel", {"type": "unix"})
        leaf(channel, "target", None, type="virtio", name=name)
    leaf(devices, "controller", None, type="usb", model="qemu-xhci")
    if machine.display:
        graphics = ET.SubElement(devices, "graphics", {"type": "vnc", "port": "-1", "autoport": "yes"})
        leaf(graphics, "listen", None, type="address", address="127.0.0.1")
        leaf(ET.SubElement(devices, "video"), "model", None, type="vga")
        leaf(devices, "input", None, type="tablet", bus="usb")
    else:
        leaf(ET.SubElement(devices, "video"), "model", None, type="none")
    if tpm:
        device = ET.SubElement(devices, "tpm", {"model": "tpm-crb"})
        leaf(device, "backend", None, type="emulator", version="2.0")
    rng = ET.SubElement(devices, "rng", {"model": "virtio"})
    leaf(rng, "backend", "/dev/urandom", model="random")
    balloon = ET.SubElement(devices, "memballoon", {"model": "virtio"})
    leaf(balloon, "stats", None, period="10")
