"""Partition tables as sfdisk writes them, whole and damaged."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.vmdks import Bytes

from triune.disks.partitions import PartitionTable, read_partitions

needs_sfdisk = pytest.mark.skipif(shutil.which("sfdisk") is None, reason="needs sfdisk")
MIB = 1 << 20
GPT = "label: gpt\nsize=2MiB, type=U, name=boot\nsize=3MiB, type=L, name=root\n"
MBR = "label: dos\nsize=2MiB, type=83, bootable\nsize=8MiB, type=5\n5: size=1MiB, type=7\n6: size=1MiB, type=8e\n"


def disk(tmp_path: Path, script: str) -> bytearray:
    path = tmp_path / "disk"
    with path.open("wb") as file:
        file.truncate(16 * MIB)
    subprocess.run(["sfdisk", "-q", path], input=script, text=True, check=True)
    return bytearray(path.read_bytes())


def read(data: bytes) -> PartitionTable | None:
    return read_partitions(Bytes(bytes(data)))


@needs_sfdisk
def test_gpt_and_its_backup(tmp_path: Path) -> None:
    data = disk(tmp_path, GPT)
    table = read(data)
    assert table and table.kind == "gpt" and not table.problems
    assert [(each.number, each.start, each.size, each.type, each.name) for each in table.partitions] == [
        (1, MIB, 2 * MIB, "EFI system", "boot"),
        (2, 3 * MIB, 3 * MIB, "Linux data", "root"),
    ]
    for place in (512 + 20, 1024 + 3):
        broken = bytearray(data)
        broken[place] ^= 1
        again = read(broken)
        assert again and again.partitions == table.partitions and "backup was used" in again.problems[0]
    again = read(data[: 12 * MIB])
    assert again and again.partitions == table.partitions and "backup" in again.problems[0]
    del broken[MIB:]
    assert (lost := read(broken)) is not None and "GPT, which is damaged" in lost.problems[0]


@needs_sfdisk
def test_mbr_and_logical_partitions(tmp_path: Path) -> None:
    data = disk(tmp_path, MBR)
    table = read(data)
    assert table and table.kind == "mbr" and not table.problems
    assert [(each.number, each.size, each.type) for each in table.partitions] == [
        (1, 2 * MIB, "Linux"),
        (5, MIB, "NTFS or exFAT"),
        (6, MIB, "Linux LVM"),
    ]
    short = read(data[: 2 * MIB])
    assert short and any("behind the disk's end" in each for each in short.problems)


@pytest.mark.parametrize("data", [b"", b"x" * 511, bytes(4096), b"\xeb\x3c\x90mkfs.fat" + bytes(499) + b"\x55\xaa"])
def test_no_table(data: bytes) -> None:
    assert read(data) is None


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 2047), st.integers(0, 255)), max_size=20), st.booleans())
def test_mutated_tables(changes: list[tuple[int, int]], gpt: bool) -> None:
    data = bytearray(2048)
    data[510:512] = b"\x55\xaa"
    data[450], data[454:462] = 5, b"\x01\0\0\0\x02\0\0\0"
    if gpt:
        data[512:520] = b"EFI PART"
    data[1022:1024] = b"\x55\xaa"
    data[512 + 446 + 16 + 4] = 5
    for place, value in changes:
        data[place] = value
    read(data)
