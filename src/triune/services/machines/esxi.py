"""A machine for ESXi again: its disks as flat VMDKs, and a clean VMX beside them to register.

What is written is only what was understood; ESXi adds the rest when the machine is registered. Keys: as ESXi 6.5 to 8
write them for hardware version 13, which all of these can run.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from triune.disks.content import Content, Lost
from triune.domain.errors import Conflict, Failed
from triune.domain.machine import Firmware, Machine, MachineCard, MachineDisk
from triune.domain.names import instance_name
from triune.domain.units import format_size
from triune.services.machines.origin import Origin

_CHUNK = 8 << 20
_SECTOR = 512
_CONTROLLERS = {"pvscsi": "pvscsi", "lsisas1068": "lsisas1068"}
_MODELS = {"virtio": "vmxnet3", "pcnet": "vlance"}
_PER_BUS = {"scsi": 15, "sata": 30, "ide": 4}
_SPECIAL = re.compile(r'["|\r\n]')


def register(origin: Origin, name: str, folder: Path, *, zeros: bool) -> list[str]:
    """Write `NAME.vmx`, and a descriptor and a sparse flat file for each disk; returns their paths.

    `zeros`: what is missing becomes zeros. Raises Conflict("file_exists"), Failed("no_space" | "bytes_missing").
    """
    instance_name(name)
    try:
        folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    except OSError as error:
        raise Failed("bad_folder", f"can't make {folder}: {error.strerror}", hint="Name another folder.") from None
    had = origin.described.machine
    machine = replace(had, disks=tuple(disk for disk in had.disks if disk.slot in origin.disks))
    files = {disk.slot: f"{name}{f'_{number}' if number else ''}" for number, disk in enumerate(machine.disks)}
    targets = [folder / f"{stem}{end}" for stem in files.values() for end in (".vmdk", "-flat.vmdk")]
    for path in (folder / f"{name}.vmx", *targets):
        if path.exists():
            raise Conflict("file_exists", f"{path} exists already", hint="Name an empty folder.")
    _require_room(folder, [origin.disks[slot] for slot in files])
    written = []
    for disk in machine.disks:
        stem = files[disk.slot]
        content = origin.disks[disk.slot]
        _flat(content, folder / f"{stem}-flat.vmdk", zeros=zeros)
        (folder / f"{stem}.vmdk").write_text(_descriptor(content.size, f"{stem}-flat.vmdk", _adapter(disk)))
        written += [str(folder / f"{stem}.vmdk"), str(folder / f"{stem}-flat.vmdk")]
    vmx = folder / f"{name}.vmx"
    vmx.write_text("".join(f'{key} = "{value}"\n' for key, value in lines(machine, name, files)))
    return [str(vmx), *written]


def _require_room(folder: Path, contents: list[Content]) -> None:
    needed = sum(run.length for content in contents for run in content.runs() if run.source is not None)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise Failed(
            "no_space",
            f"the disks need {format_size(needed)}, and {folder} has {format_size(free)} left",
            hint="Make room, or name another folder.",
        )


def _flat(content: Content, path: Path, *, zeros: bool) -> None:
    with path.open("xb") as file:
        for run in content.runs():
            if run.missing and not zeros:
                raise Lost(run)
            if run.source is None:
                continue
            for done in range(0, run.length, _CHUNK):
                wanted = min(_CHUNK, run.length - done)
                data = run.source.read(run.at + done, wanted)
                if len(data) < wanted and not zeros:
                    raise Lost(run)
                if data.count(0) != len(data):
                    os.pwrite(file.fileno(), data, run.offset + done)
        file.truncate(content.size)
        os.fsync(file.fileno())


def _adapter(disk: MachineDisk) -> str:
    return {"ide": "ide", "scsi": "lsilogic"}.get(disk.bus, "lsilogic")


def _descriptor(size: int, flat: str, adapter: str) -> str:
    sectors = size // _SECTOR
    cylinders = min(65535, sectors // (255 * 63))
    return (
        '# Disk DescriptorFile\nversion=1\nencoding="UTF-8"\nCID=fffffffe\nparentCID=ffffffff\ncreateType="vmfs"\n\n'
        f'# Extent description\nRW {sectors} VMFS "{flat}"\n\n# The Disk Data Base\n#DDB\n\n'
        f'ddb.adapterType = "{adapter}"\nddb.geometry.cylinders = "{cylinders}"\nddb.geometry.heads = "255"\n'
        'ddb.geometry.sectors = "63"\nddb.virtualHWVersion = "13"\n'
    )


def lines(machine: Machine, name: str, files: dict[str, str]) -> Iterator[tuple[str, str]]:
    """The VMX, key by key. `files` are the disks' names without their end, by their slots."""
    yield from ((".encoding", "UTF-8"), ("config.version", "8"), ("virtualHW.version", "13"))
    yield "displayName", _escaped(machine.name or name)
    yield "guestOS", machine.guest if re.fullmatch(r"[a-z0-9-]{1,60}", machine.guest) else "other-64"
    yield "firmware", "efi" if machine.firmware is Firmware.UEFI else "bios"
    if machine.secure_boot:
        yield "uefi.secureBoot.enabled", "TRUE"
    yield "memSize", str(machine.memory >> 20)
    yield "numvcpus", str(machine.cpus)
    yield "cpuid.coresPerSocket", str(machine.cores)
    if machine.uuid:
        digits = machine.uuid.replace("-", "")
        pairs = [digits[at : at + 2] for at in range(0, 32, 2)]
        yield "uuid.bios", f"{' '.join(pairs[:8])}-{' '.join(pairs[8:])}"
    yield from (("pciBridge0.present", "TRUE"), ("pciBridge4.present", "TRUE"))
    yield from (("pciBridge4.virtualDev", "pcieRootPort"), ("pciBridge4.functions", "8"))
    yield from _disk_lines(machine, files)
    for number, card in enumerate(machine.cards):
        own = f"ethernet{number}"
        yield f"{own}.present", "TRUE"
        yield f"{own}.virtualDev", _MODELS.get(card.model, card.model)
        yield f"{own}.networkName", _escaped(card.network or "VM Network")
        yield from ((f"{own}.{key}", value) for key, value in _address(card))


def _address(card: MachineCard) -> Iterator[tuple[str, str]]:
    """ESXi takes a MAC of its own ranges only as one that it made itself."""
    if not card.mac:
        yield "addressType", "generated"
    elif card.mac.startswith("00:0c:29") or (card.mac.startswith("00:50:56") and int(card.mac[9:11], 16) > 0x3F):
        yield "addressType", "generated" if card.mac.startswith("00:0c:29") else "vpx"
        yield "generatedAddress", card.mac
    else:
        yield from (("addressType", "static"), ("address", card.mac), ("checkMACAddress", "FALSE"))


def _escaped(text: str) -> str:
    return _SPECIAL.sub(lambda one: f"|{ord(one[0]):02X}", text)


def _disk_lines(machine: Machine, files: dict[str, str]) -> Iterator[tuple[str, str]]:
    counts: dict[str, int] = {}
    for disk in machine.disks:
        bus = disk.bus if disk.bus in ("sata", "ide") else "scsi"
        number = counts.setdefault(bus, 0)
        counts[bus] += 1
        controller, unit = divmod(number, 2) if bus == "ide" else divmod(number, _PER_BUS[bus])
        unit += bus == "scsi" and unit >= 7  # the controller's own place
        if unit == 0 and bus != "ide":
            yield f"{bus}{controller}.present", "TRUE"
            if bus == "scsi":
                yield f"scsi{controller}.virtualDev", _CONTROLLERS.get(disk.controller, "lsilogic")
        own = f"{bus}{controller}:{unit}"
        kind = "scsi-hardDisk" if bus == "scsi" else "ata-hardDisk"
        yield from (
            (f"{own}.present", "TRUE"),
            (f"{own}.deviceType", kind),
            (f"{own}.fileName", f"{files[disk.slot]}.vmdk"),
        )
