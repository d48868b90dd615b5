"""What becomes of a machine here: which buses and cards it gets, which networks it joins, and what to say of it.

A system boots only from a disk that its initial RAM disk has a driver for. So every device keeps its kind, which QEMU
has too (VMware's own SCSI and network cards, LSI's SAS, AHCI, IDE), unless the system is known to have drivers for
virtio, which is quicker.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from triune.domain.errors import Invalid
from triune.domain.machine import Described, Firmware, LeftOut, Machine, MachineCard, MachineDisk

_LINUX = (
    *(
        "debian",
        "ubuntu",
        "rhel",
        "redhat",
        "centos",
        "fedora",
        "sles",
        "suse",
        "opensuse",
        "oraclelinux",
        "rockylinux",
    ),
    *("almalinux", "amazonlinux", "vmware-photon", "photon", "coreos", "asianux", "mandriva", "mandrake", "linux"),
    *("otherlinux", "other24xlinux", "other26xlinux", "other3xlinux", "other4xlinux", "other5xlinux", "other6xlinux"),
)
NONE = "none"
_INJECTED = "virt-v2v puts drivers for virtio into its copy before it starts, and takes VMware's tools out"
_THERE = "its system has drivers for virtio: none are put into it"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What the user wants otherwise than the description says; None: as it says.

    `network` is for all cards, `networks` by the name that a network had; None in there: not plugged in. `skip` names
    slots of disks and cards that are left out. `inject`: put drivers for virtio into its copy.
    """

    bus: str | None = None
    card: str | None = None
    memory: int | None = None
    cpus: int | None = None
    firmware: Firmware | None = None
    secure_boot: bool | None = None
    tpm: bool | None = None
    display: bool | None = None
    network: str | None = ""
    networks: Mapping[str, str | None] = field(default_factory=dict)
    new_macs: bool = False
    skip: frozenset[str] = frozenset()
    inject: bool = False


def is_linux(guest: str) -> bool:
    """Whether the origin's word for the system means a Linux."""
    return guest.removesuffix("guest").startswith(_LINUX)


def is_windows(guest: str) -> bool:
    """Whether the origin's word for the system means a Windows."""
    return guest.startswith("win")


def lacks_drivers(wishes: Wishes, *, virtio: bool | None) -> bool:
    """Whether drivers for virtio are wanted, and not known to be there."""
    return wishes.inject and not virtio


def plan(described: Described, wishes: Wishes, *, virtio: bool | None) -> Described:
    """The machine as it is to be made here, and all that there is to say. `virtio`: whether its system has drivers for
    it; None: not known. Raises Invalid."""
    machine = described.machine
    notes = list(described.notes)
    slots = {disk.slot for disk in machine.disks} | {card.slot for card in machine.cards}
    if unknown := sorted(wishes.skip - slots):
        raise Invalid("no_such_slot", f"the machine has no {unknown[0]}", hint=f"It has: {', '.join(sorted(slots))}")
    if wishes.inject and wishes.bus not in (None, "virtio"):
        raise Invalid("bad_bus", f"drivers for virtio are of no use on {wishes.bus}", hint="Leave out one: --bus")
    quick = bool(virtio) or wishes.inject
    bus = wishes.bus or ("virtio" if quick else None)
    uefi = (wishes.firmware or machine.firmware) is Firmware.UEFI
    machine = replace(
        machine,
        memory=wishes.memory or machine.memory,
        firmware=wishes.firmware or machine.firmware,
        secure_boot=machine.secure_boot and uefi if wishes.secure_boot is None else wishes.secure_boot,
        tpm=machine.tpm if wishes.tpm is None else wishes.tpm,
        display=machine.display if wishes.display is None else wishes.display,
        disks=tuple(_disk(disk, bus, uefi, notes) for disk in machine.disks if disk.slot not in wishes.skip),
        cards=tuple(_card(card, wishes, notes, virtio=quick) for card in machine.cards if card.slot not in wishes.skip),
    )
    machine = _cpus(machine, wishes, notes)
    if machine.secure_boot and machine.firmware is not Firmware.UEFI:
        raise Invalid("no_secure_boot", "only UEFI knows secure boot", hint="Add: --firmware uefi")
    _say(machine, wishes, virtio, notes)
    left = (*described.left_out, *(LeftOut(0, slot, "", "left out as asked: --skip") for slot in sorted(wishes.skip)))
    return Described(machine=machine, left_out=left, notes=tuple(notes))


def _disk(disk: MachineDisk, bus: str | None, uefi: bool, notes: list[str]) -> MachineDisk:
    if bus is not None:
        kept = disk.controller if disk.controller in ("pvscsi", "lsisas1068") and not uefi else "virtio"
        return replace(disk, bus=bus, controller=kept if bus == "scsi" else "")
    if disk.bus == "scsi" and disk.controller in ("lsilogic", "buslogic"):
        # QEMU's LSI card is another one than VMware's: a system with a driver for AHCI is the likelier.
        notes.append(
            f"{disk.slot} was on a {disk.controller} card, which QEMU does not have: it is on sata (see --bus)"
        )
        return replace(disk, bus="sata", controller="")
    if disk.bus == "scsi" and uefi:
        # OVMF, as distributions build it, boots from neither.
        notes.append(
            f"{disk.slot} was on {disk.controller}, from which UEFI does not boot here: it is on sata (see --bus)"
        )
        return replace(disk, bus="sata", controller="")
    if disk.bus == "nvme":
        notes.append(f"{disk.slot} was an NVMe disk, which libvirt can't emulate: it is on sata (see --bus)")
        return replace(disk, bus="sata", controller="")
    return disk


def _card(card: MachineCard, wishes: Wishes, notes: list[str], *, virtio: bool) -> MachineCard:
    was = card.network or ""
    network = wishes.networks.get(was, wishes.network)
    model = wishes.card or ("virtio" if virtio else card.model)
    if network is None:
        notes.append(f"{card.slot} is not plugged in, and left out")
    else:
        notes.append(f"{card.slot} was in {was!r} and joins {network or 'the default network'}")
    return replace(card, mac="" if wishes.new_macs else card.mac, model=model, network=network)


def _cpus(machine: Machine, wishes: Wishes, notes: list[str]) -> Machine:
    if wishes.cpus is None or wishes.cpus == machine.cpus:
        return machine
    cores = machine.cores if wishes.cpus % machine.cores == 0 else 1
    if cores != machine.cores:
        notes.append(f"{wishes.cpus} CPUs can't be sockets of {machine.cores} cores; each is a socket")
    return replace(machine, cpus=wishes.cpus, cores=cores)


def _say(machine: Machine, wishes: Wishes, virtio: bool | None, notes: list[str]) -> None:
    lacking, kept = "its initial RAM disk has no driver for virtio", "its devices keep their kinds, so that it boots"
    if wishes.inject:
        notes.append(_INJECTED if lacks_drivers(wishes, virtio=virtio) else _THERE)
    elif wishes.bus == "virtio" and virtio is False:
        notes.append(f"{lacking}: it may not find its disk (leave --bus out, or add --inject-drivers)")
    elif virtio is False and wishes.bus is None:
        notes.append(f"{lacking}: {kept} (or: --inject-drivers)")
    elif virtio is None and wishes.bus is None:
        notes.append(f"whether its system drives virtio is not known: {kept}")
    if machine.firmware is Firmware.UEFI:
        notes.append("its UEFI variables begin fresh: it boots by \\EFI\\BOOT\\BOOTX64.EFI")
    if machine.tpm:
        notes.append("its TPM begins empty: keys that were sealed in it are lost")
