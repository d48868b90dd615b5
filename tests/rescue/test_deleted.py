"""Deleted files."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tests.rescue.guests import gpt_disk
from tests.rescue.machines import add_machine
from tests.rescue.oracle import digest, digest_of
from tests.rescue.overlay import Overlay
from tests.rescue.writer import Content, Writer
from triune.disks.content import read
from triune.disks.source import Held
from triune.disks.vmfs.address import Address, Kind
from triune.disks.vmfs.geometry import Geometry
from triune.disks.vmfs.space import Space
from triune.domain.rescue import Status
from triune.services.rescue.deleted_disks import Disk, Pieced
from triune.services.rescue.deleted_guests import anchors
from triune.services.rescue.deleted_tables import Table
from triune.services.rescue.scanning import scan_volumes

_MIB = 1 << 20


def _deleted_machine(image: Path) -> tuple[Writer, object]:
    writer = Writer(Overlay(image))
    content = gpt_disk(500 * _MIB, 40, 7)
    add_machine(writer, "vm", content, scattered=True)
    return writer, content


def test_a_deleted_disk_comes_back_by_its_pointer_block(image: Callable[[str], Path]) -> None:
    writer, content = _deleted_machine(image("vmfs6"))
    writer.delete("vm/vm-flat.vmdk")
    (volume,) = scan_volumes([writer.disk])
    assert "vm/vm-flat.vmdk" not in {one.path for one in volume.walk()}
    found = volume.find("vm/vm-flat.vmdk")
    assert (found.status, found.size, found.missing) == (Status.DELETED, 500 * _MIB, ())
    assert 0.9 <= found.confidence < 1
    assert "the guest's second GPT at its end" in found.evidence
    assert digest(volume.open(found)) == digest_of(sorted(content.pieces.items()), content.size)


def test_a_journal_tells_what_a_deleted_file_had(image: Callable[[str], Path]) -> None:
    writer, content = _deleted_machine(image("vmfs5"))
    address = writer.entry(*writer.place("vm/vm-flat.vmdk"))
    place = writer.fd_offset(address)
    slot = next(
        at for at in range(0x300000, 0x400000, 512) if int.from_bytes(writer.read(at, 4), "little") == 0xABCDEF02
    )
    journal = struct.unpack("<Q", writer.read(slot + 0x64, 8))[0]
    writer.write(
        journal + 0x8FF, struct.pack("<II8xQII", 1, 0, place + 512, 0x600, 0) + writer.read(place + 512, 0x600)
    )
    writer.delete("vm/vm-flat.vmdk")
    (volume,) = scan_volumes([writer.disk])
    found = volume.find("vm/vm-flat.vmdk")
    assert found.status == Status.DELETED
    assert "journal" in found.evidence
    assert digest(volume.open(found)) == digest_of(sorted(content.pieces.items()), content.size)


def test_a_guest_s_file_system_places_pointer_blocks(image: Callable[[str], Path]) -> None:
    writer = Writer(Overlay(image("vmfs5")))
    content = gpt_disk(8 << 30, 0, 3)
    first = bytearray(1024)
    struct.pack_into("<I12xII4xI", first, 4, 2_000_000, 0, 2, 32768)
    first[0x38:0x3A], first[0x68:0x78] = b"\x53\xef", bytes(range(16))
    pieces = {**content.pieces, _MIB + 1024: bytes(first)}
    for group in (9, 49):  # in the second GiB and in the seventh
        first[0x5A] = group
        pieces[_MIB + (group << 27)] = bytes(first)
    add_machine(writer, "vm", Content(content.size, pieces))
    writer.delete("vm/vm-flat.vmdk")
    (volume,) = scan_volumes([writer.disk])
    found = volume.find("vm/vm-flat.vmdk")
    assert found.missing == ((2 << 30, 4 << 30),)
    held = volume.open(found)
    for at, data in pieces.items():
        assert read(held, at, len(data)) == data


def test_runs_of_a_disk_of_which_a_part_is_known() -> None:
    geometry = Geometry(major=14)
    numbers = np.full(1024, -1, np.int64)
    numbers[:3] = (5, 6, 9)
    disk = Disk(1026 * _MIB, 5, {0: Table(Address(Kind.POINTER_BLOCK, 0, 0), numbers)}, {1025: 2})
    space = Space.plain(Held("volume", bytes(10 * _MIB)))
    runs = list(Pieced(disk, geometry, space).runs())
    assert [
        (run.offset // _MIB, run.length // _MIB, run.at // _MIB, run.source is None, run.missing) for run in runs
    ] == [
        (0, 2, 5, False, False),
        (2, 1, 9, False, False),
        (3, 1021, 0, True, False),
        (1024, 1, 0, True, True),
        (1025, 1, 2, False, False),
    ]


def _held(pieces: dict[int, bytes]) -> Callable[[int, int], bytes]:
    """A disk of zeros with these pieces."""

    def read_at(offset: int, length: int) -> bytes:
        data = bytearray(length)
        for at, piece in pieces.items():
            for number, byte in enumerate(piece):
                if offset <= at + number < offset + length:
                    data[at + number - offset] = byte
        return bytes(data)

    return read_at


def test_copies_of_xfs_btrfs_and_ntfs_heads() -> None:
    xfs = struct.pack(">4sI", b"XFSB", 4096).ljust(32, b"\0") + b"u" * 16
    xfs = xfs.ljust(84, b"\0") + struct.pack(">II", 1000, 4)
    group = xfs.ljust(512, b"\0") + struct.pack(">4sII", b"XAGF", 1, 2)
    found = list(anchors(_held({_MIB: xfs}), _MIB, 1 << 30))
    assert [anchor.place - _MIB for anchor in found] == [4_096_000, 8_192_000, 12_288_000]
    assert [anchor.fits(group.ljust(1024, b"\0")) for anchor in found] == [False, True, False]

    btrfs = (bytes(32) + b"f" * 16).ljust(64, b"\0") + b"_BHRfS_M"
    (mirror,) = anchors(_held({_MIB + (64 << 10): btrfs}), _MIB, 1 << 30)
    copy = bytearray(btrfs.ljust(4096, b"\0"))
    copy[48:56] = (64 << 20).to_bytes(8, "little")
    assert (mirror.place, mirror.fits(bytes(copy)), mirror.fits(btrfs)) == (_MIB + (64 << 20), True, False)

    boot = bytearray(512)
    boot[3:11], boot[11:14], boot[40:48] = b"NTFS    ", struct.pack("<HB", 512, 8), (10_000).to_bytes(8, "little")
    boot[48:56] = (786).to_bytes(8, "little")
    files, last = anchors(_held({_MIB: bytes(boot)}), _MIB, 1 << 30)
    assert (files.place, last.place) == (_MIB + 786 * 4096, _MIB + 10_000 * 512)
    assert (last.fits(bytes(boot)), last.fits(bytes(512))) == (True, False)
    assert files.fits(b"FILE".ljust(48, b"\0"))
