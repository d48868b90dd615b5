"""How a content gets into a file: zeros left out, and nothing called written before it is."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from threading import Lock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.rescue.fakes import plain
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
