"""Every kind of VMDK gives the bytes that QEMU gives; what is damaged is missing with a reason, never zeros."""

from __future__ import annotations

import random
import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.vmdks import (
    SECTOR,
    Bytes,
    Holed,
    MemoryFolder,
    cowd,
    from_raw,
    oracle,
    sample,
    samples,
    sesparse,
    whole,
)

from triune.disks import vmdk_descriptor
from triune.disks.content import Run
from triune.disks.vmdk_disk import open_disk
from triune.disks.vmdk_sparse import SparseExtent
from triune.domain.errors import Invalid, TriuneError

needs_qemu_img = pytest.mark.skipif(shutil.which("qemu-img") is None, reason="needs qemu-img")
KIB, MIB = 1 << 10, 1 << 20


def folder_of(path: Path) -> MemoryFolder:
    return MemoryFolder({file.name: file.read_bytes() for file in path.iterdir() if file.suffix == ".vmdk"})


def make_raw(path: Path, size: int, seed: int = 1) -> bytes:
    """A disk with data here and there, to the last byte."""
    chance = random.Random(seed)
    with path.open("wb") as file:
        file.truncate(size)
        for _ in range(25):
            file.seek(chance.randrange(size))
            file.write(chance.randbytes(min(chance.choice([100, 70000, 200000]), size - file.tell())))
        file.seek(size - 10)
        file.write(b"the end ok")
    return path.read_bytes()


@needs_qemu_img
@pytest.mark.parametrize(
    "subformat", ["monolithicSparse", "monolithicFlat", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat", "streamOptimized"]
)
@pytest.mark.parametrize("size", [300 * KIB, 35 * MIB + 512])
def test_disks_made_by_qemu(tmp_path: Path, subformat: str, size: int) -> None:
    raw = make_raw(tmp_path / "disk.raw", size)
    from_raw(tmp_path / "disk.raw", tmp_path / "disk.vmdk", subformat)
    disk = open_disk(folder_of(tmp_path), "disk.vmdk")
    data, missing = whole(disk)
    assert data[:size] == raw and not any(data[size:]) and not missing and not disk.damages()
    assert disk.kind == subformat


@needs_qemu_img
def test_several_extents(tmp_path: Path) -> None:
    from_raw_size = 5 << 30
    with (tmp_path / "disk.raw").open("wb") as file:
        for place in (0, (2 << 30) - 100, (4 << 30) + 5):
            file.seek(place)
            file.write(b"x" * 200)
        file.truncate(from_raw_size)
    from_raw(tmp_path / "disk.raw", tmp_path / "disk.vmdk", "twoGbMaxExtentSparse")
    disk = open_disk(folder_of(tmp_path), "disk.vmdk")
    assert len(disk.extents) == 3 and disk.size == from_raw_size
    held = [run for run in disk.runs() if run.source]
    assert sum(run.length for run in held) <= 5 * 64 * KIB
    (run,) = list(disk.runs((2 << 30) - 1, 2 << 30))
    assert run.source and run.source.read(run.at, run.length) == b"x"


@needs_qemu_img
@pytest.mark.parametrize(
    "name",
    [
        "monolithicSparse",
        "twoGbMaxExtentSparse",
        "streamOptimized",
        "streamOptimizedWithMarkers",
        "compressed_stream_opt",
        "dfvfs-ext2",
        "plaso-image",
        "tw_sparse",
    ],
)
def test_samples_equal_qemu(tmp_path: Path, name: str) -> None:
    files = samples()
    for each in (f"{name}.vmdk", f"{name}-s001.vmdk"):
        if each in files:
            (tmp_path / each).write_bytes(files[each])
    disk = open_disk(folder_of(tmp_path), f"{name}.vmdk")
    data, missing = whole(disk)
    assert data == oracle(tmp_path / f"{name}.vmdk") and not missing and not disk.damages()


@needs_qemu_img
def test_a_chain_of_snapshots_as_qemu_reads_it(tmp_path: Path) -> None:
    size = 9 * MIB
    make_raw(tmp_path / "base-flat.vmdk", size)
    (tmp_path / "base.vmdk").write_bytes(
        vmdk_descriptor.compose(
            (vmdk_descriptor.ExtentLine("RW", size // SECTOR, "VMFS", "base-flat.vmdk"),), create_type="vmfs", cid=0x11
        ).encode()
    )
    grains = {0: b"first", 77: b"a" * 512, 78: b"b" * 512, 4096: b"c" * 512, size // SECTOR - 1: b"last"}
    (tmp_path / "one-delta.vmdk").write_bytes(cowd(size, grains))
    (tmp_path / "one.vmdk").write_bytes(
        vmdk_descriptor.compose(
            (vmdk_descriptor.ExtentLine("RW", size // SECTOR, "VMFSSPARSE", "one-delta.vmdk"),),
            create_type="vmfsSparse",
            cid=0x22,
            parent=(0x11, "base.vmdk"),
        ).encode()
    )
    (tmp_path / "two-sesparse.vmdk").write_bytes(sesparse(size, {1: b"z" * 4096, 5: 2, 6: 1, 2100: b"y" * 4096}))
    (tmp_path / "two.vmdk").write_bytes(
        vmdk_descriptor.compose(
            (vmdk_descriptor.ExtentLine("RW", size // SECTOR, "SESPARSE", "two-sesparse.vmdk"),),
            create_type="seSparse",
            cid=0x33,
            parent=(0x22, "one.vmdk"),
        ).encode()
    )
    for name, chain in (("base.vmdk", 1), ("one.vmdk", 2), ("two.vmdk", 3)):
        disk = open_disk(folder_of(tmp_path), name)
        data, missing = whole(disk)
        assert len(disk.chain) == chain and not missing and not disk.damages()
        assert data == oracle(tmp_path / name)


@needs_qemu_img
def test_snapshots_of_hosted_disks(tmp_path: Path) -> None:
    make_raw(tmp_path / "disk.raw", 4 * MIB)
    from_raw(tmp_path / "disk.raw", tmp_path / "base.vmdk", "monolithicSparse")
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "vmdk", "-b", "base.vmdk", "-F", "vmdk", tmp_path / "top.vmdk"],
        check=True, cwd=tmp_path,
    )  # fmt: skip
    subprocess.run(["qemu-io", "-f", "vmdk", "-c", "write -P 7 100k 130k", tmp_path / "top.vmdk"], check=True)
    data, missing = whole(open_disk(folder_of(tmp_path), "top.vmdk"))
    assert data == oracle(tmp_path / "top.vmdk") and not missing


def small(seed: int = 3) -> tuple[bytes, bytes]:
    """A hosted sparse disk of 64 MiB and its content."""
    data = sample("monolithicSparse.vmdk")
    return data, whole(open_disk(MemoryFolder({"d.vmdk": data}), "d.vmdk"))[0]


GD, RGD = 0x38, 0x30


def sector_at(data: bytes, field: int) -> int:
    return int.from_bytes(data[field : field + 8], "little") * SECTOR


@pytest.mark.parametrize("field", [GD, RGD])
@pytest.mark.parametrize("damage", [b"\0" * 512, b"\xff" * 512, b"\x81\x01\x77\x66" * 128])
@pytest.mark.parametrize("what", ["directory", "table"])
def test_the_other_directory_is_used(field: int, damage: bytes, what: str) -> None:
    data, content = small()
    place = sector_at(data, field)
    if what == "table":
        place = int.from_bytes(data[place : place + 4], "little") * SECTOR
    broken = bytearray(data)
    broken[place : place + 512] = damage
    disk = open_disk(MemoryFolder({"d.vmdk": bytes(broken)}), "d.vmdk")
    assert whole(disk) == (content, [])
    assert any("the other was used" in sentence for sentence in disk.damages())


def test_copies_that_disagree_are_not_guessed() -> None:
    data, content = small()
    table = int.from_bytes(data[sector_at(data, GD) :][:4], "little") * SECTOR
    broken = bytearray(data)
    one, other = table, table + 4
    broken[one : one + 4], broken[other : other + 4] = data[other : other + 4], data[one : one + 4]
    got, missing = whole(open_disk(MemoryFolder({"d.vmdk": bytes(broken)}), "d.vmdk"))
    assert missing and got[2 * 64 * KIB :] == content[2 * 64 * KIB :]
    assert {offset // (64 * KIB) for offset, _, _ in missing} <= {0, 1}


def test_without_any_table_all_is_missing_but_nothing_is_zeros() -> None:
    data, _ = small()
    broken = bytearray(data)
    for field in (GD, RGD):
        broken[sector_at(data, field) :][:0] = b""
        broken[sector_at(data, field) : sector_at(data, field) + 512] = b"\xfe" * 512
    _, missing = whole(open_disk(MemoryFolder({"d.vmdk": bytes(broken)}), "d.vmdk"))
    assert sum(length for _, length, _ in missing) == 10 * MIB


@pytest.mark.parametrize("keep", [0.3, 0.8, 0.99])
def test_a_file_cut_off(keep: float) -> None:
    data, content = small()
    got, missing = whole(open_disk(MemoryFolder({"d.vmdk": data[: int(len(data) * keep)]}), "d.vmdk"))
    assert missing and check_equal_elsewhere(got, content, missing)


def check_equal_elsewhere(got: bytes, content: bytes, missing: list[tuple[int, int, str]]) -> bool:
    expected = bytearray(content)
    for offset, length, _ in missing:
        expected[offset : offset + length] = bytes(length)
    return bytes(expected) == got


def test_what_the_volume_lost_is_missing_in_the_disk() -> None:
    data, content = small()
    place = int.from_bytes(data[sector_at(data, GD) :][:4], "little") * SECTOR
    grain = max(struct.unpack("<128I", data[place : place + 512])) * SECTOR
    disk = open_disk(MemoryFolder({"d.vmdk": Holed(data, [(grain + 1000, 24)])}), "d.vmdk")
    got, missing = whole(disk)
    assert [(length, why) for _, length, why in missing] == [(24, "torn")]
    assert check_equal_elsewhere(got, content, missing)


@pytest.mark.parametrize("damage", ["directory", "cut"])
def test_the_map_of_a_stream_from_its_markers(damage: str) -> None:
    data = sample("streamOptimizedWithMarkers.vmdk")
    content = whole(open_disk(MemoryFolder({"d.vmdk": data}), "d.vmdk"))[0]
    broken = bytearray(data)
    if damage == "directory":
        place = sector_at(data, GD)
        broken[place : place + 512] = b"\xee" * 512
    else:
        broken[GD : GD + 8] = b"\xff" * 8
        del broken[sector_at(data, GD) - 1024 :]
    disk = open_disk(MemoryFolder({"d.vmdk": bytes(broken)}), "d.vmdk")
    got, missing = whole(disk)
    assert check_equal_elsewhere(got, content, missing) and any("markers" in each for each in disk.damages())
    assert sum(length for _, length, _ in missing) == 0


def test_a_damaged_grain_of_a_stream_is_missing() -> None:
    data = sample("streamOptimizedWithMarkers.vmdk")
    content = whole(open_disk(MemoryFolder({"d.vmdk": data}), "d.vmdk"))[0]
    broken = bytearray(data)
    broken[len(data) // 2] ^= 0x10
    got, missing = whole(open_disk(MemoryFolder({"d.vmdk": bytes(broken)}), "d.vmdk"))
    assert [length for _, length, _ in missing] == [64 * KIB] and check_equal_elsewhere(got, content, missing)


def descriptor(line: str, more: str = "") -> bytes:
    return f"# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\n{more}\n{line}\n".encode()


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../secret", "a/../../secret", "..\\secret", "\\\\.\\PhysicalDrive0", ""]
)
@pytest.mark.parametrize("kind", ["FLAT", "SPARSE", "VMFS"])
def test_extents_never_leave_the_folder(name: str, kind: str) -> None:
    folder = MemoryFolder({"d.vmdk": descriptor(f'RW 8 {kind} "{name}" 0'), name: b"s" * 4096, "secret": b"s" * 4096})
    disk = open_disk(folder, "d.vmdk")
    (found,) = whole(disk)[1]
    assert found[:2] == (0, 4096) and "outside" in found[2]


def test_raw_devices_are_told() -> None:
    folder = MemoryFolder({"d.vmdk": descriptor('RW 8 VMFSRDM "d-rdm.vmdk"'), "d-rdm.vmdk": b""})
    assert "device" in whole(open_disk(folder, "d.vmdk"))[1][0][2]


def test_what_a_flat_extent_holds_is_not_looked_at() -> None:
    flat = sample("plaso-image.vmdk")
    folder = MemoryFolder({"d.vmdk": descriptor(f'RW {len(flat) // 512} VMFS "d-flat.vmdk"'), "d-flat.vmdk": flat})
    assert whole(open_disk(folder, "d.vmdk")) == (flat, [])
    assert whole(open_disk(MemoryFolder({"x": b"ab"}), "x", raw=True)) == (b"ab", [])
    with pytest.raises(Invalid) as caught:
        open_disk(MemoryFolder({"x": b"ab" * 512}), "x")
    assert caught.value.code == "unknown_disk"


def test_parents_that_are_missing_changed_or_circular() -> None:
    def one(parent: str, cid: str = "1") -> bytes:
        return descriptor('RW 16 VMFSSPARSE "d-delta.vmdk"', f'parentFileNameHint="{parent}"').replace(
            b"parentCID=ffffffff", f"parentCID={cid}".encode()
        )

    delta = cowd(8192, {1: b"own"})
    base = {"b.vmdk": descriptor('RW 16 FLAT "b-flat.vmdk" 0'), "b-flat.vmdk": b"p" * 8192}
    disk = open_disk(MemoryFolder({"d.vmdk": one("b.vmdk"), "d-delta.vmdk": delta, **base}), "d.vmdk")
    assert whole(disk)[0].startswith(b"p" * 512 + b"own") and not disk.damages()
    disk = open_disk(MemoryFolder({"d.vmdk": one("b.vmdk", "7"), "d-delta.vmdk": delta, **base}), "d.vmdk")
    assert any("state 00000001, not 00000007" in each for each in disk.damages())
    disk = open_disk(MemoryFolder({"d.vmdk": one("/gone/b.vmdk"), "d-delta.vmdk": delta}), "d.vmdk")
    assert [length for _, length, _ in whole(disk)[1]] == [512, 8192 - 1024] and disk.damages()
    disk = open_disk(MemoryFolder({"d.vmdk": one("/vmfs/volumes/x/b.vmdk"), "d-delta.vmdk": delta, **base}), "d.vmdk")
    assert disk.parent is not None
    disk = open_disk(MemoryFolder({"d.vmdk": one("d.vmdk"), "d-delta.vmdk": delta}), "d.vmdk")
    assert disk.parent is None and any("itself" in each for each in disk.damages())
    disk = open_disk(MemoryFolder({"d-delta.vmdk": delta}), "d-delta.vmdk")
    assert whole(disk)[1] and any("descriptor is missing" in each for each in disk.damages())
    disk = open_disk(MemoryFolder({"d.vmdk": one("b.vmdk"), "d-delta.vmdk": delta, **base}), "d-delta.vmdk")
    assert not whole(disk)[1]


def test_a_se_sparse_that_was_not_closed() -> None:
    disk = open_disk(MemoryFolder({"s.vmdk": sesparse(MIB, {0: b"x"}, replay=1)}), "s.vmdk")
    assert any("journal" in each for each in disk.damages())


def test_a_huge_thin_disk_is_seen_at_once() -> None:
    head = bytearray(sample("plaso-image.vmdk")[:512])
    head[0x0C:0x14] = ((62 << 40) // SECTOR).to_bytes(8, "little")
    head[GD : GD + 8] = (8).to_bytes(8, "little")
    head[8:12] = (1).to_bytes(4, "little")
    data = Holed(bytes(head) + bytes(16 * MIB), [])
    (run,) = open_disk(MemoryFolder({"d.vmdk": data}), "d.vmdk").runs()
    assert run == Run(0, 62 << 40)


SEEDS = [sample("plaso-image.vmdk"), sample("compressed_stream_opt.vmdk"), cowd(MIB, {3: b"x", 2000: b"y"}),
         sesparse(MIB, {3: b"x", 200: b"y", 9: 2}), sample("twoGbMaxExtentSparse.vmdk")]  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(SEEDS), st.lists(st.tuples(st.integers(0, 1 << 20), st.binary(min_size=1, max_size=8)), max_size=6)
)
def test_mutated_disks_neither_crash_nor_hang(seed: bytes, changes: list[tuple[int, bytes]]) -> None:
    data = bytearray(seed)
    for place, value in changes:
        # Half of the changes hit the header and the first tables.
        at = place % min(len(data), 4096) if place % 2 else place % len(data)
        data[at : at + len(value)] = value
    folder = MemoryFolder({"d.vmdk": bytes(data), "twoGbMaxExtentSparse-s001.vmdk": bytes(data)})
    try:
        disk = open_disk(folder, "d.vmdk", raw=True)
        position = 0
        for _, run in zip(range(3000), disk.runs(), strict=False):
            assert run.offset == position and run.length > 0
            position += run.length
            if isinstance(run.source, Bytes):
                assert run.at >= 0 and run.at + run.length <= run.source.size
        disk.damages()
    except TriuneError:
        pass


@pytest.mark.parametrize(("place", "value"), [(16, 3), (24, 9)])
def test_headers_that_contradict_themselves(place: int, value: int) -> None:
    data = bytearray(cowd(MIB, {3: b"x"}))
    data[place : place + 4] = value.to_bytes(4, "little")
    if place == 16:
        with pytest.raises(Invalid):
            open_disk(MemoryFolder({"d.vmdk": bytes(data)}), "d.vmdk")
    else:
        data[place : place + 4] = (1000).to_bytes(4, "little")
        disk = open_disk(MemoryFolder({"d.vmdk": bytes(data)}), "d.vmdk")
        assert any("contradicts itself" in each for each in disk.damages())


def test_grains_that_lie_in_a_table_or_on_each_other() -> None:
    data = cowd(MIB, {3: b"three", 4: b"four"})
    table = 5 * SECTOR
    for entry, value, shared in ((3, 0, 0), (3, 5, 1), (4, 4, 1), (3, 38, 1)):
        changed = bytearray(data)
        changed[table + 4 * entry : table + 4 * entry + 4] = value.to_bytes(4, "little")
        (_, extent) = open_disk(MemoryFolder({"d.vmdk": bytes(changed)}), "d.vmdk").extents[0]
        assert isinstance(extent, SparseExtent)
        stored, found = extent.shared_grains() or (0, 0)
        assert (stored, found) == (2 - (value == 0), shared)


def test_the_capacity_of_header_and_descriptor() -> None:
    data = bytearray(sample("plaso-image.vmdk"))
    data[12:20] = (100).to_bytes(8, "little")
    disk = open_disk(MemoryFolder({"d.vmdk": bytes(data)}), "d.vmdk")
    assert any("header says 51200 bytes" in each for each in disk.damages())
