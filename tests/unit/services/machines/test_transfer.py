"""Content over NBD: what QEMU's own tools read of it, and the sum that proves it."""

from __future__ import annotations

import hashlib
import itertools
import os
import shutil
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from triune.disks.content import Run
from triune.disks.source import FileSource
from triune.domain.errors import Denied, Failed, Invalid, TriuneError
from triune.host.nbd import NbdReader, data_ranges
from triune.services.machines import transfer
from triune.services.machines.origin import direct, open_file
from triune.services.machines.serving import serve

MIB = 1 << 20
pytestmark = pytest.mark.skipif(shutil.which("qemu-img") is None, reason="needs qemu-img")


class Sparse:
    """Data at some places of a disk, the rest zeros; some of it may be lost."""

    def __init__(self, path: Path, size: int, places: list[int], lost: tuple[int, int] | None = None) -> None:
        with path.open("wb") as file:
            file.truncate(size)
            for place in places:
                os.pwrite(file.fileno(), os.urandom(3000), place)
        self.size, self._places, self._lost = size, places, lost
        self._source = FileSource(path)

    def runs(self, start: int = 0, end: int | None = None) -> Iterator[Run]:
        end = self.size if end is None else min(end, self.size)
        edges = (at for place in self._places for at in (place, place + 3000))
        marks = sorted({start, end, *(at for at in edges if start < at < end)})
        for first, last in itertools.pairwise(marks):
            data = any(place <= first < place + 3000 for place in self._places)
            lost = self._lost is not None and self._lost[0] <= first < sum(self._lost)
            yield Run(first, last - first, self._source if data and not lost else None, first, "gone" if lost else "")


@pytest.fixture
def disk(tmp_path: Path) -> Sparse:
    return Sparse(tmp_path / "raw", 37 * MIB + 512, [0, 5 * MIB - 1000, 36 * MIB + 7])


def quiet(_: float | None) -> None:
    pass


def expected(raw: bytes) -> str:
    total = hashlib.sha256(b"triune-pieces-1MiB" + struct.pack(">Q", len(raw)))
    for number in range(-(-len(raw) // MIB)):
        piece = raw[number * MIB : (number + 1) * MIB]
        if piece.strip(b"\0"):
            total.update(struct.pack(">Q", number) + hashlib.sha256(piece).digest())
    return total.hexdigest()


def test_a_disk_becomes_qcow2_with_the_same_content(disk: Sparse, tmp_path: Path) -> None:
    with serve({"a": disk}) as exports:
        transfer.convert(exports["a"], tmp_path / "copy", quiet)
        before = transfer.digest(exports["a"], quiet)
    with transfer.served(tmp_path / "copy", "qcow2") as export:
        after = transfer.digest(export, quiet)
    raw = (tmp_path / "raw").read_bytes()
    assert before == after == (len(raw), expected(raw))
    done = subprocess.run(
        ["qemu-img", "compare", "-f", "raw", "-F", "qcow2", tmp_path / "raw", tmp_path / "copy"], capture_output=True
    )
    assert done.returncode == 0, done.stdout


def test_another_content_has_another_sum(disk: Sparse, tmp_path: Path) -> None:
    with serve({"a": disk}) as exports:
        before = transfer.digest(exports["a"], quiet)
        with (tmp_path / "raw").open("r+b") as file:
            os.pwrite(file.fileno(), b"!", 5 * MIB + 3)
        assert transfer.digest(exports["a"], quiet) != before


def test_holes_are_told_and_not_read(disk: Sparse) -> None:
    with serve({"a": disk}) as exports:
        ranges = data_ranges(None, exports["a"].socket, exports["a"].name)
    assert sum(length for _, length in ranges) < 3 * 70_000
    assert [start // MIB for start, _ in ranges] == [0, 4, 36]


def test_what_is_missing_can_not_be_read_unless_zeros_may_take_its_place(tmp_path: Path) -> None:
    broken = Sparse(tmp_path / "raw", 8 * MIB, [0, 5 * MIB], lost=(5 * MIB, 3000))
    with serve({"a": broken}) as exports:
        with pytest.raises(Failed):
            transfer.convert(exports["a"], tmp_path / "copy", quiet)
        with pytest.raises(Failed):
            transfer.digest(exports["a"], quiet)
    with serve({"a": broken}, zeros=True) as exports:
        transfer.convert(exports["a"], tmp_path / "copy", quiet)
        reader = NbdReader(exports["a"].socket, exports["a"].name)
        assert reader.read(5 * MIB, 3000) == bytes(3000)
        reader.close()


def test_an_export_of_another_name_and_a_read_outside_are_refused(disk: Sparse) -> None:
    with serve({"a": disk}) as exports:
        with pytest.raises(OSError, match="no export"):
            NbdReader(exports["a"].socket, "other")
        reader = NbdReader(exports["a"].socket, exports["a"].name)
        with pytest.raises(OSError):
            reader.read(disk.size - 10, 20)
        assert len(reader.read(disk.size - 10, 10)) == 10
        reader.close()


@pytest.mark.parametrize("subformat", ["monolithicSparse", "streamOptimized"])
def test_plain_files_and_parts_of_them(disk: Sparse, tmp_path: Path, subformat: str) -> None:
    vmdk = tmp_path / "a.vmdk"
    subprocess.run(
        ["qemu-img", "convert", "-f", "raw", "-O", "vmdk", "-o", f"subformat={subformat}", tmp_path / "raw", vmdk],
        check=True,
    )
    archive = tmp_path / "archive"
    archive.write_bytes(bytes(1536) + vmdk.read_bytes() + b"behind")
    sums = set()
    for source in (
        transfer.Plain(path=vmdk, format="vmdk"),
        transfer.Plain(path=archive, format="vmdk", offset=1536, length=vmdk.stat().st_size),
        transfer.Plain(path=tmp_path / "raw", format="raw"),
    ):
        copy = tmp_path / "copy"
        transfer.convert_file(source, copy, quiet)
        with transfer.served(copy, "qcow2") as export:
            sums.add(transfer.digest(export, quiet))
    assert sums == {(disk.size, expected((tmp_path / "raw").read_bytes()))}


def test_files_that_lead_elsewhere_are_refused(tmp_path: Path) -> None:
    text = tmp_path / "a.vmdk"
    text.write_text('# Disk DescriptorFile\nversion=1\ncreateType="monolithicFlat"\nRW 8 FLAT "/etc/shadow" 0\n')
    link = tmp_path / "link"
    link.symlink_to(text)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with pytest.raises(Denied):
        transfer.require_plain(transfer.Plain(path=text, format="vmdk"))
    for path, form in ((link, "raw"), (fifo, "raw"), (text, "qcow2"), (tmp_path / "none", "raw")):
        with pytest.raises((Invalid, TriuneError)):
            transfer.require_plain(transfer.Plain(path=path, format=form))


def test_snapshots_become_one_disk_with_the_newest_state(disk: Sparse, tmp_path: Path) -> None:
    base, snapshot, copy = tmp_path / "web.vmdk", tmp_path / "web-000001.vmdk", tmp_path / "copy"
    for argv in (
        ["qemu-img", "convert", "-f", "raw", "-O", "vmdk", tmp_path / "raw", base],
        ["qemu-img", "create", "-q", "-f", "vmdk", "-F", "vmdk", "-b", base, snapshot],
        ["qemu-io", "-f", "vmdk", "-c", "write -q -P 90 5M 64k", snapshot],
        ["qemu-img", "convert", "-f", "vmdk", "-O", "raw", snapshot, tmp_path / "flattened"],
    ):
        subprocess.run(argv, check=True)
    with open_file(snapshot) as origin, serve(origin.disks) as exports:
        assert "disk0 is a snapshot: the 2 disks of its chain are made one" in origin.notes
        assert direct(origin.disks["disk0"]) == {}, "QEMU would follow its parent"
        transfer.convert(exports["disk0"], copy, quiet)
    argv = ["qemu-img", "compare", "-q", "-f", "raw", "-F", "qcow2", tmp_path / "flattened", copy]
    assert subprocess.run(argv).returncode == 0
    assert subprocess.run([*argv[:-2], tmp_path / "raw", copy]).returncode == 1
