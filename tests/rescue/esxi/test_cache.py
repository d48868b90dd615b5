"""The cache on disk: bounded, checked, and never a wrong byte."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.rescue.esxi.conftest import SIZE
from tests.rescue.esxi.host import Manners
from triune.domain.errors import Failed
from triune.services.rescue.esxi.buffered import RemoteSource
from triune.services.rescue.esxi.cache import BlockCache
from triune.services.rescue.esxi.readers import BLOCK

Open = Callable[..., RemoteSource]


def block(number: int) -> bytes:
    return random.Random(number).randbytes(BLOCK)


def test_what_is_put_is_got_also_after_reopening(tmp_path: Path) -> None:
    cache = BlockCache(tmp_path, "x", 1 << 40, 8 * BLOCK)
    for number in (0, 5, 1 << 23):
        cache.put(number, block(number))
    cache.put(9, b"short")
    cache.close()
    cache = BlockCache(tmp_path, "x", 1 << 40, 8 * BLOCK)
    assert [cache.get(number) for number in (0, 5, 1 << 23)] == [block(0), block(5), block(1 << 23)]
    assert cache.get(9) == b"short"
    assert cache.get(1) is None
    assert len(cache) == 4
    cache.close()


def test_it_is_bounded_and_streams_displace_nothing(tmp_path: Path) -> None:
    cache = BlockCache(tmp_path, "x", 1 << 46, 8 * BLOCK)
    cache.put(1000, block(1000))
    for number in range(100):
        cache.put(number, block(number), passing=True)
    assert len(cache) == 6
    assert cache.get(1000) == block(1000)
    for number in range(2000, 2050):
        cache.put(number, block(number))
    assert len(cache) == 8
    assert [cache.get(number) for number in range(2042, 2050)] == [block(number) for number in range(2042, 2050)]
    assert cache.path.stat().st_size <= 9 * BLOCK
    cache.close()


def test_another_device_begins_anew(tmp_path: Path) -> None:
    cache = BlockCache(tmp_path, "x", 1 << 30, 8 * BLOCK)
    cache.put(0, block(0))
    cache.close()
    for identity, size in (("y", 1 << 30), ("x", 1 << 31)):
        other = BlockCache(tmp_path, identity, size, 8 * BLOCK)
        assert other.get(0) is None
        other.close()


def test_only_one_process_has_it(tmp_path: Path) -> None:
    cache = BlockCache(tmp_path, "x", 1 << 30, 8 * BLOCK)
    with pytest.raises(BlockingIOError):
        BlockCache(tmp_path, "x", 1 << 30, 8 * BLOCK)
    cache.close()


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(damage=st.lists(st.tuples(st.integers(0, 4096 * 2 + 4 * BLOCK), st.binary(min_size=1, max_size=64)), max_size=6))
def test_damage_costs_blocks_but_never_gives_wrong_ones(tmp_path: Path, damage: list[tuple[int, bytes]]) -> None:
    cache = BlockCache(tmp_path, "x", 1 << 30, 4 * BLOCK)
    cache.reset()
    for number in range(4):
        cache.put(number, block(number))
    cache.close()
    with cache.path.open("r+b") as file:
        for offset, data in damage:
            file.seek(offset)
            file.write(data)
    cache = BlockCache(tmp_path, "x", 1 << 30, 4 * BLOCK)
    assert all(cache.get(number) in (None, block(number)) for number in range(8))
    cache.put(6, block(6))
    assert cache.get(6) == block(6)
    cache.close()


def test_a_second_run_reads_from_the_cache(manners: Manners, image: Path, opened: Open, tmp_path: Path) -> None:
    folder = tmp_path / "session"
    source = opened(cache=folder)
    for offset in range(SIZE - BLOCK, 0, -BLOCK):
        source.read(offset, BLOCK)
    source.read(0, BLOCK)
    source.close()
    before = manners.requests
    source = opened(cache=folder)
    assert source.read(0, SIZE) == image.read_bytes()
    assert manners.requests - before <= 16 + 1  # the samples; the tail is cached too


def test_a_device_that_changed_is_not_read_from_the_cache(
    image: Path, opened: Open, tmp_path: Path, said: list[str]
) -> None:
    source = opened(cache=tmp_path / "session")
    source.read(0, SIZE)
    source.close()
    image.write_bytes(random.Random(8).randbytes(SIZE))
    assert opened(cache=tmp_path / "session").read(0, SIZE) == image.read_bytes()
    assert any("begins anew" in sentence for sentence in said)


def test_two_processes_read_both(image: Path, opened: Open, tmp_path: Path, said: list[str]) -> None:
    first, second = opened(cache=tmp_path), opened(cache=tmp_path)
    assert first.read(0, SIZE) == second.read(0, SIZE) == image.read_bytes()
    assert any("without one" in sentence for sentence in said)


def test_a_folder_that_cannot_be(opened: Open, image: Path) -> None:
    with pytest.raises(Failed, match="cache"):
        opened(cache=image / "session")
