"""Machines that tests make: VMX files and folders in memory."""

from __future__ import annotations

from collections.abc import Sequence

from triune.disks.content import Content, Run
from triune.disks.vmdk_disk import Folder
from triune.disks.vmx import Vmx
from triune.domain.errors import NotFound

SECTOR = 512
MIB = 1 << 20

VMX = """.encoding = "UTF-8"
config.version = "8"
displayName = "web"
guestOS = "debian12-64"
firmware = "efi"
uefi.secureBoot.enabled = "TRUE"
memSize = "2048"
numvcpus = "4"
cpuid.coresPerSocket = "2"
scsi0.present = "TRUE"
scsi0.virtualDev = "pvscsi"
scsi0:0.present = "TRUE"
scsi0:0.fileName = "web.vmdk"
scsi0:0.deviceType = "scsi-hardDisk"
scsi0:1.present = "TRUE"
scsi0:1.fileName = "data.vmdk"
scsi0:1.mode = "independent-nonpersistent"
sata0.present = "TRUE"
sata0:0.present = "TRUE"
sata0:0.fileName = "linux.iso"
sata0:0.deviceType = "cdrom-image"
nvme0.present = "FALSE"
nvme0:0.fileName = "gone.vmdk"
ethernet0.present = "TRUE"
ethernet0.virtualDev = "vmxnet3"
ethernet0.networkName = "VM Network"
ethernet0.addressType = "vpx"
ethernet0.generatedAddress = "00:50:56:9A:01:02"
ethernet1.present = "TRUE"
ethernet1.addressType = "static"
ethernet1.address = "00:50:56:00:00:01"
ethernet1.networkName = "backup"
serial0.present = "TRUE"
serial0.fileType = "network"
RemoteDisplay.vnc.enabled = "TRUE"
RemoteDisplay.vnc.password = "secret"
vtpm.present = "TRUE"
uuid.bios = "42 1a 00 11 22 33 44 55-66 77 88 99 aa bb cc dd"
scsi0:0.redo = ""
strange.key = "1"
"""


def parsed(text: str) -> Vmx:
    """A VMX."""
    return Vmx.parse(text.encode())


class Bytes:
    """Bytes as a source and as a content."""

    def __init__(self, data: bytes, name: str = "bytes") -> None:
        self.data, self.name = data, name

    @property
    def size(self) -> int:
        return len(self.data)

    def read(self, offset: int, length: int) -> bytes:
        return self.data[offset : offset + length]

    def close(self) -> None:
        pass

    def runs(self, start: int = 0, end: int | None = None) -> object:
        end = self.size if end is None else min(end, self.size)
        if start < end:
            yield Run(start, end - start, self, start)


class InMemory:
    """A folder of files."""

    name = "memory"

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files

    def names(self) -> Sequence[str]:
        return sorted(self.files)

    def open(self, path: str) -> Content:
        if path not in self.files:
            raise NotFound("no_source", f"there is no {path}")
        return Bytes(self.files[path], path)

    def beside(self, hint: str) -> tuple[Folder, str] | None:
        return None


def flat(name: str, sectors: int, *, extent: str = "", parent: str = "") -> bytes:
    """A descriptor of a flat disk."""
    extra = f'parentFileNameHint="{parent}"\n' if parent else ""
    return (
        f"# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID={'fffffffe' if parent else 'ffffffff'}\n{extra}"
        f'createType="vmfs"\nRW {sectors} VMFS "{extent or name + "-flat.vmdk"}"\n'
    ).encode()
