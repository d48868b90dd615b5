"""The watch over control groups, on folders that look like them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from triune.host.oom import OomWatch, _Watched

Told = list[tuple[str, int]]


@pytest.fixture
def told() -> Told:
    return []


@pytest.fixture
def watch(tmp_path: Path, told: Told) -> Iterator[OomWatch]:
    """It watches `web`, whose kernel has told and not counted yet."""
    count(tmp_path, 0)
    made = OomWatch(lambda name, killed: told.append((name, killed)))
    made._groups["web"] = _Watched(tmp_path, (), -1, 0)
    made._due["web"] = (time.monotonic() + 3600, 0)
    yield made
    made._groups.clear()
    made.close()


def count(folder: Path, killed: int) -> None:
    (folder / "memory.events").write_text(f"low 0\noom 3\noom_kill {killed}\n")


def test_a_look_out_of_turn_leaves_those_to_come(watch: OomWatch, told: Told, tmp_path: Path) -> None:
    for _ in range(60):
        watch.look("web")
    assert told == []
    assert "web" in watch._due, "the kernel tells before it counts: nobody else would look again"
    count(tmp_path, 2)
    watch.look("web")
    watch.look("web")
    assert told == [("web", 2)]
    assert watch._due == {}
