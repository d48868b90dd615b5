"""Volumes put together again from what is left."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.rescue import damages, oracle, scoring
from tests.rescue.overlay import Overlay
from tests.rescue.writer import Content, Writer, walked
from triune.disks.source import FileSource
from triune.domain.rescue import Status
from triune.services.rescue.finding import volumes
from triune.services.rescue.ranges import Claims, Ranges
from triune.services.rescue.rebuild import RebuiltVolume
from triune.services.rescue.scanning import scan_volumes

Image = Callable[[str], Path]
_HEADER, _FIRST = 0x100000, 0x1100000


@pytest.mark.parametrize("name", ["vmfs5", "vmfs6"])
@pytest.mark.parametrize("damage", [("LVM area 16 MiB", "superblock"), ("first FDC cluster",)])
def test_what_survives_comes_back_with_its_path(image: Image, name: str, damage: tuple[str, ...]) -> None:
    disk = Overlay(image(name))
    facts = oracle.facts(oracle.dissect(disk))
    result = scoring.score(scan_volumes([damages.damaged(disk, Writer(disk), *damage)]), facts)
    assert (result.content, result.paths, result.wrong, result.failed) == (result.total, result.total, [], [])


def test_two_file_systems_one_over_the_other(image: Image) -> None:
    found = scan_volumes([FileSource(image("zero5"))])
    assert [volume.version for volume in found] == ["VMFS5", "VMFS6", "VMFS6"]
    assert [one.path for one in found[0].walk()] == ["empty-flat.vmdk", "empty.vmdk"]
    former = {one.path.rpartition("/")[2]: one.status for one in found[2].walk(deleted=True)}
    assert former["test.vmdk"] == former["test-flat.vmdk"] == Status.DELETED
    assert "another file system was made over it" in found[1].damages()


def test_the_former_one_stays_apart_where_nothing_tells_the_age_of_the_newer(image: Image) -> None:
    disk = Overlay(image("zero6"))
    live, former = scan_volumes([damages.damaged(disk, Writer(disk), "superblock", "first FDC cluster")])
    assert {one.path for one in live.walk() if one.kind == "file"} == {"empty-flat.vmdk", "empty.vmdk"}
    statuses = {one.path.rpartition("/")[2]: one.status for one in former.walk(deleted=True)}
    assert statuses["test.vmdk"] == statuses["test-flat.vmdk"] == Status.DELETED


@pytest.mark.parametrize("name", ["vmfs5-span", "vmfs6-span"])
def test_extents_in_any_order_without_lvm_headers(images: Callable[[str], list[Path]], name: str) -> None:
    disks = [Overlay(path) for path in reversed(images(name))]
    whole = [one.path for one in scan_volumes(disks)[0].walk(system=True)]
    for disk in disks:
        disk.zero(_HEADER, _FIRST - _HEADER)
    found = scan_volumes(disks)
    assert len(found) == 1
    volume = found[0]
    assert isinstance(volume, RebuiltVolume)
    segments = volume.generation.space.segments
    assert [(segment.source.name, segment.at) for segment in segments] == [(disk.name, _FIRST) for disk in disks[::-1]]
    assert segments[1].offset == 2 << 30
    assert [one.path for one in volume.walk(system=True)] == whole


def test_a_file_that_maps_fewer_blocks_than_it_has_is_partial(image: Image) -> None:
    disk = Overlay(image("vmfs5"))
    writer = Writer(disk)
    meta = walked(writer)["bigger"]
    disk.zero(writer.base + meta.offset + 1024, 256)
    found = {one.path: one for one in scan_volumes([disk])[0].walk()}["bigger"]
    assert found.status == Status.PARTIAL
    assert found.missing == ((0, 64 << 20),)
    assert found.reasons == ("it maps 64 blocks, and has 128",)


@pytest.mark.parametrize(("name", "width", "flags"), [("vmfs5", 4, 0x20), ("vmfs6", 8, 0x7F80)])
def test_a_block_that_was_promised_and_never_written_is_nobody_elses(
    image: Image, name: str, width: int, flags: int
) -> None:
    disk = Overlay(image(f"{name}-resource-optimized"))
    writer = Writer(disk)
    block = writer.file_block
    writer.make_file("thick", Content(800 * block, {n * block: b"some" for n in range(0, 60, 5)}, frozenset({1, 2})))
    pointers = next(each for each in walked(writer)["thick"].blocks if each)
    other = (writer.pointer(pointers, 2) & ~flags).to_bytes(width, "little")
    disk.write(writer.base + writer.at(pointers) + 10 * width, other)
    (found,) = [one for one in scan_volumes([disk])[0].walk() if one.path == "thick"]
    assert (found.status, found.missing) == (Status.PARTIAL, ((10 * block, block),))
    assert found.reasons == ("its blocks are claimed a second time",)


def test_healthy_volumes_are_not_scanned(image: Image) -> None:
    (volume,) = volumes([str(image("vmfs6"))])
    assert not isinstance(volume, RebuiltVolume)


def test_ranges_join_and_cut() -> None:
    ranges = Ranges([(10, 5), (0, 5), (15, 5), (30, 1)])
    assert list(ranges) == [(0, 5), (10, 10), (30, 1)]
    assert list(ranges.within(3, 9)) == [(3, 2), (10, 2)]
    claims = Claims()
    assert list(claims.joined()) == list(claims.shared()) == []
    for offset, length in [(20, 5), (0, 10), (5, 10), (25, 5), (6, 2)]:
        assert claims.add(offset, length)
    assert list(claims.joined()) == [(0, 15), (20, 10)]
    assert list(claims.shared()) == [(5, 5)]


def test_files_of_which_only_the_name_is_left_are_partial(image: Image) -> None:
    disk = Overlay(image("vmfs6"))
    found = {one.path: one for one in scan_volumes([damages.damaged(disk, Writer(disk), "first 64 MiB")])[0].walk()}
    lost = [one for path, one in found.items() if path.startswith("lost+found/folderless/")]
    assert {(one.status, one.confidence) for one in lost} == {(Status.PARTIAL, 0.0)}
    assert "lost+found/folderless/Kusjes van SRT 😘" in found
    assert len(lost) == 19
