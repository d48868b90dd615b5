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
from tests.rescue.writer import Writer
from triune.disks.source import Held
from triune.disks.vmfs.address import Address, Kind
from triune.disks.vmfs.geometry import Geometry
from triune.disks.vmfs.space import Space
from triune.domain.rescue import Status
from triune.services.rescue.deleted_disks import Disk, Pieced
from triune.services.rescue.deleted_tables import Table
from triune.services.rescue.finding import scan_volumes

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
