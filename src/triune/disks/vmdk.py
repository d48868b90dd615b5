"""The outside of a VMDK: its kind, and the files its descriptor points to.

Source of the format: "Virtual Disk Format 5.0" (VMware), and block/vmdk.c of QEMU. Numbers are little-endian.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import BinaryIO

from triune.disks import vmdk_descriptor
from triune.disks.vmdk_layout import SECTOR, corrupt, read_layout


@dataclass(frozen=True, slots=True)
class VmdkInfo:
    """`kind` is sparse, cowd, sesparse or descriptor. `virtual_size` in bytes, 0 where only the descriptor tells.

    `extents` are the file names the descriptor points to; `parent` says that it is a snapshot of another disk.
    """

    kind: str
    virtual_size: int
    extents: tuple[str, ...]
    parent: bool


def inspect(stream: BinaryIO) -> VmdkInfo:
    """Read the header and the descriptor. Raises Invalid("corrupt_image")."""
    stream.seek(0)
    head = stream.read(SECTOR)
    if head.startswith(b"KDMV") and len(head) < SECTOR:
        raise corrupt("its header is cut off")
    if head.startswith(b"\xbe\xba\xfe\xca"):
        return VmdkInfo("sesparse", 0, (), parent=False)
    layout = read_layout(head)
    if layout is None:
        stream.seek(0)
        return _described("descriptor", 0, stream.read(vmdk_descriptor.LONGEST))
    if layout.kind == "cowd":
        return VmdkInfo("cowd", 0, (), parent=False)
    text = b""
    if layout.descriptor:
        stream.seek(layout.descriptor * SECTOR)
        text = stream.read(min(layout.descriptor_length * SECTOR, vmdk_descriptor.LONGEST))
    return _described("sparse", layout.capacity * SECTOR, text)


def _described(kind: str, virtual_size: int, text: bytes) -> VmdkInfo:
    descriptor = vmdk_descriptor.parse(text)
    names = tuple(extent.name for extent in descriptor.extents if extent.name)
    return VmdkInfo(kind, virtual_size or descriptor.size, names, parent=descriptor.has_parent)
