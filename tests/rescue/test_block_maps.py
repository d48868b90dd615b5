"""What is damaged in a block map is missing, with its reason: never zeros, never another file's bytes."""

from __future__ import annotations

import struct

import pytest

from tests.rescue import samples
from tests.rescue.changed import Changed
from triune.disks.content import Lost, Run, read
from triune.disks.source import FileSource
from triune.disks.vmfs import address, descriptor
from triune.disks.vmfs.blocks import FileContent
from triune.disks.vmfs.volume import VmfsVolume
from triune.domain.errors import Conflict, NotFound
from triune.domain.rescue import Status
from triune.services.rescue.opening import open_volumes
from triune.services.rescue.scanning import scan_volumes

LARGE, SPARSE = "large-flat.vmdk", "normal-flat.vmdk"
BASE = 0x1100000


def volume_of(name: str, changes: dict[int, bytes] | None = None, end: int | None = None) -> VmfsVolume:
    """The sample with bytes changed at offsets of the volume."""
    source = FileSource(samples.image(name))
    moved = {BASE + at: data for at, data in (changes or {}).items()}
    (volume,) = open_volumes([Changed(source, moved, end)])
    return volume


def map_of(volume: VmfsVolume, path: str) -> tuple[descriptor.Descriptor, list[int]]:
    """The FD of a file, and the volume offset of each pointer block in its list."""
    inside = volume.descriptor(int(volume.find(path).key.partition(".")[0], 16))
    places = []
    for value in inside.addresses(volume.geometry):
        if value and inside.levels:
            (run,) = volume.resources.runs(address.decode(value, volume.geometry), 0, 4096)
            places.append(run.at - BASE)
    return inside, places


def data_of(volume: VmfsVolume, path: str) -> list[Run]:
    return [run for run in volume.open(volume.find(path)).runs() if run.source is not None and not run.missing]


@pytest.mark.parametrize("name", ["vmfs5", "vmfs6"])
@pytest.mark.parametrize("path", [LARGE, SPARSE])
def test_a_pointer_block_of_zeros_makes_every_hole_doubtful(name: str, path: str) -> None:
    healthy = volume_of(name)
    _, places = map_of(healthy, path)
    (was,) = data_of(healthy, path)
    volume = volume_of(name, {place: bytes(65536 if name == "vmfs6" else 4096) for place in places})
    found = volume.find(path)
    assert found.status == Status.PARTIAL
    assert sum(length for _, length in found.missing) == found.size
    with pytest.raises(Lost):
        read(volume.open(found), was.offset, 512)


def test_a_pointer_behind_the_end_excuses_no_hole() -> None:
    inside, places = map_of(volume_of("vmfs5"), SPARSE)
    behind = inside.lock.place + 1024 + 4 * 200
    assert inside.length <= 200 << 30
    volume = volume_of("vmfs5", {behind: struct.pack("<I", 0x5700)} | {place: bytes(4096) for place in places})
    found = volume.find(SPARSE)
    assert found.status == Status.PARTIAL
    assert sum(length for _, length in found.missing) == found.size
    alone = volume_of("vmfs5", {behind: struct.pack("<I", 0x5700)})
    assert alone.find(SPARSE).status == Status.INTACT


@pytest.mark.parametrize("name", ["vmfs5", "vmfs6"])
def test_a_pointer_block_of_nonsense_is_missing(name: str) -> None:
    _, places = map_of(volume_of(name), SPARSE)
    volume = volume_of(name, dict.fromkeys(places, b"\xa5nonsense" * 455))
    found = volume.find(SPARSE)
    assert found.status == Status.PARTIAL
    assert found.missing


@pytest.mark.parametrize(("name", "meta"), [("vmfs5", 512), ("vmfs6", 4096)])
def test_a_small_file_that_one_bit_makes_a_large_one_is_no_hole(name: str, meta: int) -> None:
    inside, _ = map_of(volume_of(name), "small")
    changes = {inside.lock.place + meta + 0x44: struct.pack("<I", 4304)}
    volume = volume_of(name, changes)
    for found in (volume.find("small"), scan_volumes([volume.space.segments[0].source])[0].find("small")):
        assert found.status == Status.PARTIAL
        assert found.missing == ((0, inside.length),)


def test_a_list_that_points_beyond_the_volume_is_missing() -> None:
    healthy = volume_of("vmfs5")
    inside, _ = map_of(healthy, "bigger")
    entry = inside.lock.place + 1024 + 4 * 3
    volume = volume_of("vmfs5", {entry: struct.pack("<I", 1 | 0x3FFFFFF << 6)})
    found = volume.find("bigger")
    assert found.missing == ((3 << 20, 1 << 20),)
    assert found.status == Status.PARTIAL
    with pytest.raises(Lost):
        read(volume.open(found), 3 << 20, 1)
    assert read(volume.open(found), 0, 3 << 20) == read(healthy.open(healthy.find("bigger")), 0, 3 << 20)


@pytest.mark.parametrize(("value", "why"), [(4, "file descriptor"), (0x83, "pointer block"), (7, "no address")])
def test_an_address_of_the_wrong_kind_is_missing(value: int, why: str) -> None:
    inside, _ = map_of(volume_of("vmfs5"), "bigger")
    volume = volume_of("vmfs5", {inside.lock.place + 1024: struct.pack("<I", value)})
    found = volume.find("bigger")
    assert found.missing[0] == (0, 1 << 20)
    assert why in found.reasons[0]


def test_a_block_that_was_lost_from_a_list_is_no_hole() -> None:
    inside, _ = map_of(volume_of("vmfs5"), "bigger")
    volume = volume_of("vmfs5", {inside.lock.place + 1024: bytes(4)})
    assert volume.find("bigger").missing == ((0, 1 << 20),)


def test_more_blocks_than_the_descriptor_tells_prove_nothing() -> None:
    inside, _ = map_of(volume_of("vmfs5"), "bigger")
    volume = volume_of("vmfs5", {inside.lock.place + 512 + 0x24: struct.pack("<Q", 100)})
    found = volume.find("bigger")
    assert found.missing == ((0, found.size),)
    assert all(run.source is not None for run in volume.open(found).runs())


def test_what_lies_behind_the_end_of_a_truncated_image_is_missing() -> None:
    volume = volume_of("vmfs5", end=1 << 30)
    statuses = {found.path: found.status for found in volume.walk()}
    assert Status.INTACT in statuses.values()
    for found in volume.walk():
        if found.kind == "file":
            for run in volume.open(found).runs():
                assert run.missing or run.source is None or run.at + run.length <= 1 << 30


@pytest.mark.parametrize("name", ["vmfs5", "vmfs6"])
def test_a_map_that_leads_to_a_free_block_proves_nothing(name: str) -> None:
    healthy = volume_of(name)
    inside, _ = map_of(healthy, "bigger")
    free = next(
        block
        for block in range(100, 2048)
        for _, why in healthy.allocations[address.Kind.FILE_BLOCK].doubts(inside.address, block, 1)
        if "free" in why
    )
    volume = volume_of(name, {entry_of(healthy, inside, 5): block_address(healthy, free)})
    found = volume.find("bigger")
    assert found.missing == ((5 << 20, 1 << 20),)
    assert "free" in found.reasons[0]


@pytest.mark.parametrize("name", ["vmfs3", "vmfs6"])
def test_a_small_file_whose_sub_block_is_free_proves_nothing(name: str) -> None:
    healthy = volume_of(name)
    small = next(
        found
        for found in healthy.walk()
        if found.kind == "file" and kinds_of(healthy, found.path) == {address.Kind.SUB_BLOCK}
    )
    inside, _ = map_of(healthy, small.path)
    value = free_item(healthy, inside, inside.addresses(healthy.geometry)[0])
    volume = volume_of(name, {entry_of(healthy, inside, 0): packed(healthy, value)})
    found = volume.find(small.path)
    assert found.missing == ((0, small.size),)
    assert "sub-block that is free" in found.reasons[0]


@pytest.mark.parametrize("name", ["vmfs5", "vmfs6"])
def test_a_map_that_leads_to_a_free_pointer_block_proves_nothing(name: str) -> None:
    healthy = volume_of(name)
    inside, _ = map_of(healthy, LARGE)
    value = free_item(healthy, inside, inside.addresses(healthy.geometry)[0])
    volume = volume_of(name, {entry_of(healthy, inside, 0): packed(healthy, value)})
    found = volume.find(LARGE)
    assert found.missing[0][0] == 0
    assert any("block that is free" in reason for reason in found.reasons)


def kinds_of(volume: VmfsVolume, path: str) -> set[address.Kind]:
    """Of what a file's list points to."""
    inside, _ = map_of(volume, path)
    if inside.layout == descriptor.Layout.RESIDENT:
        return set()
    return {address.decode(value, volume.geometry).kind for value in inside.addresses(volume.geometry) if value}


def free_item(volume: VmfsVolume, inside: descriptor.Descriptor, like: int) -> int:
    """The address of an item that nobody uses, in the cluster of another one."""
    for bits in range(1, 16):
        value = like ^ bits << (56 if volume.geometry.wide else 28)
        where = address.decode(value, volume.geometry)
        if volume.allocations[where.kind].doubt(inside.address, where):
            return value
    raise AssertionError("every item of that cluster is used")


def packed(volume: VmfsVolume, value: int) -> bytes:
    return struct.pack("<Q" if volume.geometry.wide else "<I", value)


def test_a_map_that_leads_to_another_files_cluster_proves_nothing() -> None:
    healthy = volume_of("vmfs6")
    inside, _ = map_of(healthy, "bigger")
    foreign = next(
        block
        for block in range(2048)
        for _, why in healthy.allocations[address.Kind.FILE_BLOCK].doubts(inside.address, block, 1)
        if "another" in why
    )
    volume = volume_of("vmfs6", {entry_of(healthy, inside, 5): block_address(healthy, foreign)})
    assert volume.find("bigger").missing == ((5 << 20, 1 << 20),)


@pytest.mark.parametrize("name", ["vmfs5", "vmfs6"])
def test_a_map_that_leads_to_one_block_twice_proves_neither(name: str) -> None:
    healthy = volume_of(name)
    inside, _ = map_of(healthy, "bigger")
    (run,) = data_of(healthy, "bigger")
    first = (run.at - BASE) >> 20
    volume = volume_of(name, {entry_of(healthy, inside, 5): block_address(healthy, first + 90)})
    assert volume.find("bigger").missing == ((5 << 20, 1 << 20), (90 << 20, 1 << 20))


def test_a_block_to_be_zeroed_that_is_not_counted_proves_nothing() -> None:
    healthy = volume_of("vmfs5")
    inside, _ = map_of(healthy, "bigger")
    (value,) = struct.unpack("<I", healthy.space.read(entry_of(healthy, inside, 5), 4))
    volume = volume_of("vmfs5", {entry_of(healthy, inside, 5): struct.pack("<I", value | 0x20)})
    assert volume.find("bigger").status == Status.PARTIAL


@pytest.mark.parametrize("name", ["vmfs5", "vmfs6"])
@pytest.mark.parametrize(("path", "length"), [("bigger", 50 << 20), ("bigger", 0), ("", 0)])
def test_a_file_that_ends_before_its_blocks_do_is_not_whole(name: str, path: str, length: int) -> None:
    """In a block map, and in a descriptor that holds the bytes itself."""
    healthy = volume_of(name)
    path = path or resident_file(healthy)
    inside, _ = map_of(healthy, path)
    at = inside.lock.place + healthy.geometry.unit
    volume = volume_of(name, {at + 0x14: struct.pack("<Q", length)})
    found = volume.find(path)
    assert (found.size, found.status) == (length, Status.PARTIAL)
    assert found.reasons
    volume = volume_of(name, {at + 0x14: struct.pack("<Q", length), at + 0x84: b"\xff"})
    kept_ready = path == "bigger"
    assert (volume.find(path).status == Status.INTACT) == kept_ready


@pytest.mark.parametrize("length", [0, 140])
def test_a_folder_without_its_first_entries_is_damaged(length: int) -> None:
    healthy = volume_of("vmfs5")
    inside, _ = map_of(healthy, "collision")
    volume = volume_of("vmfs5", {inside.lock.place + healthy.geometry.unit + 0x14: struct.pack("<Q", length)})
    assert len(list(volume.walk())) < len(list(healthy.walk()))
    assert any("too short" in damage for damage in volume.damages())


def resident_file(volume: VmfsVolume) -> str:
    layouts = {one.path: map_of(volume, one.path)[0].layout for one in volume.walk() if one.size}
    return next(path for path, layout in layouts.items() if layout == descriptor.Layout.RESIDENT)


def entry_of(volume: VmfsVolume, inside: descriptor.Descriptor, number: int) -> int:
    """Where on the volume an entry of an FD's list is."""
    return inside.lock.place + volume.geometry.list_offset + volume.geometry.address_size * number


def block_address(volume: VmfsVolume, number: int) -> bytes:
    if not volume.geometry.wide:
        return struct.pack("<I", 1 | number << 6)
    cluster, item = divmod(number, volume.geometry.small_per_cluster)
    return struct.pack("<Q", 1 | cluster << 15 | item << 51)


def test_a_truncated_volume_without_lvm_knows_its_size() -> None:
    source = FileSource(samples.image("vmfs5d"))
    (volume,) = open_volumes([Changed(source, {}, 1 << 30)])
    assert 0 <= source.size - volume.space.size < 1 << 20
    assert any("ends" in damage for damage in volume.damages())
    volume.close()


@pytest.mark.parametrize("name", ["vmfs5", "vmfs6"])
def test_a_descriptor_of_another_generation_is_another_file(name: str) -> None:
    healthy = volume_of(name)
    inside, _ = map_of(healthy, "bigger")
    at = inside.lock.place + healthy.geometry.unit + 4
    volume = volume_of(name, {at: struct.pack("<I", 0x7777)})
    found = volume.find("bigger")
    assert found.status == Status.PARTIAL
    assert "another file" in found.reasons[0]
    assert volume.damages()


@pytest.mark.parametrize("name", ["vmfs5", "vmfs6"])
def test_a_folder_that_contains_itself_ends(name: str) -> None:
    healthy = volume_of(name)
    root = healthy.root
    entry = next(e for e in _entries(healthy) if e.name == "collision")
    run = next(iter(FileContent(root, healthy.resources).runs(entry.at, entry.at + 12)))
    back = struct.pack("<III", 2, address.ROOT, root.generation)
    volume = volume_of(name, {run.at - BASE: back})
    assert len(list(volume.walk())) < 200
    assert any("another place" in damage for damage in volume.damages())


def _entries(volume: VmfsVolume):
    from triune.disks.vmfs.directory import Listing

    content = FileContent(volume.root, volume.resources)
    return Listing(lambda at, length: read(content, at, length), content.size, volume.geometry).entries()


def test_names_and_folders() -> None:
    volume = volume_of("vmfs5")
    with pytest.raises(NotFound) as caught:
        volume.find("biger")
    assert "big" in caught.value.hint
    with pytest.raises(Conflict):
        volume.open(volume.find("collision"))
    assert volume.find("/").kind == "folder"
    assert volume.find("symlink").target == "/vmfs/volumes/vmfs5/small"
    assert volume.find("rdm-rdm.vmdk").kind == "rdm"
