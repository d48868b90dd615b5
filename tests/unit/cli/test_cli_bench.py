"""`bench`: what it refuses, what it says, and what it goes on without."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.unit.services.benchmarks.fakes import FakeSubject, Told, result

from triune.cli import bench_run
from triune.cli.bench_run import Bench, planned
from triune.cli.main import run as command
from triune.domain.errors import Failed, Invalid
from triune.services.benchmarks.results import load, write
from triune.services.benchmarks.subject import NATIVE

IDLE = {"load1": 0.05, "busy": 0.02}
BUSY = {"load1": 2.0, "busy": 0.9}


class Daemon:
    """As much of a client as a run asks for."""

    def __init__(self, data: Path, *, free: int = 2**36) -> None:
        self.data = data
        self.free = free
        self.images = self
        self.instances = self
        self.volumes = self
        self.pools = self

    def host(self) -> dict[str, Any]:
        engines = [
            {"name": "alpha", "title": "Alpha machines", "available": True, "facts": {"accelerated": False}},
            {"name": "beta", "title": "Beta containers", "available": True, "facts": {}},
            {"name": "gone", "title": "Gone", "available": False, "reason": "its daemon does not run", "facts": {}},
        ]
        return {"hostname": "box", "data": str(self.data), "data_free_bytes": self.free, "engines": engines}

    def build(self, name: str, **_: Any) -> dict[str, Any]:
        return {"id": name}

    def get(self, name: str) -> dict[str, Any]:
        return {"name": name, "digest": "sha256:0", "forms": {"tree": {"path": "/tree"}}}

    def list(self) -> tuple[list[Any], list[Any]]:
        return [], []


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A run on fake subjects."""
    monkeypatch.setattr(bench_run, "finish", lambda *_, **__: None)
    monkeypatch.setattr(bench_run, "load", lambda: IDLE)
    monkeypatch.setattr(bench_run.os, "geteuid", lambda: 0)

    def make(**daemon: Any) -> Bench:
        broken = daemon.pop("broken", {})
        plan = planned("quick", daemon.pop("only", ["cpu.single"]), 4, None, None)
        client: Any = Daemon(tmp_path, **daemon)
        bench = Bench(client, plan, image="", output=tmp_path / "out.json", quiet=True)
        monkeypatch.setattr(
            bench, "_native", lambda name, *_, **__: FakeSubject(NATIVE, [], broken=broken.get(name, ""))
        )
        ordinary = bench._subject
        monkeypatch.setattr(
            bench, "_subject", lambda name, *rest: FakeSubject(name, []) if name != NATIVE else ordinary(name, *rest)
        )
        return bench

    return make


def test_an_engine_that_is_not_here_is_said_and_the_others_go_on(made: Any) -> None:
    told = Told()
    found = made().run([], told)
    assert [row["name"] for row in found["subjects"]] == ["native", "alpha", "beta"]
    assert found["absent"] == [{"name": "gone", "reason": "its daemon does not run"}]
    assert told.problems == ["gone is left out: its daemon does not run"]
    assert found["state"] == "complete"
    assert len(found.samples("cpu.single", "alpha")) == 4


def test_only_an_engine_that_is_not_here(made: Any) -> None:
    with pytest.raises(Failed) as error:
        made().run(["gone"], Told())
    assert (error.value.code, error.value.exit_code) == ("nothing_to_measure", 1)
    assert "its daemon does not run" in error.value.message


def test_without_a_network_outside_the_rest_goes_on(made: Any) -> None:
    told = Told()
    found = made(only=["cpu.single", "net.nat.receive"], broken={"outside": "open"}).run(["beta"], told)
    assert told.problems[0] == "nothing is measured from outside of the host: there is no room"
    assert found["warnings"] == told.problems[:1]
    assert len(found.samples("cpu.single", "beta")) == 4
    assert found.samples("net.nat.receive", "beta") == ()


def test_an_engine_that_nobody_knows(made: Any) -> None:
    with pytest.raises(Invalid) as error:
        made().run(["beta", "gama"], Told())
    assert (error.value.code, error.value.exit_code) == ("unknown_engine", 2)
    assert "beta" in error.value.hint


def test_a_disk_without_room(made: Any) -> None:
    with pytest.raises(Failed) as error:
        made(free=2**20).run([], Told())
    assert (error.value.code, error.value.exit_code) == ("no_space", 1)


def test_a_busy_host_is_warned_of_and_marked(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_run, "load", lambda: BUSY)
    told = Told()
    bench = made()
    bench.run(["beta"], told)
    assert any("90% of its CPU time" in text for text in told.problems)
    found = load(bench.path)
    assert found["loaded"] is True
    assert found["load"] == {"before": BUSY, "after": BUSY}
    assert any("busy" in text for text in found["warnings"])


def test_without_root_native_is_left_out(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_run.os, "geteuid", lambda: 1000)
    found = made().run(["native", "beta"], Told())
    assert [row["name"] for row in found["subjects"]] == ["beta"]
    assert found["absent"][0]["name"] == "native"


def test_everything_is_closed_whatever_happens(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    subjects: list[FakeSubject] = []

    class Impatient(FakeSubject):
        def run(self, argv: Any, timeout: float) -> Any:
            raise KeyboardInterrupt

    def subject(name: str, *_: Any) -> FakeSubject:
        subjects.append(Impatient(name, []))
        return subjects[-1]

    bench = made()
    monkeypatch.setattr(bench, "_subject", subject)
    with pytest.raises(KeyboardInterrupt):
        bench.run(["beta", "alpha"], Told())
    assert [subject.closed for subject in subjects] == [True, True]
    assert load(bench.path)["state"] == "interrupted"
    assert list((bench.folder / "work").iterdir()) == []


@pytest.mark.parametrize(
    ("argv", "code", "said"),
    [
        (["report", "{old}"], 2, "version 0"),
        (["report", "{bad}"], 2, "no result"),
        (["report", "{none}"], 3, "there is no file"),
        (["report", "{good}", "--json", "--markdown"], 2, "one form"),
        (["report", "{good}", "--html", "{none}/x/y.html"], 2, "can't write"),
        (["compare", "{good}", "{bad}"], 2, "no result"),
        (["compare", "{good}", "{other}"], 2, "nothing in common|no benchmark in common"),
        (["run", "--only", "gpu"], 2, "no benchmark 'gpu'"),
        (["run", "--only", "cpu.single, gpu"], 2, "no benchmark 'gpu'"),
        (["run", "--memory", "lots"], 2, "not a size"),
        (["run", "--suite", "huge"], 2, "huge"),
        (["run", "--repeat", "0"], 2, "0"),
    ],
)
def test_bad_input(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    argv: list[str],
    code: int,
    said: str,
) -> None:
    files = {name: str(tmp_path / f"{name}.json") for name in ("old", "bad", "none", "good", "other")}
    write(Path(files["good"]), result({"cpu.single": {"native": [1.0]}}))
    write(Path(files["other"]), result({"start.ready": {"beta": [1.0]}}))
    write(Path(files["old"]), {**result({}), "version": 0})
    Path(files["bad"]).write_text('{"schema": "triune-bench", "version": 1}')
    monkeypatch.setattr("sys.argv", ["triune", "bench", *(word.format(**files) for word in argv)])
    assert command() == code
    error = capsys.readouterr().err
    assert any(part in error for part in said.split("|")), error
    assert "hint" in error


def test_reports_of_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    samples = {"cpu.single": {"native": [100, 101, 99, 100], "alpha": [10, 11, 9, 10], "beta": [98, 101, 99, 103]}}
    write(path, result(samples))

    def ran(*argv: str) -> str:
        monkeypatch.setattr("sys.argv", ["triune", "bench", *argv])
        assert command() == 0
        return capsys.readouterr().out

    table = " ".join(ran("report", str(path)).split())
    assert "emulated (no KVM on this host)" in table
    assert "0.10×▼" in table
    assert "×≈" in table
    found = json.loads(ran("report", str(path), "--json"))
    assert found["summary"][1]["relative_to_native"]["verdict"] == "worse"
    assert found["published"]
    assert ran("report", str(path), "--markdown").startswith("# Benchmarks of box")
    assert ran("report", str(path), "--html", "-").startswith("<!DOCTYPE html>")
    rows = json.loads(ran("compare", str(path), str(path), "--format", "json"))["rows"]
    assert {row["ratio"]["verdict"] for row in rows} == {"equal"}
    assert "no difference shown" in ran("compare", str(path), str(path))
