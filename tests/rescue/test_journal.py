"""The hosts' slots and journals of real volumes hold what lies on these volumes."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.rescue import samples
from triune.disks.source import FileSource
from triune.disks.vmfs import descriptor, heartbeat, journal
from triune.disks.vmfs.damaged import Damaged
from triune.disks.vmfs.geometry import HEARTBEATS, Geometry
from triune.disks.vmfs.volume import VmfsVolume
from triune.services.rescue.opening import open_volumes

NARROW, WIDE = Geometry(major=14), Geometry(major=24, alignment=4096, fdc_clusters=8)


def opened(name: str) -> VmfsVolume:
    (volume,) = open_volumes([FileSource(samples.image(name))])
    return volume


def living(volume: VmfsVolume) -> list[heartbeat.Heartbeat]:
    size = volume.geometry.heartbeat_size
    slots = [heartbeat.parse(volume.space.read(HEARTBEATS + n * size, size)) for n in range(1024)]
    assert [slot.place for slot in slots] == [HEARTBEATS + n * size for n in range(1024)]
    return [slot for slot in slots if slot.used]


@pytest.mark.parametrize(("name", "version", "count"), [("vmfs5", (14, 81), 7), ("vmfs6", (24, 82), 3)])
def test_a_journal_holds_what_was_written_last(name: str, version: tuple[int, int], count: int) -> None:
    volume = opened(name)
    (slot,) = living(volume)
    assert (slot.major, slot.minor) == version
    assert slot.ip == "10.0.0.229"
    images = list(journal.after_images(volume.space.read(slot.journal, 1 << 20), volume.geometry))
    assert len(images) == count
    for image in images:  # but for a lock's token or two, the volume holds the same bytes
        there = volume.space.read(image.place, len(image.data))
        assert sum(a != b for a, b in zip(there, image.data, strict=True)) < 20
    volume.close()


def test_a_file_is_read_from_a_journal() -> None:
    volume = opened("vmfs6")
    (slot,) = living(volume)
    images = {one.place: one.data for one in journal.after_images(volume.space.read(slot.journal, 1 << 20), WIDE)}
    (place,) = (place for place in images if place + 4096 in images)
    found = descriptor.parse(images[place] + images[place + 4096], volume.geometry)
    assert found.lock.place == place
    assert volume.descriptor(found.address).generation == found.generation
    volume.close()


@settings(max_examples=60)
@given(data=st.binary(max_size=500), geometry=st.sampled_from([NARROW, WIDE]), at=st.integers(0, 4000))
def test_nonsense_is_no_journal_and_no_slot(data: bytes, geometry: Geometry, at: int) -> None:
    block = b"TO6J" + bytes(at) + b"\x04\x01\0\0" + data
    for image in journal.after_images(block.ljust(4096, b"\1") * 2, geometry):
        assert len(image.data) <= 1 << 17
    try:
        heartbeat.parse(b"\x02\xef\xcd\xab" + data)
    except Damaged as damaged:
        assert damaged.why
