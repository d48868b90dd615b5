"""Structures that were copied elsewhere, and a volume in a guest's disk: none of them is a volume, nor part of one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.rescue import oracle, samples, subject
from tests.rescue.filled import filled
from tests.rescue.layout import BASE
from tests.rescue.machines import FileContent, add_machine
from tests.rescue.overlay import Overlay
from tests.rescue.scoring import score

pytestmark = pytest.mark.heavy
MIB = 1 << 20


@pytest.mark.parametrize(
    ("name", "of", "to"),
    [
        ("vmfs6-resource-optimized", 476, 40),
        ("vmfs6-resource-optimized", 24, 300),
        ("vmfs6-resource-optimized", 24, 1500),
        ("vmfs5-resource-optimized", 262, 40),
        ("vmfs5-resource-optimized", 22, 1500),
    ],
)
@pytest.mark.parametrize("lost", ["nothing", "LVM header", "superblock"])
def test_copied_structures_lead_nowhere(image: Callable[[str], Path], name: str, of: int, to: int, lost: str) -> None:
    image(name)
    volume = filled(name)
    disk = volume.writer.disk.fork()
    disk.write(to * MIB, disk.read(of * MIB, MIB))
    if lost != "nothing":
        disk.zero(MIB if lost == "LVM header" else BASE + 2 * MIB, 4096)
    found = score(subject.scanned(*disk.devices), volume.facts)
    assert (found.wrong, found.failed, found.volumes) == ([], [], 1)
    assert found.content == found.paths == found.total


@pytest.mark.parametrize("scattered", [False, True])
@pytest.mark.parametrize("lost", ["nothing", "LVM header", "superblock"])
def test_a_volume_in_a_guests_disk_is_that_guests(image: Callable[[str], Path], scattered: bool, lost: str) -> None:
    outer, inner = "vmfs6-resource-optimized", "vmfs5-resource-optimized"
    image(outer)
    volume = filled(outer)
    add_machine(volume.writer, "esx", FileContent(image(inner)), scattered=scattered)
    disk = volume.writer.disk.fork()
    facts = oracle.facts(oracle.dissect(*disk.devices))
    if lost != "nothing":
        disk.zero(MIB if lost == "LVM header" else BASE + 2 * MIB, 4096)
    found = score(subject.scanned(*disk.devices), facts)
    assert (found.wrong, found.failed, found.volumes) == ([], [], 1)
    assert found.content == found.paths == found.total


@pytest.mark.parametrize("name", ["vmfs5-span", "vmfs6-span"])
def test_an_lvm_header_that_lies_elsewhere_leads_nowhere(image: Callable[[str], Path], name: str) -> None:
    for each in samples.VOLUMES[name]:
        image(each)
    volume = filled(name)
    disk = volume.writer.disk.fork()
    second = disk.devices[1]
    second.write(40 * MIB, second.read(MIB, MIB))
    second.zero(MIB, MIB)
    found = score(subject.scanned(*disk.devices), volume.facts)
    assert (found.wrong, found.failed, found.volumes) == ([], [], 1)
    assert found.content == found.paths == found.total


@pytest.mark.parametrize("lost", [False, True], ids=["whole", "first 60 MiB lost"])
def test_two_volumes_on_one_disk_stay_two(image: Callable[[str], Path], lost: bool) -> None:
    """One behind the other, without a partition table: the second one doesn't lie in a file of the first."""
    disk = Overlay(None, 4500 * MIB)
    for name, start in (("vmfs6-resource-optimized", MIB), ("vmfs5-resource-optimized", 2082 * MIB)):
        part = Overlay(image(name))
        for at, length in part.data(0, part.size):
            disk.write(start + at, part.read(at, length))
    if lost:
        disk.zero(0, 60 * MIB)
    found = {volume.label: volume for volume in subject.scanned(disk)}
    assert len(found) == 2
    assert not found["vmfs5-resource-optimized"].damages()


@pytest.mark.parametrize("number", [0, 1])
def test_an_extent_that_is_not_named_is_told(image: Callable[[str], Path], number: int) -> None:
    (volume,) = subject.read(Overlay(image(f"vmfs6-span-{number}")))
    assert "1 of its 2 extents is among the sources: name the others too" in volume.damages()
