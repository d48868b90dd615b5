"""The second reading: from the medium, of all that is data, in order; and what it finds out."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.patience import until
from tests.rescue.fakes import Bytes, FakeVolume, Runs
from tests.rescue.test_extract import MIB, manifest, noise, pull
from triune.disks.content import Run
from triune.domain.errors import Cancelled, Failed
from triune.services.rescue import reading
from triune.services.rescue.hashing import Sha256
from triune.services.rescue.reading import read_back

ROOT = Path(__file__).parents[2]
_PIECE = reading._PIECE


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    yield fd
    os.close(fd)


def hashed(fd: int, size: int) -> tuple[str, list[int]]:
    """What the reading gave, and how many bytes at a time."""
    digest, ticks = Sha256(), list[int]()
    read_back(fd, size, digest, ticks.append)
    return digest.hexdigest(), ticks


def spread() -> bytes:
    """Data, holes, and an end within a page."""
    return noise(3 * _PIECE + 5) + bytes(5 * _PIECE) + noise(9 * _PIECE, 2) + bytes(7 * _PIECE) + noise(4097, 3)


def put(fd: int, data: bytes) -> None:
    """Write it; long zeros become holes."""
    os.ftruncate(fd, len(data))
    for at in range(0, len(data), _PIECE):
        if any(part := data[at : at + _PIECE]):
            os.pwrite(fd, part, at)


def refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    """No file system has direct reading."""

    def without(fd: int, what: int, flags: int = 0) -> int:
        if what == fcntl.F_SETFL and flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, "Invalid argument")
        return fcntl.fcntl(fd, what, flags)

    monkeypatch.setattr(reading, "fcntl", without)


def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Direct reading wants sectors of 1 GiB."""
    real = os.preadv

    def wanting(fd: int, buffers: list[memoryview], offset: int) -> int:
        if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT:
            raise OSError(errno.EINVAL, "Invalid argument")
        return real(fd, buffers, offset)

    monkeypatch.setattr(os, "preadv", wanting)


@pytest.mark.parametrize("without", [None, refuse, large])
@pytest.mark.parametrize("data", [b"", b"x", noise(4096), noise(_PIECE + 1), spread()], ids=len)
def test_all_of_it_with_direct_reading_and_without(
    opened: int, data: bytes, without: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(opened, data)
    os.fdatasync(opened)
    if callable(without):
        without(monkeypatch)
    found, _ = hashed(opened, len(data))
    assert found == hashlib.sha256(data).hexdigest()


def test_holes_are_not_read(opened: int) -> None:
    os.ftruncate(opened, 300 * _PIECE)
    os.pwrite(opened, noise(_PIECE), 200 * _PIECE)
    os.fdatasync(opened)
    _, ticks = hashed(opened, 300 * _PIECE)
    assert ticks == [_PIECE]


def from_the_medium() -> int:
    """How many bytes this process had read from a block device."""
    told = Path("/proc/self/io").read_text().split("read_bytes: ")[1]
    return int(told.split()[0])


def test_the_page_cache_is_passed(opened: int) -> None:
    data = noise(8 * _PIECE)
    put(opened, data)
    os.fdatasync(opened)
    assert os.pread(opened, len(data), 0) == data  # it is in the cache
    before = from_the_medium()
    found, _ = hashed(opened, len(data))
    if not fcntl.fcntl(opened, fcntl.F_GETFL) & os.O_DIRECT or os.major(os.fstat(opened).st_dev) == 0:
        pytest.skip("no medium below this file system")
    assert from_the_medium() - before >= len(data)
    assert found == hashlib.sha256(data).hexdigest()


def test_a_file_that_ends_too_early(opened: int) -> None:
    data = noise(5 * _PIECE)
    put(opened, data[:-100])
    found, ticks = hashed(opened, len(data))
    assert found != hashlib.sha256(data).hexdigest()
    assert sum(ticks) <= len(data) - 100


def test_what_the_medium_refuses_is_raised(opened: int, monkeypatch: pytest.MonkeyPatch) -> None:
    put(opened, noise(9 * _PIECE))
    real = os.preadv

    def failing(fd: int, buffers: list[memoryview], offset: int) -> int:
        if offset >= 6 * _PIECE:
            raise OSError(errno.EIO, "Input/output error")
        return real(fd, buffers, offset)

    monkeypatch.setattr(os, "preadv", failing)
    with pytest.raises(OSError, match="Input/output"):
        hashed(opened, 9 * _PIECE)


def test_it_can_be_stopped(opened: int) -> None:
    put(opened, noise(9 * _PIECE))
    told = list[int]()

    def tick(length: int) -> None:
        told.append(length)
        if len(told) == 3:
            raise Cancelled("cancelled", "stopped", hint="")

    before = threading.active_count()
    with pytest.raises(Cancelled):
        read_back(opened, 9 * _PIECE, Sha256(), tick)
    assert told == [_PIECE] * 3
    assert threading.active_count() == before


def disk(data: bytes) -> FakeVolume:
    volume = FakeVolume()
    volume.add("disk", Runs(len(data), [Run(0, len(data), Bytes(data))]))
    return volume


@pytest.mark.parametrize("at", [0, 7 * MIB + 12345, 40 * MIB - 1])
def test_a_byte_that_changed_after_it_was_written(tmp_path: Path, at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the flush and the second reading, by a descriptor of somebody else."""
    volume = disk(noise(MIB) * 40)

    def changed(fd: int, *words: object) -> None:
        other = os.open(f"/proc/self/fd/{fd}", os.O_RDWR)
        old = os.pread(other, 1, at)
        os.pwrite(other, bytes([old[0] ^ 1]), at)
        os.close(other)
        read_back(fd, *words)  # type: ignore[arg-type]

    monkeypatch.setattr("triune.services.rescue.writing.read_back", changed)
    result = pull(volume, tmp_path)
    assert "second reading" in result.lacking[0]["failed"]
    assert (manifest(tmp_path)["disk"]["verified"], manifest(tmp_path)["disk"]["sha256"]) == (False, None)
    assert not (tmp_path / "disk").exists() and not list(tmp_path.glob("*.part"))
    monkeypatch.undo()
    assert pull(volume, tmp_path).whole


def test_a_disk_that_is_full_in_the_middle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = noise(MIB) * 70
    real = os.pwrite

    def full(fd: int, part: bytes, at: int) -> int:
        if at >= 66 * MIB:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(fd, part, at)

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(Failed) as caught:
        pull(disk(data), tmp_path)
    assert caught.value.code == "no_space"
    assert not (tmp_path / "disk").exists()
    monkeypatch.undo()
    result = pull(disk(data), tmp_path)
    assert (result.whole, result.written) == (True, 6 * MIB)
    assert (tmp_path / "disk").read_bytes() == data


KILLED = """
import sys, time
from pathlib import Path
from tests.rescue.test_extract import MIB, noise, pull
from tests.rescue.test_reading import disk
from triune.services.rescue import writing
def never(*_words):
    Path(sys.argv[1], "reading").touch()
    time.sleep(1000)
writing.read_back = never
pull(disk(noise(MIB) * 70), Path(sys.argv[1]))
"""


@pytest.mark.parametrize("spoilt", [False, True])
def test_killed_while_it_is_read_a_second_time(tmp_path: Path, spoilt: bool) -> None:
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], cwd=ROOT)
    until(lambda: (tmp_path / "reading").exists())
    process.send_signal(signal.SIGKILL)
    process.wait()
    (part,) = tmp_path.glob(".*.part")
    if spoilt:
        with part.open("r+b") as file:
            file.write(b"spoilt")
    result = pull(disk(noise(MIB) * 70), tmp_path)
    assert result.whole is not spoilt
    assert (tmp_path / "disk").exists() is not spoilt
    assert manifest(tmp_path)["disk"]["verified"] is not spoilt
    if not spoilt:
        assert result.written == 6 * MIB
        assert (tmp_path / "disk").read_bytes() == noise(MIB) * 70
