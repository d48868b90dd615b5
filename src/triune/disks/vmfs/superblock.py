"""The file system's descriptor, at 0x200000 of the volume. There is one copy."""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct

from triune.disks.vmfs.damaged import Damaged, text, unpack, uuid
from triune.disks.vmfs.geometry import Geometry

SIZE = 512
# 0x2FABF160 and 61 are named in the kernel module's symbols for VMFS6; all volumes seen use the first two.
MAGICS = {0x2FABF15E: False, 0x2FABF15F: True, 0x2FABF160: False, 0x2FABF161: True}
_HEAD = Struct("<IIB16sI128sIQII16sI")  # to 0xC5
_PLACES = Struct("<IIIIQI")  # 0xD1 to 0xED
_SDD = Struct("<QIB")  # 0x105 to 0x112
_WIDE = Struct("<IIH")  # 0x130 to 0x13A
_DENSE = 0x4


@dataclass(frozen=True, slots=True, kw_only=True)
class Superblock:
    """What it says. `created` in seconds since the epoch; `lvm_uuid` names the logical volume, empty without LVM.

    `pb2` and `sdd` are (volume offset, address) of two FDs that old volumes keep elsewhere; zeros where not.
    """

    geometry: Geometry
    uuid: str
    label: str
    config: int
    disk_block: int
    created: int
    snapshot: int
    lvm_uuid: str
    pb2: tuple[int, int]
    sdd: tuple[int, int]
    checksum_type: int


def parse(data: bytes) -> Superblock:
    """From its first 512 bytes. Raises Damaged."""
    what = "the superblock"
    magic, major, minor, fs_uuid, config, label, disk_block, file_block, created, snapshot, lvm, _ = unpack(
        _HEAD, data, 0, what
    )
    if magic not in MAGICS:
        raise Damaged(f"{what} has the mark {magic:#x}, not {min(MAGICS):#x}")
    fdc_offset, fdc_clusters, sub_block, _, pb2_place, pb2_address = unpack(_PLACES, data, 0xD1, what)
    sdd_place, sdd_address, checksum_type = unpack(_SDD, data, 0x105, what)
    _, alignment, large_shift = unpack(_WIDE, data, 0x130, what)
    wide = major >= 24
    geometry = Geometry(
        major=major,
        minor=minor,
        file_block=file_block,
        sub_block=sub_block,
        alignment=alignment if wide else 512,
        large_shift=large_shift if wide else 0,
        fdc_offset=fdc_offset,
        fdc_clusters=fdc_clusters,
        dense=bool(config & _DENSE),
        local=MAGICS[magic],
    )
    return Superblock(
        geometry=geometry,
        uuid=uuid(fs_uuid),
        label=text(label),
        config=config,
        disk_block=disk_block,
        created=created,
        snapshot=snapshot,
        lvm_uuid=uuid(lvm),
        pb2=(pb2_place, pb2_address),
        sdd=(sdd_place, sdd_address),
        checksum_type=checksum_type,
    )
