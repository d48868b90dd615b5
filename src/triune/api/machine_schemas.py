"""What a request to import a machine carries."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from triune.api.schemas import Body, Name, Seconds, Text
from triune.domain.machine import Firmware

Slot = Annotated[str, Field(min_length=1, max_length=64, description="Its place, like scsi0:0")]
Model = Annotated[str, Field(max_length=32)]


class MachineDiskBody(Body):
    """A disk, and the NBD export on a unix socket of the daemon's host that serves its content."""

    slot: Slot
    file: Text = ""
    bus: Annotated[str, Field(max_length=16, description="virtio, scsi, sata or ide")] = "virtio"
    controller: Annotated[Model, Field(description="Of scsi: virtio, pvscsi, lsisas1068 or lsilogic")] = ""
    size: Annotated[int, Field(ge=0, le=2**60, description="Bytes; 0: as the export says")] = 0
    socket: Annotated[str, Field(min_length=1, max_length=107, description="Absolute path of the unix socket")]
    export: Annotated[str, Field(min_length=1, max_length=255)]
    path: Annotated[str | None, Field(max_length=4096, description="The same in one file of the host, absolute")] = None
    format: Annotated[str, Field(pattern="^(|raw|vmdk)$", description="Of that file")] = ""
    offset: Annotated[int, Field(ge=0, le=2**62, description="Where it begins in that file")] = 0
    length: Annotated[int, Field(ge=0, le=2**62, description="0: to its end")] = 0


class MachineCardBody(Body):
    """A network card."""

    slot: Slot
    mac: Annotated[str, Field(max_length=17, description="empty: a new one")] = ""
    model: Annotated[Model, Field(description="virtio, e1000e, e1000, vmxnet3 or pcnet")] = "virtio"
    network: Annotated[str | None, Field(max_length=63, description="null: none; empty: the host's default")] = ""


class MachineBody(Body):
    """What to make. The disks are in the order they boot."""

    name: Name
    engine: Annotated[str, Field(max_length=40, description="empty: the first that can")] = ""
    source: Annotated[Text, Field(description="Where it comes from, for people")] = ""
    guest: Annotated[str, Field(max_length=255, description="Its origin's word for the system on it")] = ""
    firmware: Firmware = Firmware.BIOS
    secure_boot: bool = False
    cpus: Annotated[int, Field(ge=1, le=4096)] = 1
    cores: Annotated[int, Field(ge=1, le=4096, description="Of each socket")] = 1
    memory: Annotated[int, Field(ge=1, le=2**60, description="Bytes")] = 512 << 20
    disks: Annotated[list[MachineDiskBody], Field(min_length=1, max_length=64)]
    cards: Annotated[list[MachineCardBody], Field(max_length=16)] = []
    display: bool = True
    serials: Annotated[int, Field(ge=0, le=32)] = 0
    tpm: bool = False
    clock: Literal["utc", "localtime"] = "utc"
    uuid: Annotated[str, Field(pattern=r"^([0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12})?$")] = ""
    inject_drivers: Annotated[bool, Field(description="Put drivers for virtio into the copy, by virt-v2v")] = False
    verify: Annotated[bool, Field(description="Read all once more on both sides, and compare")] = True
    start: bool = True
    timeout: Annotated[Seconds, Field(description="For coming up")] = 180.0
