"""A run: in turn, kept as it grows, going on without what fails."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.unit.services.benchmarks.fakes import FakeSubject, Told

from triune.domain.errors import Failed, NotFound
from triune.services.benchmarks.catalogue import Suite, catalogue
from triune.services.benchmarks.results import load
from triune.services.benchmarks.running import Plan, Run, blank


class Clock:
    """Each look at it takes a second."""

    def __init__(self, step: float = 1.0) -> None:
        self.now = 0.0
        self.step = step

    def __call__(self) -> float:
        self.now += self.step
        return self.now


def made(tmp_path: Path, ids: list[str], *, rounds: int = 3, budget: int = 0, clock: Any = None) -> tuple[Run, Told]:
    known = catalogue()
    benchmarks = tuple(found for found in known.benchmarks if found.id in ids)
    plan = Plan(
        known=known, suite=Suite("quick", rounds, 1, budget), benchmarks=benchmarks, rounds=rounds, cpus=2, memory=2**30
    )
    facts = {
        "id": "x", "triune": "0", "image": {}, "host": {}, "load": {}, "loaded": False, "warnings": [],
    }  # fmt: skip
    told = Told()
    run = Run(plan=plan, data=blank(plan, facts), path=tmp_path / "r.json", watcher=told, clock=clock or Clock(0.001))
    return run, told


def test_subjects_take_turns(tmp_path: Path) -> None:
    log: list[str] = []
    run, told = made(tmp_path, ["cpu.single", "start.running", "start.ready"])
    run.measure([FakeSubject("native", log), FakeSubject("alpha", log)])
    measured = [line for line in log if "sysbench cpu" in line or "life" in line]
    single = "sysbench cpu --threads=1 --time=1 run"
    assert measured == [f"native: {single}", f"alpha: {single}", "native: life", "alpha: life"] * 3
    found = load(run.path)
    assert found["state"] == "complete"
    assert found.samples("cpu.single", "alpha") == (10.0,) * 3
    assert found.samples("start.ready", "native") == ()  # it has none
    assert found["benchmarks"][0]["tool"]["name"]
    assert found.subject("alpha")["label"].startswith("emulated")
    assert len(told.samples) == 15


def test_what_cannot_be_opened_is_left_out_and_the_others_go_on(tmp_path: Path) -> None:
    run, told = made(tmp_path, ["cpu.single"])
    run.measure([FakeSubject("native", []), FakeSubject("beta", [], broken="open")])
    found = load(run.path)
    assert [row["name"] for row in found["subjects"]] == ["native"]
    assert found["absent"] == [{"name": "beta", "reason": "there is no room"}]
    assert "Beta containers is left out: there is no room" in told.problems


def test_nothing_left_is_an_error(tmp_path: Path) -> None:
    run, _ = made(tmp_path, ["cpu.single"])
    with pytest.raises(Failed) as error:
        run.measure([FakeSubject("beta", [], broken="open")])
    assert error.value.code == "nothing_to_measure"
    assert json.loads(run.path.read_text())["state"] == "interrupted"


def test_what_fails_twice_is_left_out(tmp_path: Path) -> None:
    log: list[str] = []
    run, told = made(tmp_path, ["cpu.single", "cpu.syscall"], rounds=4)
    run.measure([FakeSubject("alpha", log, broken="cpu"), FakeSubject("beta", log)])
    assert sum("alpha: sysbench cpu" in line for line in log) == 2
    found = load(run.path)
    assert [row["round"] for row in found["problems"] if row["benchmark"] == "cpu.single"] == [1, 2]
    assert found.samples("cpu.single", "beta") == (10.0,) * 4
    assert any("it broke" in text and "left out" in text for text in told.problems)


def test_an_interrupt_keeps_what_there_is(tmp_path: Path) -> None:
    class Impatient(FakeSubject):
        def run(self, argv: Any, timeout: float) -> Any:
            if self.count == 3:
                raise KeyboardInterrupt
            return super().run(argv, timeout)

    run, _ = made(tmp_path, ["cpu.single"], rounds=9)
    with pytest.raises(KeyboardInterrupt):
        run.measure([Impatient("native", [])])
    found = load(run.path)
    assert found["state"] == "interrupted"
    assert found.samples("cpu.single", "native") == (10.0, 10.0)


def test_the_budget_holds_and_is_told(tmp_path: Path) -> None:
    run, told = made(tmp_path, ["cpu.single", "memory.bandwidth"], rounds=50, budget=60, clock=Clock())
    run.measure([FakeSubject("native", [])])
    assert run.clock.now < 70
    assert any("time is up" in text or "for time" in text for text in told.problems)
    assert load(run.path)["warnings"]


def test_a_slow_start_does_not_eat_the_time_of_the_rest(tmp_path: Path) -> None:
    clock = Clock(0.01)

    class Slow(FakeSubject):
        def life(self, wanted: frozenset[str]) -> Any:
            clock.now += 40
            return super().life(wanted)

        def run(self, argv: Any, timeout: float) -> Any:
            clock.now += 1
            return super().run(argv, timeout)

    run, _ = made(tmp_path, ["cpu.single", "start.ready"], rounds=8, budget=100, clock=clock)
    run.measure([Slow("alpha", [])])
    found = load(run.path)
    assert len(found.samples("cpu.single", "alpha")) == 8
    assert len(found.samples("start.ready", "alpha")) < 4
    assert [text.partition(":")[0] for text in found["warnings"]] == ["time was short"]


def test_a_server_is_asked_by_the_client_and_ended(tmp_path: Path) -> None:
    log: list[str] = []
    run, _ = made(tmp_path, ["app.redis.get"], rounds=1)

    class Client(FakeSubject):
        def run(self, argv: Any, timeout: float) -> Any:
            out = super().run(argv, timeout)
            return type(out)(0, '"GET","123.5"', "", 0.1)

    run.client = Client("native", log)
    run.measure([FakeSubject("beta", log)])
    asked = [line for line in log if "redis-benchmark" in line]
    assert asked == ["native: redis-benchmark -h 192.0.2.1 -p 16380 -t get -n 20000 -c 8 --csv"]
    assert log[-1] == "beta: redis-cli -h 192.0.2.1 -p 16380 shutdown nosave"
    assert load(run.path).samples("app.redis.get", "beta") == (123.5,)


def test_without_a_client_what_is_served_is_told_missing(tmp_path: Path) -> None:
    run, told = made(tmp_path, ["app.redis.get", "cpu.single"], rounds=2)
    run.measure([FakeSubject("beta", [])])
    assert any("only root" in text for text in told.problems)
    assert load(run.path).samples("cpu.single", "beta")


def test_an_instance_that_somebody_removes_is_left_out_with_one_word(tmp_path: Path) -> None:
    class Removed(FakeSubject):
        def run(self, argv: Any, timeout: float) -> Any:
            if self.count == 2:
                raise NotFound("instance_not_found", "there is no instance 'x'", hint="")
            return super().run(argv, timeout)

    run, _ = made(tmp_path, ["cpu.single"], rounds=5)
    run.measure([Removed("beta", []), FakeSubject("native", [])])
    found = load(run.path)
    assert (len(found.samples("cpu.single", "beta")), len(found.samples("cpu.single", "native"))) == (1, 5)
    assert found["warnings"] == ["Beta containers is left out from round 2 on: there is no instance 'x'"]


def test_every_pair_of_kinds_is_measured_both_ways(tmp_path: Path) -> None:
    log: list[str] = []

    class Speaks(FakeSubject):
        def run(self, argv: Any, timeout: float) -> Any:
            out = super().run(argv, timeout)
            return type(out)(0, '{"end": {"sum_received": {"bits_per_second": 5e9}}}', "", 0.1)

    run, _ = made(tmp_path, ["net.between"], rounds=1)
    run.client = Speaks("native", log)
    run.measure([Speaks("native", log), Speaks("alpha", log), Speaks("beta", log)])
    found = load(run.path)
    assert {(row["benchmark"], row["subject"]) for row in found["samples"]} == {
        ("net.between.alpha", "beta"),
        ("net.between.beta", "alpha"),
    }
    assert found["benchmarks"][0]["title"] == "bulk TCP from Alpha machines, emulated (no KVM on this host)"
    clients = [line.partition(":")[0] for line in log if "iperf3 -c" in line]
    assert clients == ["alpha", "beta"]


def test_a_form_that_a_subject_cannot_have_is_told_once(tmp_path: Path) -> None:
    log: list[str] = []

    class Stores(FakeSubject):
        def run(self, argv: Any, timeout: float) -> Any:
            out = super().run(argv, timeout)
            return type(out)(0, '{"jobs": [{"read": {"iops": 7}}]}', "", 0.1)

    run, told = made(tmp_path, ["disk.tree.read", "disk.raw.read"], rounds=3)
    run.measure([Stores("beta", log)])
    found = load(run.path)
    assert found.samples("disk.tree.read", "beta") == (7.0,) * 3
    assert [(row["message"], row["by_kind"]) for row in found["problems"]] == [("beta has no raw", True)]
    assert told.problems == []
    assert sum("--rw=write" in line and "--filename=/there/file" in line for line in log) == 1


def test_what_is_reached_from_outside_listens_inside_and_is_asked_there(tmp_path: Path) -> None:
    log: list[str] = []

    class Speaks(FakeSubject):
        def run(self, argv: Any, timeout: float) -> Any:
            out = super().run(argv, timeout)
            return type(out)(0, '{"end": {"sum_received": {"bits_per_second": 5e9}}}', "", 0.1)

    run, told = made(tmp_path, ["net.nat.receive", "net.host.receive"], rounds=2)
    run.outside = Speaks("native", log)
    run.measure([Speaks("alpha", log), Speaks("beta", log)])
    found = load(run.path)
    assert {(row["benchmark"], row["subject"]) for row in found["samples"]} == {
        ("net.nat.receive", "alpha"),
        ("net.nat.receive", "beta"),
        ("net.host.receive", "beta"),
    }
    assert {row["message"] for row in found["problems"]} == {"alpha has a network of its own"}
    assert told.problems == []
    asked = [line.partition(" --connect")[0] for line in log if "iperf3 -c" in line]
    assert asked[:3] == [
        *["native: iperf3 -c 192.0.2.9 -p 40001"] * 2,
        "native: iperf3 -c 192.0.2.9 -p 15201",
    ]
    assert [line.split("-B ")[1].split()[0] for line in log if "beta" in line and "-B " in line][:2] == [
        "nat.inside",
        "host.inside",
    ]


def test_without_root_nothing_is_made_to_be_reached_from_outside(tmp_path: Path) -> None:
    class Makes(FakeSubject):
        def reached(self, way: str) -> Any:
            raise AssertionError("an instance for nothing")

    run, told = made(tmp_path, ["net.nat.receive", "cpu.single"], rounds=2)
    run.measure([Makes("beta", [])])
    assert any("only root" in text for text in told.problems)
    assert load(run.path).samples("cpu.single", "beta")
