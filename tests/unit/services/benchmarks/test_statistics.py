"""Ratios: their direction, their intervals, and when nothing may be said."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from triune.services.benchmarks.statistics import ratio, summary

FIGURES = st.lists(st.floats(min_value=1e-3, max_value=1e9), min_size=1, max_size=12)


def test_above_one_is_better_whichever_way_the_unit_points() -> None:
    slow, quick = [2.0, 2.1, 1.9, 2.0], [1.0, 1.1, 0.9, 1.0]
    assert ratio(quick, slow, lower_is_better=True).verdict == "better"
    assert ratio(quick, slow, lower_is_better=True).value == pytest.approx(2)
    assert ratio(quick, slow, lower_is_better=False).verdict == "worse"
    assert ratio(quick, slow, lower_is_better=False).value == pytest.approx(0.5)


def test_noise_is_no_difference() -> None:
    draw = random.Random(7)
    false = 0
    for _ in range(60):
        ours, theirs = ([draw.gauss(100, 10) for _ in range(6)] for _ in range(2))
        found = ratio(ours, theirs, lower_is_better=False)
        false += bool(found.real)
        assert found.low <= found.value <= found.high
    # Of 60 pairs without any difference, few may be called real.
    assert false <= 9


def test_too_few_samples_are_never_a_verdict() -> None:
    found = ratio([1.0, 1.0, 1.0], [9.0, 9.0, 9.0], lower_is_better=False)
    assert (found.real, found.verdict) == (None, "unsure")


def test_the_same_samples_give_the_same_interval() -> None:
    ours, theirs = [3.0, 4.0, 5.0, 9.0], [4.0, 4.0, 5.0, 6.0]
    assert ratio(ours, theirs, lower_is_better=False) == ratio(ours, theirs, lower_is_better=False)


@given(FIGURES, FIGURES, st.booleans())
@settings(max_examples=40, deadline=None)
def test_the_other_way_round_is_the_inverse(ours: list[float], theirs: list[float], lower: bool) -> None:
    there = ratio(ours, theirs, lower_is_better=lower)
    back = ratio(theirs, ours, lower_is_better=lower)
    assert there.value * back.value == pytest.approx(1)
    assert there.low <= there.high


def test_summary() -> None:
    found = summary([4.0, 1.0, 3.0, 2.0])
    assert (found.count, found.median, found.least, found.most) == (4, 2.5, 1.0, 4.0)
    assert found.spread == pytest.approx(0.6)
