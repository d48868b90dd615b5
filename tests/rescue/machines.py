"""A virtual machine's folder as ESXi leaves it, on a volume that tests write to."""

from __future__ import annotations

from pathlib import Path

from tests.rescue.overlay import Overlay
from tests.rescue.writer import Content, Writer

SECTOR = 512

VMX = """.encoding = "UTF-8"
config.version = "8"
virtualHW.version = "19"
displayName = "{name}"
guestOS = "{guest}"
firmware = "{firmware}"
memSize = "{memory}"
numvcpus = "{cpus}"
cpuid.coresPerSocket = "1"
uuid.bios = "56 4d 1c 7e 11 22 33 44-55 66 77 88 99 aa bb cc"
pciBridge0.present = "TRUE"
scsi0.present = "TRUE"
scsi0.virtualDev = "pvscsi"
scsi0:0.present = "TRUE"
scsi0:0.deviceType = "scsi-hardDisk"
scsi0:0.fileName = "{name}.vmdk"
ethernet0.present = "TRUE"
ethernet0.virtualDev = "vmxnet3"
ethernet0.networkName = "VM Network"
ethernet0.addressType = "static"
ethernet0.address = "00:50:56:12:34:56"
nvram = "{name}.nvram"
tools.syncTime = "FALSE"
"""

DESCRIPTOR = """# Disk DescriptorFile
version=1
encoding="UTF-8"
CID={cid:08x}
parentCID=ffffffff
createType="vmfs"

# Extent description
RW {sectors} VMFS "{name}-flat.vmdk"

# The Disk Data Base
#DDB

ddb.adapterType = "lsilogic"
ddb.geometry.cylinders = "{cylinders}"
ddb.geometry.heads = "255"
ddb.geometry.sectors = "63"
ddb.thinProvisioned = "1"
ddb.uuid = "60 00 C2 9f 00 11 22 33-44 55 66 77 88 99 aa bb"
ddb.virtualHWVersion = "19"
"""

LOG = """2026-05-04T07:40:00.001Z| vmx| I005: Log for VMware ESX pid=1000 version=7.0.3
2026-05-04T07:40:00.010Z| vmx| I005: DICT --- USER PREFERENCES
2026-05-04T07:40:00.020Z| vmx| I005: DICT --- CONFIGURATION /vmfs/volumes/{label}/{name}/{name}.vmx
{lines}
2026-05-04T07:40:00.900Z| vmx| I005: DISKLIB-VMFS  : "/vmfs/volumes/{label}/{name}/{name}-flat.vmdk" : open successful
"""


class FileContent(Content):
    """The bytes of a raw file, its holes left out."""

    def __init__(self, path: Path) -> None:
        super().__init__(path.stat().st_size)
        self.source = Overlay(path)

    def part(self, offset: int, length: int) -> bytes:
        return self.source.read(offset, length).ljust(length, b"\0")

    def used(self, unit: int) -> list[int]:
        return sorted(
            {
                number
                for start, size in self.source.data(0, self.size)
                for number in range(start // unit, -(-(start + size) // unit))
            }
        )


def add_machine(
    writer: Writer,
    name: str,
    disk: Content,
    *,
    guest: str = "debian11-64",
    firmware: str = "bios",
    memory: int = 512,
    cpus: int = 1,
    cid: int = 0x1A2B3C4D,
    scattered: bool = False,
) -> dict[str, bytes | Content]:
    """`NAME/NAME.vmx`, its descriptor, flat disk, log, nvram and vmsd; path to content.

    `disk.size` is a multiple of a sector; `memory` in MiB.
    """
    vmx = VMX.format(name=name, guest=guest, firmware=firmware, memory=memory, cpus=cpus)
    lines = "\n".join(f"2026-05-04T07:40:00.030Z| vmx| I005: DICT {_entry(line)}" for line in vmx.splitlines())
    sectors = disk.size // SECTOR
    files: dict[str, bytes | Content] = {
        f"{name}/{name}.vmx": vmx.encode(),
        f"{name}/{name}.vmdk": DESCRIPTOR.format(
            name=name, sectors=sectors, cid=cid, cylinders=max(1, sectors // (255 * 63))
        ).encode(),
        f"{name}/{name}-flat.vmdk": disk,
        f"{name}/vmware.log": LOG.format(name=name, label=writer.label, lines=lines).encode(),
        f"{name}/{name}.nvram": b"MRVN" + bytes(8680),
        f"{name}/{name}.vmsd": b'.encoding = "UTF-8"\n',
    }
    writer.make_folder(name)
    for path, content in files.items():
        writer.make_file(path, content, scattered=scattered)
    return files


def _entry(line: str) -> str:
    """`key = "value"` as the log has it: the key right-aligned, without quotes."""
    key, _, value = line.partition(" = ")
    return f"{key:>24} = {value}"
