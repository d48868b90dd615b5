"""Overlays written by us are what qemu-img would have made; snapshot tables are read as it tells them."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triune.disks.qcow2_overlay import is_untouched, write_overlay
from triune.disks.qcow2_tables import read_backing, read_snapshots
from triune.domain.errors import Invalid

needs_qemu = pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-img is not installed")


def img(*argv: str | Path) -> str:
    return subprocess.run(["qemu-img", *map(str, argv)], check=True, capture_output=True, text=True).stdout


def io_(path: Path, *commands: str) -> None:
    subprocess.run(["qemu-io", "-f", "qcow2", *[x for c in commands for x in ("-c", c)], str(path)], check=True)


@needs_qemu
@pytest.mark.parametrize("size", [512, 1 << 20, 10 << 30, 5 << 40])
def test_an_overlay_is_good_and_stands_on_its_backing(tmp_path: Path, size: int) -> None:
    base, overlay = tmp_path / "base.qcow2", tmp_path / "overlay.qcow2"
    img("create", "-q", "-f", "qcow2", base, size)
    write_overlay(overlay, size, base, "qcow2")
    info = json.loads(img("info", "--output=json", overlay))
    assert info["virtual-size"] == size
    assert info["full-backing-filename"] == str(base)
    assert info["backing-filename-format"] == "qcow2"
    assert "no errors" in img("check", overlay).lower()
    with overlay.open("rb") as stream:
        assert is_untouched(stream)
        assert read_backing(stream) == str(base)
    with base.open("rb") as stream:
        assert read_backing(stream) is None


@needs_qemu
def test_what_is_written_to_an_overlay_stays_there(tmp_path: Path) -> None:
    base, overlay = tmp_path / "base.raw", tmp_path / "overlay.qcow2"
    base.write_bytes(b"\x11" * (8 << 20))
    write_overlay(overlay, 1 << 30, base, "raw")
    io_(overlay, "read -P 0x11 0 8M", "read -P 0 8M 8M", "write -P 0x22 1M 3M", "write -P 0x33 1000M 1M")
    io_(overlay, "read -P 0x11 0 1M", "read -P 0x22 1M 3M", "read -P 0x11 4M 4M", "read -P 0x33 1000M 1M")
    assert "no errors" in img("check", overlay).lower()
    assert base.read_bytes() == b"\x11" * (8 << 20)
    with overlay.open("rb") as stream:
        assert not is_untouched(stream)


def test_an_overlay_replaces_nothing_and_has_a_sane_size(tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.write_text("mine")
    with pytest.raises(FileExistsError):
        write_overlay(there, 512, tmp_path / "base", "raw")
    assert there.read_text() == "mine"
    for size in (0, -512, 513, 1 << 60):
        with pytest.raises(Invalid):
            write_overlay(tmp_path / "new", size, tmp_path / "base", "raw")


@needs_qemu
def test_snapshots_are_read_as_qemu_img_tells_them(tmp_path: Path) -> None:
    disk = tmp_path / "disk.qcow2"
    img("create", "-q", "-f", "qcow2", disk, "64M")
    names = ["one", "zwei-ä", "x" * 200, "last.3"]
    for number, name in enumerate(names):
        io_(disk, f"write -P {number} {number}M 1M")
        img("snapshot", "-c", name, disk)
    told = json.loads(img("info", "--output=json", disk))["snapshots"]
    with disk.open("rb") as stream:
        found = read_snapshots(stream)
        assert not is_untouched(stream)
    assert [one.name for one in found] == names
    assert [one.id for one in found] == [one["id"] for one in told]
    assert [one.taken for one in found] == [one["date-sec"] for one in told]
    assert all(one.state_size == 0 for one in found)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    if shutil.which("qemu-img") is None:
        pytest.skip("qemu-img is not installed")
    disk = tmp_path_factory.mktemp("qcow2") / "disk.qcow2"
    img("create", "-q", "-f", "qcow2", disk, "1M")
    img("snapshot", "-c", "one", disk)
    img("snapshot", "-c", "two", disk)
    return disk.read_bytes()


@given(st.lists(st.tuples(st.integers(0, 2000), st.binary(max_size=8)), max_size=4), st.integers(0, 400_000))
def test_a_damaged_table_is_invalid_and_nothing_else(
    image: bytes, places: list[tuple[int, bytes]], length: int
) -> None:
    spoiled = bytearray(image)
    table = int.from_bytes(image[64:72], "big")
    for offset, data in places:
        where = offset if offset % 2 else table + offset // 16
        spoiled[where : where + len(data)] = data
    stream = io.BytesIO(bytes(spoiled[:length]) if length < 300_000 else bytes(spoiled))
    for reader in (read_snapshots, read_backing, is_untouched):
        try:
            reader(stream)
        except Invalid as error:
            assert error.code == "corrupt_image"


@given(st.binary(max_size=300))
def test_noise_is_invalid(noise: bytes) -> None:
    for reader in (read_snapshots, read_backing, is_untouched):
        with pytest.raises(Invalid):
            reader(io.BytesIO(noise))
