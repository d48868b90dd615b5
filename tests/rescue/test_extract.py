"""Extraction from a volume in memory: bytes, holes, names, what is missing, what was stopped, what does not fit."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.patience import PATIENCE, Awake, until
from tests.rescue.fakes import Bytes, FakeVolume, Runs, plain
from triune.disks.content import Run
from triune.domain.errors import Cancelled, Conflict, Failed
from triune.domain.rescue import FileKind, Found, Status
from triune.services.rescue import targets
from triune.services.rescue.extract import Result, extract
from triune.services.rescue.hashing import LEAF
from triune.services.rescue.manifest import Journal
from triune.services.rescue.meter import Meter
from triune.services.rescue.selecting import named, select

MIB = 1 << 20


def pull(volume: FakeVolume, folder: Path, *patterns: str, **options: object) -> Result:
    deleted = bool(options.pop("deleted", False))
    return extract(list(select(named([volume]), patterns, deleted=deleted)), folder, **options)  # type: ignore[arg-type]


def manifest(folder: Path) -> dict[str, dict[str, object]]:
    return {one["path"]: one for one in json.loads((folder / "manifest.json").read_text())}


def noise(length: int, seed: int = 1) -> bytes:
    return hashlib.shake_128(bytes([seed])).digest(length)


def test_files_folders_and_the_manifest(tmp_path: Path) -> None:
    volume = FakeVolume()
    volume.add("vm", b"", kind=FileKind.FOLDER)
    data = noise(3 * MIB + 7)
    volume.add("vm/disk-flat.vmdk", data, evidence=("FD 7",))
    volume.add("vm/empty.log", b"")
    volume.add(".fbb.sf", b"system", kind=FileKind.SYSTEM)
    volume.add("empty", b"", kind=FileKind.FOLDER)
    result = pull(volume, tmp_path / "out")
    assert result.whole
    assert (tmp_path / "out/vm/disk-flat.vmdk").read_bytes() == data
    assert (tmp_path / "out/empty").is_dir()
    assert (tmp_path / "out/vm/disk-flat.vmdk").stat().st_mtime == 1_700_000_000
    told = manifest(tmp_path / "out")
    assert set(told) == {"vm/disk-flat.vmdk", "vm/empty.log"}
    one = told["vm/disk-flat.vmdk"]
    assert one["sha256"] == hashlib.sha256(data).hexdigest()
    assert (one["size"], one["status"], one["missing"], one["evidence"]) == (len(data), "intact", [], ["FD 7"])
    assert one["verified"] is True
    assert told["vm/empty.log"]["sha256"] == hashlib.sha256().hexdigest()


def test_zeros_in_data_become_holes(tmp_path: Path) -> None:
    volume = FakeVolume()
    data = noise(4096) + bytes(8 * MIB) + noise(100) + bytes(5000)
    volume.add("flat", data)
    pull(volume, tmp_path)
    path = tmp_path / "flat"
    assert path.read_bytes() == data
    assert path.stat().st_blocks * 512 < 128 * 1024


def test_missing_ranges_are_holes_and_told(tmp_path: Path) -> None:
    bad = Bytes(noise(2 * MIB), bad=[range(MIB + 1000, MIB + 1001)])
    volume = FakeVolume()
    given = [
        Run(0, 2 * MIB, bad),
        Run(2 * MIB, MIB, why="pointer block lost"),
        Run(3 * MIB, MIB, Bytes(noise(MIB - 5))),
    ]
    volume.add("disk", Runs(4 * MIB, given), missing=((0, 10),))
    volume.add("whole", b"whole")
    result = pull(volume, tmp_path)
    assert not result.whole
    one = manifest(tmp_path)["disk"]
    assert one["status"] == "partial"
    assert one["missing"] == [[0, 10], [MIB + 512, 512], [2 * MIB, MIB], [4 * MIB - 5, 5]]
    expected = bytearray(noise(2 * MIB) + bytes(MIB) + noise(MIB - 5) + bytes(5))
    expected[MIB + 512 : MIB + 1024] = bytes(512)
    assert (tmp_path / "disk").read_bytes() == expected
    assert one["sha256"] == hashlib.sha256(expected).hexdigest()
    assert (tmp_path / "whole").read_bytes() == b"whole"


def test_maps_that_end_in_the_middle(tmp_path: Path) -> None:
    class Torn(Runs):
        def runs(self, start: int = 0, end: int | None = None) -> Iterator[Run]:
            yield Run(0, 10, Bytes(b"0123456789"))
            raise Failed("bad_block", "the pointer block is damaged", hint="Scan it.")

    volume = FakeVolume()
    volume.add("disk", Torn(100, []))
    pull(volume, tmp_path)
    assert manifest(tmp_path)["disk"]["missing"] == [[10, 90]]
    assert (tmp_path / "disk").read_bytes() == b"0123456789" + bytes(90)


def test_hostile_names(tmp_path: Path) -> None:
    volume = FakeVolume()
    for path in ("../../etc/passwd", "a//b", "a\nb", "a%0Ab", "manifest.json", "x" * 400, "a\0b", "..", "\x1b[2J"):
        volume.add(path, path.encode())
    volume.add("twice", b"one")
    volume.add("twice", b"two")
    volume.add("both", b"file")
    volume.add("both/inner", b"inner")
    out = tmp_path / "deep" / "out"
    assert pull(volume, out).whole
    told = json.loads((out / "manifest.json").read_text())
    assert len(told) == 13
    for one in told:
        path = out / one.get("written_as", one["path"])
        assert hashlib.sha256(path.read_bytes()).hexdigest() == one["sha256"]
        assert path.resolve().is_relative_to(out.resolve())
    assert sorted(path.name for path in (tmp_path / "deep").iterdir()) == ["out"]
    assert len({one.get("written_as", one["path"]) for one in told}) == 13


def test_links_stay_inside(tmp_path: Path) -> None:
    volume = FakeVolume()
    volume.add("to/in", b"", kind=FileKind.LINK, target="../data")
    volume.add("to/out", b"", kind=FileKind.LINK, target="../../etc")
    volume.add("to/root", b"", kind=FileKind.LINK, target="/etc/passwd")
    volume.add("data", b"data")
    for _ in range(2):
        assert pull(volume, tmp_path).whole
    assert (tmp_path / "to/in").read_bytes() == b"data"
    assert [path.name for path in (tmp_path / "to").iterdir()] == ["in"]
    assert manifest(tmp_path)["to/out"]["left_out"]


def test_what_somebody_else_put_there_stays(tmp_path: Path) -> None:
    volume = FakeVolume()
    volume.add("a.vmx", b"ours")
    (tmp_path / "a.vmx").write_bytes(b"theirs")
    assert pull(volume, tmp_path).whole
    assert (tmp_path / "a.vmx").read_bytes() == b"theirs"
    assert (tmp_path / "a~2.vmx").read_bytes() == b"ours"
    assert manifest(tmp_path)["a.vmx"]["written_as"] == "a~2.vmx"
    (tmp_path / "a~2.vmx").write_bytes(b"changed since")
    assert pull(volume, tmp_path).whole
    assert (tmp_path / "a~2.vmx").read_bytes() == b"changed since"
    assert (tmp_path / "a~3.vmx").read_bytes() == b"ours"


def test_a_second_call_reads_nothing_again(tmp_path: Path) -> None:
    volume = FakeVolume()
    source = Bytes(noise(MIB))
    volume.add("one", Runs(MIB, [Run(0, MIB, source)]))
    pull(volume, tmp_path, verify=False)
    reads = source.reads
    assert pull(volume, tmp_path, verify=False).written == 0
    assert source.reads == reads
    assert manifest(tmp_path)["one"]["verified"] is False
    assert pull(volume, tmp_path).written == 0
    assert manifest(tmp_path)["one"]["verified"] is True
    volume.add("two", b"two")
    pull(volume, tmp_path, "two")
    assert set(manifest(tmp_path)) == {"one", "two"}


@pytest.fixture
def roomy() -> Iterator[Path]:
    """A folder whose file system holds files of any size."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder)


def test_sixty_terabytes_of_holes(roomy: Path) -> None:
    size = 60 << 40
    data = noise(MIB)
    volume = FakeVolume()
    volume.add("thin", Runs(size, [Run(at, MIB, Bytes(data)) for at in (0, size // 3 // MIB * MIB, size - MIB)]))
    with Awake() as awake:
        assert pull(volume, roomy).whole
    assert awake.seconds < 10
    info = (roomy / "thin").stat()
    assert info.st_size == size
    assert info.st_blocks * 512 == 3 * MIB
    one = manifest(roomy)["thin"]
    assert one["sha256"] is None
    assert str(one["hash"]).startswith("merkle-sha256-1m:")
    assert one["verified"] is True


def test_sha256_of_what_is_mostly_holes(tmp_path: Path) -> None:
    size = (1 << 30) + 5 * MIB
    volume = FakeVolume()
    volume.add("thin", Runs(size, [Run(size - 100, 100, Bytes(noise(100)))]))
    assert pull(volume, tmp_path).whole
    expected = hashlib.sha256()
    for _ in range(size // MIB - 1):
        expected.update(bytes(MIB))
    expected.update(bytes(MIB - 100) + noise(100))
    assert manifest(tmp_path)["thin"]["sha256"] == expected.hexdigest()


def test_a_disk_that_loses_bytes_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    volume = FakeVolume()
    volume.add("disk", noise(MIB))
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: real(fd, bytes(data[:-1]) + b"!", at))
    result = pull(volume, tmp_path)
    assert not result.whole
    assert "second reading" in result.lacking[0]["failed"]
    assert not (tmp_path / "disk").exists()
    monkeypatch.undo()
    assert pull(volume, tmp_path).whole
    assert (tmp_path / "disk").read_bytes() == noise(MIB)


def test_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    volume = FakeVolume()
    volume.add("disk", noise(MIB))
    state = list(os.statvfs(tmp_path))
    state[4] = 3  # f_bavail
    monkeypatch.setattr(targets.os, "statvfs", lambda _path: os.statvfs_result(state))
    with pytest.raises(Failed, match="do not fit") as caught:
        pull(volume, tmp_path)
    assert caught.value.code == "no_space"
    assert not (tmp_path / "disk").exists()
    assert pull(volume, tmp_path, check_space=False).whole


def test_a_file_too_large_for_the_file_system(tmp_path: Path) -> None:
    volume = FakeVolume()
    volume.add("large", noise(3 * MIB))
    volume.add("small", b"small")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 * MIB, limits[1]))
    try:
        result = pull(volume, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [one["path"] for one in result.lacking] == ["large"]
    assert "allows no file" in result.lacking[0]["failed"]
    assert (tmp_path / "small").read_bytes() == b"small"
    assert pull(volume, tmp_path).whole


def test_a_disk_that_fills_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    volume = FakeVolume()
    volume.add("disk", noise(MIB))

    def full(_fd: int, _data: bytes, _at: int) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(Failed) as caught:
        pull(volume, tmp_path)
    assert caught.value.code == "no_space"
    assert json.loads((tmp_path / "manifest.json").read_text()) == []


def test_a_disk_too_full_for_the_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    volume = FakeVolume()
    volume.add("disk", noise(MIB))

    def full(_root: object, _entries: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("triune.services.rescue.extract.write", full)
    with pytest.raises(Failed) as caught:
        pull(volume, tmp_path)
    assert (caught.value.code, caught.value.hint[:9]) == ("no_space", "Make room")
    monkeypatch.undo()
    assert pull(volume, tmp_path).whole


def test_stopped_and_gone_on(tmp_path: Path) -> None:
    meter = Meter()

    class Stopping(Bytes):
        def read(self, offset: int, length: int) -> bytes:
            if offset >= 66 * MIB:
                until(lambda: meter.files_done)  # the first is there
                meter.stop.set()
            return super().read(offset, length)

    data = noise(MIB) * 70
    volume = FakeVolume()
    volume.add("first", b"first")
    content = Runs(len(data), [Run(0, len(data), Stopping(data))])
    volume.add("disk", content)
    with pytest.raises(Cancelled):
        pull(volume, tmp_path, meter=meter)
    assert set(manifest(tmp_path)) == {"first"}
    content.given = plain(data).given
    result = pull(volume, tmp_path)
    assert result.whole
    assert result.written == len(data) - 64 * MIB
    assert (tmp_path / "disk").read_bytes() == data
    assert not list(tmp_path.glob("*.part"))


def test_a_new_file_is_never_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cuts: list[int] = []
    real = os.ftruncate
    monkeypatch.setattr(os, "ftruncate", lambda fd, size: (cuts.append(size), real(fd, size))[1])
    volume = FakeVolume()
    volume.add("disk", noise(MIB))
    assert pull(volume, tmp_path).whole
    assert cuts == [MIB]


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mark for each MiB."""
    for module in ("copying", "writing"):
        monkeypatch.setattr(f"triune.services.rescue.{module}.MARK", MIB)


@pytest.mark.usefixtures("often")
def test_what_is_marked_was_flushed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    real = os.fdatasync, Journal.mark
    monkeypatch.setattr(os, "fdatasync", lambda fd: (real[0](fd), events.append("flushed"))[0])
    monkeypatch.setattr(Journal, "mark", lambda self, who, at: (real[1](self, who, at), events.append("marked"))[0])
    volume = FakeVolume()
    volume.add("disk", noise(MIB) * 10)
    assert pull(volume, tmp_path).whole
    assert events == ["flushed", "marked"] * 10 + ["flushed"]
    assert (tmp_path / "disk").read_bytes() == noise(MIB) * 10


@pytest.mark.usefixtures("often")
def test_a_disk_that_fails_while_it_is_flushed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    volume = FakeVolume()
    volume.add("disk", noise(MIB) * 10)
    flushes: list[int] = []
    real = os.fdatasync

    def failing(fd: int) -> None:
        flushes.append(fd)
        if len(flushes) == 3:
            raise OSError(5, "Input/output error")
        real(fd)

    monkeypatch.setattr(os, "fdatasync", failing)
    result = pull(volume, tmp_path)
    assert "Input/output error" in result.lacking[0]["failed"]
    assert len(flushes) == 3
    assert not (tmp_path / "disk").exists() and not list(tmp_path.glob("*.part"))
    monkeypatch.undo()
    assert pull(volume, tmp_path).whole
    assert (tmp_path / "disk").read_bytes() == noise(MIB) * 10


KILLED = """
import sys, time
from pathlib import Path
from tests.rescue.test_extract import pull, slow_volume
pull(slow_volume(float(sys.argv[2])), Path(sys.argv[1]))
"""


def slow_volume(pause: float) -> FakeVolume:
    """A disk of 130 MiB whose second half comes slowly."""

    class Slow(Bytes):
        def read(self, offset: int, length: int) -> bytes:
            time.sleep(pause if offset > 100 * MIB else 0)
            return super().read(offset, length)

    data = noise(MIB) * 130
    volume = FakeVolume()
    volume.add("disk", Runs(len(data), [Run(0, len(data), Slow(data))]))
    return volume


def test_killed_and_gone_on(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", KILLED, str(tmp_path), "5"]
    process = subprocess.Popen(argv, cwd=Path(__file__).parents[2])
    journal = tmp_path / ".triune-rescue.jsonl"
    until(lambda: journal.exists() and '"at"' in journal.read_text())
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "disk").exists()
    with journal.open("a") as file:
        file.write('{"id": "torn')
    result = pull(slow_volume(0), tmp_path)
    assert result.whole
    assert result.written == (130 - 64) * MIB
    assert (tmp_path / "disk").read_bytes() == noise(MIB) * 130


def test_two_at_once_in_one_folder(tmp_path: Path) -> None:
    volume = FakeVolume()
    held, begun = threading.Event(), threading.Event()

    class Waiting(Bytes):
        def read(self, offset: int, length: int) -> bytes:
            begun.set()
            held.wait(PATIENCE)
            return super().read(offset, length)

    volume.add("disk", Runs(5, [Run(0, 5, Waiting(b"12345"))]))
    thread = threading.Thread(target=pull, args=(volume, tmp_path))
    thread.start()
    begun.wait(PATIENCE)
    try:
        with pytest.raises(Conflict, match="another extraction"):
            pull(volume, tmp_path)
    finally:
        held.set()
        thread.join()


def test_the_source_is_never_the_target(tmp_path: Path) -> None:
    source = tmp_path / "disk"
    source.write_bytes(noise(10))
    volume = FakeVolume()
    volume.add("disk", b"another")
    assert extract(list(select(named([volume]))), tmp_path, sources=[str(source)]).whole
    assert source.read_bytes() == noise(10)


def test_what_loops_are_made_of_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "image"
    source.touch()
    info = source.stat()
    monkeypatch.setattr(targets, "_backing", lambda _device: info)
    with pytest.raises(Conflict, match="rescued from"):
        targets.refuse_sources(tmp_path, [str(source)])


def test_deleted_files_are_not_intact(tmp_path: Path) -> None:
    volume = FakeVolume()
    volume.add("gone", b"gone", status=Status.DELETED)
    assert pull(volume, tmp_path / "a").entries == []
    result = pull(volume, tmp_path / "b", deleted=True)
    assert not result.whole
    assert manifest(tmp_path / "b")["gone"]["status"] == "deleted"


def test_a_file_that_cannot_be_opened(tmp_path: Path) -> None:
    class Shut(FakeVolume):
        def open(self, found: Found) -> Runs:
            raise Failed("bad_file", f"the descriptor of {found.path} is damaged", hint="Scan it.")

    volume = Shut()
    volume.add("disk", b"12345")
    result = pull(volume, tmp_path)
    assert not result.whole
    one = manifest(tmp_path)["disk"]
    assert (one["status"], one["missing"], one["sha256"]) == ("partial", [[0, 5]], None)


@pytest.mark.parametrize("verify", [True, False])
def test_without_a_hash(tmp_path: Path, verify: bool) -> None:
    volume = FakeVolume()
    volume.add("disk", noise(MIB + 1))
    assert pull(volume, tmp_path, hashing="none", verify=verify).whole
    one = manifest(tmp_path)["disk"]
    assert (one["sha256"], one["verified"], "hash" in one) == (None, verify, False)
    assert (tmp_path / "disk").read_bytes() == noise(MIB + 1)


def test_leaves_are_what_the_guide_says() -> None:
    assert LEAF == 1024 * 1024
