"""How many fit: limits as lines, mixes, the risk of overcommit, figures from files, trials on a stand-in."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triune.domain.errors import Failed, Invalid
from triune.domain.workload import parse
from triune.host.ceilings import Ceiling
from triune.host.footprint import Footprint
from triune.services.placement import trial
from triune.services.placement.capacity import (
    Budget,
    Line,
    alone,
    lines,
    memory_of,
    mixed,
    most_of,
    reserve_of,
    risk,
)
from triune.services.placement.figures import Figure, Figures, figures, keep, published
from triune.services.placement.plot import plot

GIB = 1 << 30
KNOWN = Figures(
    engines={
        "a": Figure(engine="a", memory_each=GIB, memory_idle=GIB // 4, memory_first=GIB, threads=10, inotify=9),
        "b": Figure(engine="b", memory_each=GIB // 10, memory_idle=GIB // 100, threads=2),
    },
    requests={"light": 5.0, "random": 300.0},
)
PIDS = Ceiling(name="pids", what="process numbers", most=100, taken=20, raised="more")


def found(memory: int = 16 * GIB, workload: dict[str, object] | None = None, **more: float) -> tuple[Line, ...]:
    budget = Budget(memory=memory, cpus=4, **more)  # type: ignore[arg-type]
    return lines(KNOWN, budget, [PIDS], parse(workload) if workload else None)


def test_the_tightest_limit_binds() -> None:
    a, b = alone(found(), "a"), alone(found(), "b")
    assert (a["fits"], a["bound_by"], a["limits"][1]["fits"]) == (8, "pids", 15)
    assert (b["fits"], b["bound_by"]) == (40, "pids")
    assert alone(found(4 * GIB), "a")["bound_by"] == "memory"
    assert alone(found(4 * GIB), "a")["fits"] == 3, "the first costs as much again"


def test_a_workload_adds_to_what_the_engine_takes() -> None:
    workload = {"memory": "1GiB", "cpus": 2, "disk": "10GiB", "io": "random"}
    assert memory_of(KNOWN.engines["b"], parse(workload)) == GIB + GIB // 100
    by_name = {line.name: line for line in found(workload=workload, disk=25 * GIB, iops=1000)}
    assert [by_name[name].fits("b") for name in ("memory", "cpus", "disk", "iops")] == [15, 2, 2, 3]
    assert {line.name: line for line in found(workload=workload, cpu_overcommit=3)}["cpus"].fits("b") == 6


@given(a=st.integers(0, 12), b=st.integers(0, 60), memory=st.integers(1, 40))
def test_mixes_agree_with_the_frontier(a: int, b: int, memory: int) -> None:
    if not a + b:
        return
    limits = found(memory * GIB)
    mix = {name: count for name, count in (("a", a), ("b", b)) if count}
    verdict = mixed(limits, mix)
    room = most_of(limits, "b", {"a": float(a)})
    assert verdict["fits"] == (room >= b and room >= 0)
    if math.isfinite(verdict["times"]) and verdict["times"] >= 1:
        assert verdict["fits"]


def test_nothing_left_after_the_reserve() -> None:
    with pytest.raises(Invalid, match="leaves nothing"):
        lines(KNOWN, Budget(memory=GIB, cpus=1, reserve=GIB), [])
    assert reserve_of(GIB) == 512 << 20


def test_the_risk_is_the_binomial_tail() -> None:
    workload = parse({"cpus": 1, "memory": "1GiB"})
    told = risk(Budget(memory=20 * GIB, cpus=4, busy=0.3), KNOWN, workload, {"b": 10})
    exact = sum(math.comb(10, k) * 0.3**k * 0.7 ** (10 - k) for k in range(5, 11))
    assert told["cpu"]["probability"] == pytest.approx(exact, abs=1e-6)
    assert told["memory"]["probability"] == 0.0
    assert risk(Budget(memory=GIB, cpus=4), KNOWN, None, {"b": 10})["cpu"]["probability"] is None


@pytest.mark.parametrize(("busy", "expected"), [(0.0, 0.0), (1.0, 1.0)])
@pytest.mark.parametrize("count", [10, 5000])
def test_the_risk_at_its_ends(busy: float, expected: float, count: int) -> None:
    told = risk(Budget(memory=GIB, cpus=4, busy=busy), KNOWN, parse({"cpus": 1}), {"b": count})
    assert told["cpu"]["probability"] == pytest.approx(expected)


def test_the_risk_of_many_agrees_with_trying() -> None:
    chance = random.Random(1)
    told = risk(Budget(memory=GIB, cpus=430, busy=0.2), KNOWN, parse({"cpus": 1}), {"b": 2100})["cpu"]["probability"]
    over = sum(sum(chance.random() < 0.2 for _ in range(2100)) > 430 for _ in range(500)) / 500
    assert told == pytest.approx(over, abs=0.07)


def test_published_figures_have_all_that_is_counted() -> None:
    known = published()
    assert known.time == ""
    for figure in known.engines.values():
        assert figure.memory_each > figure.memory_idle > 0
        assert figure.origin == "published"
        assert figure.source


def test_a_measurement_wins_over_what_is_published(tmp_path: Path) -> None:
    name = next(iter(published().engines))
    made = Figure(engine=name, memory_each=5, memory_idle=5, origin="measured")
    keep(tmp_path, {name: made}, "2026-01-02T03:04:05+00:00", {"hostname": "h"}, 3)
    known, notes = figures(tmp_path)
    assert (known.engines[name], known.time, notes) == (made, "2026-01-02T03:04:05+00:00", ())
    assert all(figure.origin == "published" for other, figure in known.engines.items() if other != name)
    other = list(published().engines)[1]
    later = Figure(engine=other, memory_each=6, memory_idle=6, origin="measured")
    keep(tmp_path, {other: later}, "2026-01-03T03:04:05+00:00", {"hostname": "h"}, 3)
    both = figures(tmp_path)[0]
    assert (both.engines[name], both.engines[other], both.time[:10]) == (made, later, "2026-01-03")
    assert figures(None)[0].engines == figures(tmp_path / "none")[0].engines == published().engines


@pytest.mark.parametrize("text", ["{", "[]", '{"kind": "bench"}', '{"kind": "density", "schema": 99}', "x" * (1 << 20)])
def test_an_old_or_broken_measurement_is_told_and_not_used(tmp_path: Path, text: str) -> None:
    (tmp_path / "measured-1.json").write_text(text)
    known, notes = figures(tmp_path)
    assert known.engines == published().engines
    assert notes[0].startswith("a measurement is not used: ")


def test_the_picture(tmp_path: Path) -> None:
    for engines in (["a", "b"], ["a"], []):
        path = tmp_path / f"{len(engines)}.svg"
        plot(path, found(), engines, {"b": 3}, "what fits")
        assert path.read_text().startswith("<?xml")
    with pytest.raises(Invalid, match=r"ends in no known kind"):
        plot(tmp_path / "a.txt", found(), ["a"], None, "")
    with pytest.raises(Invalid, match="can't write"):
        plot(tmp_path / "none" / "a.svg", found(), ["a"], None, "")


class Stand:
    """Instances in memory; the `bad`-th start fails, half-made."""

    def __init__(self, bad: int = -1, error: BaseException | None = None) -> None:
        self.there: list[str] = []
        self.removed: list[str] = []
        self.count, self.bad, self.error = 0, bad, error or Failed("no_room", "there is no room")

    def start(self, name: str, engine: str) -> None:
        self.there.append(name)
        self.count += 1
        if self.count == self.bad:
            raise self.error

    def remove(self, name: str) -> None:
        self.removed.append(name)
        if name in self.there:
            self.there.remove(name)

    def names(self) -> Sequence[str]:
        return list(self.there)

    def facts(self, name: str) -> Mapping[str, object]:
        return {"accelerated": None, "disk": 7, "cpu_time": 0.0}


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "_SETTLE", 0.0)
    monkeypatch.setattr(trial, "_IDLE", 0.0)
    monkeypatch.setattr(
        trial, "measure", lambda names: Footprint(pss=50 + 10 * len(names), kernel=len(names), threads=4 * len(names))
    )


@pytest.mark.usefixtures("no_waiting")
def test_the_first_and_each_further_one_are_told_apart() -> None:
    stand = Stand()
    made = trial.figure(stand, "a", 3, lambda _: None)
    assert (made.memory_each, made.memory_first, made.threads, made.disk_each) == (11, 50, 4.0, 7)
    assert (made.origin, stand.there, len(stand.removed)) == ("measured", [], 3)


@pytest.mark.usefixtures("no_waiting")
@pytest.mark.parametrize(
    ("bounds", "count", "ended"),
    [
        (trial.Bounds(most=4, seconds=100, memory=10**9), 4, "count"),
        (trial.Bounds(most=40, seconds=100, memory=83), 3, "memory"),
        (trial.Bounds(most=40, seconds=0, memory=10**9), 1, "time"),
    ],
)
def test_a_fill_ends_by_the_first_bound_and_leaves_nothing(bounds: trial.Bounds, count: int, ended: str) -> None:
    stand = Stand()
    done = trial.fill(stand, ["a", "b"], bounds, lambda _: None, lambda: 1 << 60)
    assert (done.count, done.ended, done.memory, stand.there) == (count, ended, 50 + 11 * count, [])


@pytest.mark.usefixtures("no_waiting")
def test_a_fill_stops_before_the_host_has_no_memory() -> None:
    bounds = trial.Bounds(most=40, seconds=100, memory=10**9)
    assert trial.fill(Stand(), ["a"], bounds, lambda _: None, lambda: 0).ended == "host-memory"


@pytest.mark.usefixtures("no_waiting")
def test_errors_and_interrupts_leave_nothing() -> None:
    bounds = trial.Bounds(most=9, seconds=100, memory=10**9)
    stand = Stand(bad=3)
    done = trial.fill(stand, ["a"], bounds, lambda _: None, lambda: 1 << 60)
    assert (done.count, done.ended, done.error, stand.there) == (2, "error", "no_room: there is no room", [])
    stand = Stand(bad=3, error=KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        trial.fill(stand, ["a"], bounds, lambda _: None, lambda: 1 << 60)
    assert (stand.there, len(stand.removed)) == ([], 3)


def test_what_a_killed_trial_left_is_removed_and_nothing_else() -> None:
    stand = Stand()
    stand.there = ["density-4194999-0", "density-1-0", "density-of-things", "web"]
    trial.sweep(stand)
    assert stand.there == ["density-1-0", "density-of-things", "web"]


def test_measurements_are_json_that_others_read(tmp_path: Path) -> None:
    made = Figure(engine="a", memory_each=5, memory_idle=5, origin="emulated")
    path = keep(tmp_path, {"a": made}, "2026-01-02T03:04:05+00:00", {"hostname": "h"}, 2)
    data = json.loads(path.read_text())
    assert path.name == "measured-20260102030405.json"
    assert list(data) == ["schema", "kind", "time", "host", "instances_of_each", "engines"]
    assert data["engines"][0]["origin"] == "emulated"


def test_benchmarks_serve_where_nothing_was_measured(tmp_path: Path) -> None:
    name, other = list(published().engines)[:2]
    found = {"median": 12.5, "unit": "MiB", "source": "measured here: run 1"}
    known, _ = figures(tmp_path, {name: {"memory.idle": {**found, "median": 99.0}, "memory.idle.10": found}})
    assert (known.engines[name].memory_each, known.engines[name].origin) == (12.5 * 2**20, "measured")
    assert known.engines[name].source == "measured here: run 1"
    assert known.engines[other] == published().engines[other]


def test_what_was_emulated_is_none_of_a_planned_host(tmp_path: Path) -> None:
    name = next(iter(published().engines))
    made = Figure(engine=name, memory_each=5, memory_idle=5, origin="emulated")
    keep(tmp_path, {name: made}, "2026-01-02T03:04:05+00:00", {"hostname": "h"}, 2)
    assert figures(tmp_path)[0].engines[name] == made
    known, notes = figures(tmp_path, planned=True)
    assert known.engines[name] == published().engines[name]
    assert "emulated" in notes[0]
