"""A share of the ten thousand random damages (`python -m tests.rescue.random_damage`), and the judge itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from tests.rescue import random_damage
from tests.rescue.overlay import Overlay

pytestmark = pytest.mark.heavy


@pytest.fixture(scope="module")
def volumes(image: Callable[[str], Path]) -> list[random_damage.Small]:
    for name in ("vmfs5", "vmfs6"):
        image(name)
    return [random_damage.small(name) for name in ("vmfs5", "vmfs6")]


@pytest.fixture(scope="module")
def small(image: Callable[[str], Path]) -> list[random_damage.Small]:
    """Quick ones."""
    names = ("vmfs5-resource-optimized", "vmfs6-resource-optimized")
    for name in names:
        image(name)
    return [random_damage.small(name) for name in names]


@pytest.mark.parametrize(("way", "count"), [("opened", 150), ("scanned", 60)])
def test_nothing_is_called_whole_that_is_not(volumes: list[random_damage.Small], way: str, count: int) -> None:
    tally = random_damage.run(volumes, count, 4_000, [way])
    assert (tally.wrong, tally.crashes) == ([], [])
    assert tally.whole > 50 * count


@pytest.mark.parametrize("seed", [600845, 704833, 722588, 907328, 1303308])
def test_what_was_once_called_whole_and_was_not(small: list[random_damage.Small], seed: int) -> None:
    tally = random_damage.run(small, 1, seed, ["read", "scanned"])
    assert (tally.wrong, tally.crashes) == ([], [])
    assert tally.whole > 10


def test_the_judge_sees_wrong_bytes(volumes: list[random_damage.Small], monkeypatch: pytest.MonkeyPatch) -> None:
    """Two blocks of a file change places, which no count and no bitmap tells: the judge does."""

    def swapped(one: random_damage.Small, disk: Overlay, random: Random) -> str:
        meta = one.metas["web/listed"]
        blocks = list(meta.blocks)
        blocks[0], blocks[2] = blocks[2], blocks[0]
        listed = one.writer.listed(blocks)
        disk.write(one.writer.base + meta.offset + one.writer.fd_size - len(listed), listed)
        return "swapped"

    monkeypatch.setattr(random_damage, "KINDS", (swapped,))
    tally = random_damage.run(volumes[:1], 1, 1, ["opened"])
    assert len(tally.wrong) == 1
    assert "web/listed" in tally.wrong[0]
