"""The samples are what they are said to be, and come once."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.rescue import samples

LVM, SUPERBLOCK = 0x100000, 0x200000
BASE = 0x1100000


def word(path: Path, offset: int) -> int:
    with path.open("rb") as stream:
        stream.seek(offset)
        return int.from_bytes(stream.read(4), "little")


@pytest.mark.parametrize("name", ["vmfs3", "vmfs5", "vmfs6"])
def test_volumes_have_their_magics_where_the_format_says(image: Callable[[str], Path], name: str) -> None:
    path = image(name)
    assert word(path, LVM) == 0xC001D00D
    assert word(path, BASE + SUPERBLOCK) == 0x2FABF15E


def test_an_image_is_sparse_and_nobody_may_write_to_it(image: Callable[[str], Path]) -> None:
    facts = image("vmfs3").stat()
    assert facts.st_size == 1_258_435_584
    assert facts.st_blocks * 512 < facts.st_size // 10
    assert not facts.st_mode & 0o222


def test_concurrent_callers_get_one_whole_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "CACHE", tmp_path / "vmfs")
    with ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(samples.image, ["vmfs3"] * 4))
    assert len(set(paths)) == 1
    assert sorted(each.name for each in samples.CACHE.iterdir()) == [".lock", "vmfs3.img"]
    assert paths[0].stat().st_size == 1_258_435_584


def test_an_interrupted_unpacking_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken():  # type: ignore[no-untyped-def]
        yield b"x" * 4096
        raise OSError("no space")

    monkeypatch.setattr(samples, "CACHE", tmp_path)
    monkeypatch.setattr(samples, "_vmfs3", broken)
    with pytest.raises(OSError, match="no space"):
        samples.image("vmfs3")
    assert sorted(each.name for each in tmp_path.iterdir()) == [".lock"]
