"""A small share of the million mutated structures (`python -m tests.rescue.fuzz`)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.rescue import fuzz


@pytest.fixture(scope="module")
def targets(image: Callable[[str], Path]) -> list[fuzz.Target]:
    for name in ("vmfs5", "vmfs6"):
        image(name)
    return fuzz.targets()


def test_real_structures_parse(targets: list[fuzz.Target]) -> None:
    strange = [target.name for target in targets if not any(_parses(target, seed) for seed in target.seeds)]
    assert strange == []


def _parses(target: fuzz.Target, seed: bytes) -> bool:
    tally = fuzz.Tally()
    fuzz._one(target, seed, 0, tally)
    assert tally.crashes == []
    return bool(tally.accepted)


@pytest.mark.parametrize("count", [3000, pytest.param(60_000, marks=pytest.mark.heavy)])
def test_mutated_structures_raise_nothing_but_the_declared_errors(targets: list[fuzz.Target], count: int) -> None:
    tally = fuzz.run(targets, count, seed=20_260_101)
    assert tally.crashes == []
    assert tally.slowest[0] < fuzz.SECONDS


def test_a_parser_that_reads_outside_is_found() -> None:
    def greedy(data: bytes) -> None:
        fuzz.Fenced(data).read(len(data) - 4, 8)

    tally = fuzz.run([fuzz.Target("greedy", [bytes(64)], greedy)], 3, seed=1)
    assert len(tally.crashes) == 3
