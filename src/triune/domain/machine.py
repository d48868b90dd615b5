"""A machine that was made elsewhere: what it is made of, in nobody's format, and what of its description was left."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

DISK_BUSES = ("virtio", "scsi", "sata", "ide")
CONTROLLERS = ("virtio", "pvscsi", "lsisas1068", "lsilogic")
CARD_MODELS = ("virtio", "e1000e", "e1000", "vmxnet3", "pcnet")


class Firmware(StrEnum):
    """What starts the machine."""

    BIOS = "bios"
    UEFI = "uefi"


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineDisk:
    """One disk.

    `slot` is its place as its origin names it ("scsi0:0"), `file` what holds it there. `bus` is virtio, scsi, sata, ide
    or nvme; `controller` the model of a SCSI controller. `size` is in bytes, 0 where it is not known yet.
    """

    slot: str
    file: str = ""
    bus: str = "virtio"
    controller: str = ""
    size: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineCard:
    """One network card. `mac` "" means a new one; `network` "" the host's default, None an unplugged card."""

    slot: str
    mac: str = ""
    model: str = "virtio"
    network: str | None = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """The whole of it. `memory` in bytes, `cores` per socket; the disks are in the order they boot.

    `guest` is the origin's word for the system on it. `clock`: the hardware's clock is in "utc" or "localtime".
    `serials` counts the serial ports it had. `uuid` is that of its firmware, "" where it has none.
    """

    name: str
    guest: str = ""
    firmware: Firmware = Firmware.BIOS
    secure_boot: bool = False
    cpus: int = 1
    cores: int = 1
    memory: int = 512 << 20
    disks: tuple[MachineDisk, ...] = ()
    cards: tuple[MachineCard, ...] = ()
    display: bool = True
    serials: int = 0
    tpm: bool = False
    clock: str = "utc"
    uuid: str = ""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A line of a description that was not carried over, and why. `line` counts from 1; 0 where there are no lines."""

    line: int
    key: str
    value: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """What a description says, what of it was left out, and what its reader wants to be known."""

    machine: Machine
    left_out: tuple[LeftOut, ...] = ()
    notes: tuple[str, ...] = ()
