"""Waiting for a daemon: as long as it lives and works."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest
from tests.patience import until

from triune.host import coming
from triune.host.coming import Patience, await_answer
from triune.host.setup.machine import Machine


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """A second for each step."""
    now = [0.0]

    def sleep(_: float) -> None:
        now[0] += 1

    monkeypatch.setattr(coming.time, "sleep", sleep)
    monkeypatch.setattr(coming.time, "monotonic", lambda: now[0])
    yield now


def test_one_that_works_has_minutes(clock: list[float]) -> None:
    told: list[str] = []
    assert await_answer(lambda: clock[0] >= 290, lambda: clock[0], told.append) == ""
    assert len(told) == 1
    assert "5 minutes at most" in told[0]


def test_one_that_answers_soon_says_nothing(clock: list[float]) -> None:
    told: list[str] = []
    assert await_answer(lambda: clock[0] >= 9, lambda: clock[0], told.append) == ""
    assert told == []


def test_one_that_ends_or_does_nothing_or_never_comes(clock: list[float]) -> None:
    assert await_answer(lambda: False, lambda: None, print) == "has ended"
    assert clock[0] == 0
    why = await_answer(lambda: False, lambda: min(clock[0], 30.0), print)
    assert (why, clock[0]) == ("does not answer, and has done nothing for 60 s", 91)
    begun = clock[0]
    assert await_answer(lambda: False, lambda: clock[0], print) == "does not answer after 300 s"
    assert clock[0] - begun == 301
    assert await_answer(lambda: False, lambda: clock[0], print, Patience(most=7)) == "does not answer after 7 s"


def test_what_a_process_has_spent() -> None:
    busy = subprocess.Popen(["/bin/sh", "-c", "while :; do :; done"])
    machine = Machine()
    try:
        until(lambda: (machine.spent(busy.pid) or 0) > 0)
    finally:
        busy.kill()
    until(lambda: machine.spent(busy.pid) is None)  # a zombie has ended
    busy.wait()
    assert machine.spent(busy.pid) is None
