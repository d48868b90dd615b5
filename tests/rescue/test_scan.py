"""The pass over the sources and its session."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest

from triune.disks.source import FileSource, Unreadable
from triune.domain.errors import Conflict
from triune.services.rescue.scan import Position, sweep
from triune.services.rescue.session import Mark, Session, sampled

_MIB = 1 << 20
_BASE = 0x1100000


def _lock(kind: int, own: int) -> bytes:
    return struct.pack("<IQ", kind, own)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """32 MiB, mostly a hole: a lock, a heartbeat, a VMFS5 folder, a descriptor and a log, and what only looks so."""
    path = tmp_path / "disk.img"
    with path.open("wb") as file:
        for at, data in {
            _BASE + 0x420000: _lock(0x10C00001, 0x420000),
            _BASE + 0x300000: _lock(0xABCDEF02, 0x300000),
            _BASE + 0x500000: struct.pack("<III2s", 2, 4, 1, b".\0"),
            _BASE + 0x600000: b"# Disk DescriptorFile\nversion=1\n",
            _BASE + 0x610000: b"2023-05-06T07:08:09.123Z| vmx| I125: Log for VMware ESX",
            _BASE + 0x620000: b"2023 was a year\n",
            _BASE + 0x630200: _lock(0x10C00002, 0x1234567),
            _BASE + 0x640100: _lock(0x10C00001, 0x420800),
        }.items():
            file.seek(at)
            file.write(data)
        file.truncate(32 * _MIB)
    return path


def _found(session: Session) -> set[tuple[int, str, int]]:
    return {(mark.at - _BASE, mark.kind, mark.own) for mark in session.marks(0)}


def test_marks_are_found_where_they_are(image: Path) -> None:
    session = Session([FileSource(image)])
    told: list[Position] = []
    sweep(session, told.append)
    assert _found(session) == {
        (0x420000, "fd", 0x420000),
        (0x300000, "heartbeat", 0x300000),
        (0x500000, "dir5", 4),
        (0x600000, "text-vmdk", 0),
        (0x610000, "text-log", 0),
    }
    assert told[-1].done == told[-1].total == 32 * _MIB


def test_a_session_goes_on_where_it_ended(image: Path, tmp_path: Path) -> None:
    folder = tmp_path / "session"
    first = Session([FileSource(image)], folder)
    first.add(0, [Mark(_BASE + 0x300000, "heartbeat", 0x300000)], _BASE + 0x410000)
    first.close()
    moved = tmp_path / "moved.img"
    image.rename(moved)
    again = Session([FileSource(moved)], folder)
    assert again.done(0) == _BASE + 0x410000
    sweep(again)
    assert again.done(0) == 32 * _MIB
    assert {kind for _, kind, _ in _found(again)} == {"heartbeat", "fd", "dir5", "text-vmdk", "text-log"}


def test_a_session_is_not_used_with_another_source(image: Path, tmp_path: Path) -> None:
    session = Session([FileSource(image)], tmp_path / "session")
    sweep(session)
    session.close()
    other = tmp_path / "other.img"
    other.write_bytes(os.urandom(_MIB))
    with pytest.raises(Conflict, match="and not of"):
        Session([FileSource(other)], tmp_path / "session")


class _Bad:
    """A medium with a bad place."""

    def __init__(self, path: Path, bad: range) -> None:
        self.inner, self.bad = FileSource(path), bad
        self.name, self.size = "bad", self.inner.size

    def read(self, offset: int, length: int) -> bytes:
        if offset < self.bad.stop and offset + length > self.bad.start:
            raise Unreadable(self.name, offset, length, "I/O error")
        return self.inner.read(offset, length)

    def close(self) -> None:
        self.inner.close()


def test_around_a_bad_place_everything_is_found(image: Path) -> None:
    source = _Bad(image, range(_BASE + 0x301000, _BASE + 0x302000))
    session = Session([source])
    sweep(session)
    assert (0x420000, "fd", 0x420000) in _found(session)
    assert session.unreadable(0) == [(_BASE + 0x300000, 64 << 10)]
    assert sampled(source) == sampled(source)
