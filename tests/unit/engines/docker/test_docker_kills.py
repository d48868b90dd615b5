"""One event per kill, from the kernel's count and from Docker's word, whichever comes, in whichever order."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from triune.engines.docker import kills as told
from triune.engines.docker.client import DockerClient
from triune.engines.docker.kills import Kills, Tell
from triune.host.cgroup import Group
from triune.host.oom import Tell as Count


class Kernel:
    """Stands in for the watch over control groups."""

    def __init__(self, tell: Count) -> None:
        self.tell = tell
        self.groups: dict[str, bool] = {}
        self.unseen: dict[str, int] = {}

    def add(self, name: str, version: int, folder: Path, *, fresh: bool = False) -> None:
        assert (version, folder) == (2, Path("/group"))
        self.groups[name] = fresh

    def look(self, name: str) -> None:
        if name in self.unseen:
            self.tell(name, self.unseen.pop(name))

    def remove(self, name: str) -> None:
        self.look(name)
        self.groups.pop(name, None)


class Docker:
    """Containers that run."""

    def __init__(self) -> None:
        self.running: dict[str, str] = {}

    def read(self, _ask: object) -> Any:
        return Listing({"Id": key, "Names": [f"/{name}"]} for key, name in self.running.items())


class Listing(list[dict[str, Any]]):
    """What the list and an inspection answer: the tests need no more of the latter than its process."""

    def __getitem__(self, key: object) -> Any:
        return {"Pid": 7} if key == "State" else super().__getitem__(cast("int", key))


class Bench:
    """`Kills` between both, with a clock of its own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        self.docker = Docker()
        self.told: list[tuple[str, str, int | None]] = []
        monkeypatch.setattr(told, "OomWatch", Kernel)
        monkeypatch.setattr(told, "group_of", lambda pid, _id: Group({}, Path("/group")) if pid == 7 else None)
        monkeypatch.setattr(told.time, "monotonic", lambda: self.now)
        tell: Tell = lambda *words: self.told.append(words)  # noqa: E731
        self.kills = Kills(cast("DockerClient", self.docker), tell)
        self.kernel = cast("Kernel", self.kills._watch)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    yield Bench(monkeypatch)


def test_a_kill_that_docker_loses_is_told(bench: Bench) -> None:
    bench.kills.started("id1", "web")
    assert bench.kernel.groups == {"id1": True}
    bench.kernel.tell("id1", 2)
    assert bench.told == [("id1", "web", 2)]


def test_dockers_many_words_for_a_counted_kill_add_nothing(bench: Bench) -> None:
    bench.kills.started("id1", "web")
    bench.kernel.tell("id1", 1)
    for _ in range(60):
        bench.now += 0.05
        bench.kills.heard("id1", "web")
    assert bench.told == [("id1", "web", 1)]
    bench.kernel.tell("id1", 1)
    assert len(bench.told) == 2


def test_dockers_word_makes_the_count_looked_at(bench: Bench) -> None:
    bench.kills.started("id1", "web")
    bench.kernel.unseen["id1"] = 3
    bench.kills.heard("id1", "web")
    assert bench.told == [("id1", "web", 3)]


def test_a_count_that_comes_after_the_word_adds_nothing(bench: Bench) -> None:
    bench.kills.started("id1", "web")
    bench.kills.heard("id1", "web")
    bench.now += 0.5
    bench.kernel.tell("id1", 1)
    bench.now += 3
    bench.kills.heard("id1", "web")
    assert bench.told == [("id1", "web", None)]
    bench.now += 3
    bench.kernel.tell("id1", 1)
    assert bench.told[1:] == [("id1", "web", 1)]


def test_where_nothing_is_counted_dockers_word_is_told_once_a_second(bench: Bench) -> None:
    for pause in (0, 0.3, 0.3, 0.6, 1.2):
        bench.now += pause
        bench.kills.heard("id1", "far")
    assert bench.told == [("id1", "far", None)] * 2


def test_what_runs_already_counts_from_now_on(bench: Bench) -> None:
    bench.docker.running = {"id1": "web", "id2": "db"}
    bench.kills.refresh()
    assert bench.kernel.groups == {"id1": False, "id2": False}
    bench.kills.renamed("id1", "www")
    bench.docker.running = {"id1": "www"}
    bench.kills.refresh()
    assert bench.kernel.groups == {"id1": False}
    bench.kernel.tell("id1", 1)
    assert bench.told == [("id1", "www", 1)]


def test_the_last_look_comes_before_the_end(bench: Bench) -> None:
    bench.kills.started("id1", "web")
    bench.kernel.unseen["id1"] = 1
    bench.kills.ended("id1")
    assert bench.told == [("id1", "web", 1)]
    assert bench.kernel.groups == {}
