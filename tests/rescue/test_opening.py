"""Volumes are found whatever they are wrapped in: partitions, other disk formats, parts, extents in any order."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import uuid
import zlib
from pathlib import Path

import pytest

from tests.rescue import samples
from triune.disks.source import FileSource
from triune.domain.errors import Invalid, NotFound, TriuneError
from triune.services.rescue.opening import open_volumes
from triune.services.rescue.sources import open_sources

needs_qemu_img = pytest.mark.skipif(shutil.which("qemu-img") is None, reason="needs qemu-img")
MIB = 1 << 20


def files_of(*paths: Path) -> dict[str, int]:
    sources = open_sources(paths)
    try:
        return {found.path: found.size for volume in open_volumes(sources) for found in volume.walk()}
    finally:
        for source in sources:
            source.close()


@pytest.fixture(scope="module")
def expected() -> dict[str, int]:
    found = files_of(samples.image("vmfs5"))
    assert len(found) > 120
    return found


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return samples.copy("vmfs5", tmp_path_factory.mktemp("small") / "vmfs5.img")


@pytest.fixture(scope="module")
def slice_of(small: Path) -> Path:
    """The first 48 MiB."""
    path = small.with_name("slice.img")
    subprocess.run(["dd", f"if={small}", f"of={path}", "bs=1M", "count=48", "status=none"], check=True)
    return path


def partitioned(image: Path, target: Path, start: int, *, gpt: bool, primary: bool = True) -> Path:
    """The image as the one partition of a disk; sparse."""
    size = image.stat().st_size
    total = start + size + MIB
    subprocess.run(["truncate", "-s", str(total), target], check=True)
    copy = ["dd", f"if={image}", f"of={target}", "bs=1M", f"seek={start}", "oflag=seek_bytes", "conv=notrunc,sparse"]
    subprocess.run(copy, check=True, capture_output=True)
    with target.open("r+b") as disk:
        kind = 0xEE if gpt else 0xFB
        disk.seek(446)
        disk.write(struct.pack("<B3sB3sII", 0, b"", kind, b"", 1 if gpt else start // 512, size // 512))
        disk.seek(510)
        disk.write(b"\x55\xaa")
        if gpt:
            _write_gpt(disk, start, size, total, primary)
    return target


def _write_gpt(disk, start: int, size: int, total: int, primary: bool) -> None:
    vmfs = uuid.UUID("AA31E02A-400F-11DB-9590-000C2911D1B8").bytes_le
    entry = struct.pack("<16s16sQQQ72s", vmfs, uuid.uuid4().bytes_le, start // 512, (start + size) // 512 - 1, 0, b"")
    entries = entry.ljust(128 * 128, b"\0")
    last = total // 512 - 1
    for own, other, table in ((1, last, 2), (last, 1, last - 32))[0 if primary else 1 :]:
        fields = (own, other, 34, last - 33, b"", table, 128, 128, zlib.crc32(entries))
        head = struct.pack("<8sIIIIQQQQ16sQIII", b"EFI PART", 1 << 16, 92, 0, 0, *fields)
        disk.seek(own * 512)
        disk.write(head[:16] + struct.pack("<I", zlib.crc32(head)) + head[20:])
        disk.seek(table * 512)
        disk.write(entries)


@pytest.mark.parametrize(
    ("gpt", "primary", "start"),
    [
        (True, False, MIB),
        pytest.param(True, True, MIB, marks=pytest.mark.heavy),
        pytest.param(False, True, 128 * 512, marks=pytest.mark.heavy),
    ],
)
def test_a_volume_in_a_partition(
    small: Path, tmp_path: Path, expected: dict[str, int], gpt: bool, primary: bool, start: int
) -> None:
    disk = partitioned(small, tmp_path / "disk.img", start, gpt=gpt, primary=primary)
    assert files_of(disk) == expected
    with disk.open("r+b") as file:  # without its table, the usual places are looked at
        file.write(bytes(64 * 512))
    if primary:
        assert files_of(disk) == expected


@needs_qemu_img
@pytest.mark.parametrize("form", ["qcow2", "vmdk", "vhdx", "vdi", "vpc"])
def test_another_disk_format_gives_the_same_bytes(slice_of: Path, tmp_path: Path, form: str) -> None:
    disk = tmp_path / f"disk.{form}"
    subprocess.run(["qemu-img", "convert", "-O", form, slice_of, disk], check=True)
    (source,) = open_sources([disk])
    raw = FileSource(slice_of)
    for offset in range(0, raw.size, 5 * MIB - 700):
        length = min(5 * MIB, raw.size - offset)
        assert source.read(offset, length) == raw.read(offset, length), offset
    source.close()


@needs_qemu_img
@pytest.mark.parametrize(
    "form", ["qcow2", *(pytest.param(f, marks=pytest.mark.heavy) for f in ("vmdk", "vhdx", "vdi"))]
)
def test_a_volume_in_another_disk_format(small: Path, tmp_path: Path, expected: dict[str, int], form: str) -> None:
    disk = tmp_path / f"disk.{form}"
    subprocess.run(["qemu-img", "convert", "-O", form, small, disk], check=True)
    assert files_of(disk) == expected


@needs_qemu_img
@pytest.mark.parametrize("form", ["qcow2", "vhdx", "vdi"])
def test_a_disk_that_is_cut_off_never_gives_zeros_for_the_rest(slice_of: Path, tmp_path: Path, form: str) -> None:
    disk = tmp_path / f"disk.{form}"
    subprocess.run(["qemu-img", "convert", "-O", form, slice_of, disk], check=True)
    os.truncate(disk, disk.stat().st_size * 2 // 3)
    raw = FileSource(slice_of)
    (source,) = open_sources([disk])
    failed = 0
    for offset in range(0, raw.size, MIB // 2):
        try:
            assert source.read(offset, MIB // 2) == raw.read(offset, MIB // 2), offset
        except TriuneError:
            failed += 1
    assert failed > 0


def test_a_raw_image_in_parts(small: Path, tmp_path: Path, expected: dict[str, int]) -> None:
    for number in range(3):
        part = ["dd", f"if={small}", f"of={tmp_path}/disk.00{number + 1}", "bs=1M", "conv=sparse", "status=none"]
        subprocess.run([*part, f"skip={number * 700}", "count=700"], check=True)
    parts = sorted(tmp_path.glob("disk.*"))
    assert len(parts) == 3
    assert files_of(parts[0]) == expected
    assert files_of(*parts) == expected
    parts[1].unlink()
    (source,) = open_sources([parts[0]])
    (volume,) = open_volumes([source])
    found = {one.path: one for one in volume.walk()}
    assert set(found) == set(expected)
    volume.close()


@pytest.mark.parametrize("name", ["vmfs5-span", "vmfs6-span"])
def test_extents_come_in_any_order_and_one_may_be_missing(name: str) -> None:
    first, second = samples.images(name)
    assert files_of(second, first) == files_of(first, second)
    (volume,) = open_volumes(open_sources([first]))
    assert any("1 of the volume's 2 extents" in damage for damage in volume.damages())
    volume.close()
    with pytest.raises(Invalid):
        open_volumes(open_sources([second]))


def test_what_holds_no_volume_is_refused(tmp_path: Path) -> None:
    empty = tmp_path / "empty.img"
    empty.write_bytes(bytes(4096))
    with pytest.raises(NotFound) as caught:
        open_volumes(open_sources([empty]))
    assert caught.value.code == "no_volume"


@pytest.mark.skipif(shutil.which("ewfacquire") is None, reason="needs ewfacquire (ewf-tools)")
@pytest.mark.parametrize(("compression", "count"), [("fast", 1), ("none", 5)])
def test_an_evidence_file_gives_the_same_bytes(slice_of: Path, tmp_path: Path, compression: str, count: int) -> None:
    argv = ["ewfacquire", "-u", "-q", "-t", str(tmp_path / "disk"), "-S", "10MiB", "-c", compression, "-f", "encase6"]
    subprocess.run([*argv, str(slice_of)], check=True, capture_output=True)
    parts = sorted(tmp_path.glob("disk.E*"))
    assert len(parts) == count
    raw = FileSource(slice_of)
    for named in (parts[:1], parts):
        (source,) = open_sources(named)
        assert source.size == raw.size
        for offset in range(0, raw.size, 5 * MIB - 700):
            length = min(5 * MIB, raw.size - offset)
            assert source.read(offset, length) == raw.read(offset, length), offset
        source.close()
    if count > 2:  # without its end, nothing is made up for it
        parts.pop().unlink()
        (source,) = open_sources(parts[:1])
        failed = 0
        for offset in range(0, raw.size, MIB):
            try:
                assert source.read(offset, MIB) == raw.read(offset, MIB), offset
            except TriuneError:
                failed += 1
        assert failed
        source.close()
    if count > 2:  # a part that is missing must not let the next one take its place
        parts[1].unlink()
        with pytest.raises(Invalid) as caught:
            open_sources(parts[:1])
        assert "part 2" in caught.value.message


def test_a_source_that_cant_be_opened_closes_those_before_it(small: Path, tmp_path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(NotFound):
        open_sources([small, tmp_path / "none.img"])
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_volume_beside_one_that_cant_be_opened_says_so(small: Path, tmp_path: Path) -> None:
    broken = samples.copy("vmfs6", tmp_path / "broken.img")
    with broken.open("r+b") as file:
        file.seek(0x1300000)
        file.write(bytes(512))
    (volume,) = open_volumes(open_sources([small, broken]))
    assert volume.label == "vmfs5"
    assert any("another volume" in damage for damage in volume.damages())
    volume.close()
