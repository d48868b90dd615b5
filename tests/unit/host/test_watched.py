"""Long commands are followed, and ended when they are no longer wanted."""

from __future__ import annotations

import sys

import pytest
from tests.patience import Awake

from triune.domain.errors import Failed, Unsupported
from triune.host.watched import run_watched


def test_the_fraction_is_told() -> None:
    seen: list[float | None] = []
    script = "import sys,time\nfor n in (0, 50, 100): sys.stdout.write(f'    ({n}.00/100%)\\r'); sys.stdout.flush()"
    run_watched([sys.executable, "-c", script], seen.append)
    assert seen[-1] == 1.0
    assert all(fraction is None or 0 <= fraction <= 1 for fraction in seen)


def test_it_is_killed_when_the_caller_has_had_enough() -> None:
    class Enough(Exception):
        pass

    def stop(fraction: float | None) -> None:
        raise Enough

    with Awake() as awake, pytest.raises(Enough):
        run_watched(["sleep", "60"], stop)
    assert awake.seconds < 30


def test_failures_say_what_the_command_said() -> None:
    with pytest.raises(Failed, match="No such file"):
        run_watched(["ls", "/nowhere-at-all"], lambda _: None)
    with pytest.raises(Unsupported):
        run_watched(["no-such-program-of-ours"], lambda _: None)
