"""How a content gets into a file: zeros left out, and nothing called written before it is."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from threading import Lock
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.patience import until
from tests.rescue.fakes import Runs, plain
from triune.disks.content import Run
from triune.disks.source import FileSource, Window
from triune.services.rescue.copying import BLOCK, Copy, solid
from triune.services.rescue.hashing import Unhashed

_PAGE = 4096
_PIECES = st.lists(
    st.sampled_from([bytes(_PAGE), bytes(_PAGE - 1) + b"x", b"x" + bytes(_PAGE - 1), b"y" * _PAGE, bytes(100), b"z"])
)


@settings(max_examples=200, deadline=None)
@given(_PIECES)
def test_solid_are_all_pages_but_those_of_zeros(pieces: list[bytes]) -> None:
    data = b"".join(pieces)
    pages = [at for at in range(0, len(data), _PAGE) if any(data[at : at + _PAGE])]
    found = list(solid(data))
    assert [at for start, end in found for at in range(start, end, _PAGE)] == pages
    assert all(end < start for (_, end), (start, _) in pairwise(found))
    assert all(end <= len(data) and start < end for start, end in found)


@pytest.fixture
def target(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path / "target", os.O_RDWR | os.O_CREAT)
    yield fd
    os.close(fd)


def test_a_mark_comes_after_what_it_marks(target: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("triune.services.rescue.copying.MARK", BLOCK)
    data = bytes([1]) * BLOCK * 20
    marks: list[tuple[int, int]] = []
    copy = Copy(
        plain(data),
        target,
        Unhashed(),
        lock=Lock(),
        mark=lambda at: marks.append((at, os.fstat(target).st_size)),
    )
    copy.run()
    assert [at for at, _ in marks] == [BLOCK * number for number in range(1, 21)]
    assert all(size >= at for at, size in marks)
    assert os.pread(target, len(data) + 1, 0) == data
    assert copy.written == len(data)


def test_after_a_write_that_failed_nothing_is_marked(target: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("triune.services.rescue.copying.MARK", BLOCK)
    real = os.pwrite

    def failing(fd: int, data: bytes, offset: int) -> int:
        if offset >= 3 * BLOCK:
            raise OSError(errno.EIO, "broken")
        return real(fd, data, offset)

    monkeypatch.setattr(os, "pwrite", failing)
    marks: list[int] = []
    copy = Copy(plain(b"x" * BLOCK * 40), target, Unhashed(), lock=Lock(), mark=marks.append)
    with pytest.raises(OSError, match="broken"):
        copy.run()
    assert marks == [BLOCK, 2 * BLOCK, 3 * BLOCK]


def test_a_disk_is_told_of_a_block_while_earlier_ones_are_read(
    target: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = os.urandom(BLOCK)
    (tmp_path / "volume").write_bytes(one * 40)
    disk = FileSource(tmp_path / "volume")
    part = Window(disk, 3 * BLOCK, 30 * BLOCK)
    seen: list[tuple[str, int]] = []
    for name in ("ahead", "read"):
        real = getattr(FileSource, name)

        def spy(self: FileSource, offset: int, length: int, name: str = name, real: Any = real) -> Any:
            if (name, offset // BLOCK) == ("read", 3):
                until(lambda: ("ahead", 20) in seen)  # another thread tells the disk
            seen.append((name, offset // BLOCK))
            return real(self, offset, length)

        monkeypatch.setattr(FileSource, name, spy)
    hole = Run(10 * BLOCK, BLOCK)
    runs = [Run(0, 10 * BLOCK, part, 0), hole, Run(11 * BLOCK, 10 * BLOCK, part, 12 * BLOCK)]
    Copy(Runs(21 * BLOCK, runs), target, Unhashed(), lock=Lock()).run()
    disk.close()
    blocks = [*range(3, 13), *range(15, 25)]
    assert [block for name, block in seen if name == "read"] == blocks
    assert [block for name, block in seen if name == "ahead"] == blocks
    assert seen.index(("ahead", 20)) < seen.index(("read", 3)) < seen.index(("ahead", 24))
    assert os.pread(target, 21 * BLOCK, 0) == one * 10 + bytes(BLOCK) + one * 10
