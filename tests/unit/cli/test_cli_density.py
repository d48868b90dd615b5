"""`triune density` as a command: formats, exit codes."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
from pathlib import Path

import pytest

from triune.cli import fitting, trying
from triune.cli.root import main
from triune.domain.errors import Failed, Invalid, Unreachable, Unsupported
from triune.services.placement.figures import published
from triune.services.placement.trial import Bounds

HOST = ["density", "--memory", "64GiB", "--cpus", "16"]


@pytest.fixture(autouse=True)
def _no_daemon(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TRIUNE_HOST", f"unix://{tmp_path}/none.sock")


@pytest.fixture
def fleet(tmp_path: Path) -> list[str]:
    hosts, instances = tmp_path / "hosts.csv", tmp_path / "instances.csv"
    hosts.write_text("name,cpus,memory\na,4,8GiB\nb,4,8GiB\n")
    instances.write_text("name,memory,cpus,packaging\nweb,2GiB,1,oci-image\ndb,4GiB,1,packages\n")
    return ["density", "--effort", "0", "--fleet", str(hosts), str(instances)]


def test_a_table(fleet: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(fleet) == 0
    said = capsys.readouterr().out
    assert said.startswith("2 of 2 instances on 1 of 2 hosts\nNo placement needs fewer hosts: 1 is the lower bound.\n")
    assert "memory" in said


def test_other_formats_say_the_same(fleet: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*fleet, "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {row["instance"]: row["engine"] for row in found["placements"]} == {"web": "docker", "db": "lxc"}
    assert found["hosts_used"] == found["lower_bound"] == 1
    assert main([*fleet, "--format", "csv"]) == 0
    assert list(csv.DictReader(io.StringIO(capsys.readouterr().out))) == found["placements"]
    assert main([*fleet, "--format", "yaml"]) == 0
    assert "placements:" in capsys.readouterr().out


def test_one_that_fits_nowhere_ends_with_1_and_the_rest_is_printed(
    fleet: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    instances = Path(fleet[-1])
    instances.write_text(instances.read_text() + "huge,99GiB,1,\n")
    with pytest.raises(Failed, match="huge") as caught:
        main([*fleet, "--format", "json"])
    assert (caught.value.code, caught.value.exit_code) == ("not_all_placed", 1)
    found = json.loads(capsys.readouterr().out)
    assert (found["placed"], found["unplaced"][0]["instance"]) == (2, "huge")


def test_wrong_files_and_options(fleet: list[str], tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="can't read"):
        main([*fleet[:-1], str(tmp_path / "none.csv")])
    with pytest.raises(Invalid, match="ENGINE=SIZE"):
        main([*fleet, "--extra", "kvm"])
    with pytest.raises(Invalid, match="xen"):
        main([*fleet, "--extra", "xen=1GiB"])


def test_how_many_fit(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*HOST, "--mix", "kvm=2,lxc=20,docker=5"]) == 0
    said = capsys.readouterr().out
    for part in ("64.0 GiB of memory (3.2 GiB kept for the host), 16 CPUs", "BOUND BY", "published", "5 docker: fit, "):
        assert part in said


def test_the_json_keeps_its_shape(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "web.yaml"
    file.write_text("memory: 1GiB\ncpus: 2\nos: windows\n")
    argv = [*HOST, "--workload", str(file), "--cpu-overcommit", "4", "--mix", "kvm=10", "--format", "json"]
    assert main([*argv, "--plot", str(tmp_path / "f.svg")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found) == [
        *("schema", "host", "kernel", "measured", "budget", "workload", "figures", "engines", "mix", "ksm", "notes"),
        "fill",
    ]
    by_name = {row["engine"]: row for row in found["engines"]}
    assert by_name["kvm"]["fits"] == 32
    assert by_name["lxc"]["fits"] == 0
    assert "another operating system" in by_name["lxc"]["blocked"]
    assert 0.0 < found["mix"]["risk"]["cpu"]["probability"] < 1.0
    assert (tmp_path / "f.svg").exists()


def test_risk_in_words(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "web.yaml"
    file.write_text("memory: 1GiB\ncpus: 2\n")
    assert main([*HOST, "--workload", str(file), "--cpu-overcommit", "4"]) == 0
    assert (
        "Risk, the share of time in which more is asked than there is (if each is busy 20%" in capsys.readouterr().out
    )
    assert main([*HOST, "--cpu-overcommit", "4"]) == 0
    assert "The risk of this overcommit is not known" in capsys.readouterr().out


def test_a_mix_that_does_not_fit_ends_with_6(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Unsupported, match="memory") as caught:
        main([*HOST, "--mix", "kvm=200"])
    assert (caught.value.code, caught.value.exit_code) == ("mix_does_not_fit", 6)
    assert "do not fit" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("option", "value", "code"),
    [
        ("--mix", "kvm", "bad_mix"),
        ("--mix", "kvm=-1", "bad_mix"),
        ("--mix", "kvm=1,kvm=2", "bad_mix"),
        ("--mix", "", "bad_mix"),
        ("--mix", "lxc=0", "bad_mix"),
        ("--mix", "kwm=1", "unknown_engine"),
        ("--memory", "much", "bad_size"),
        ("--memory", "100MiB", "impossible_budget"),
        ("--cpus", "0", "bad_cpus"),
        ("--plot", "frontier.doc", "bad_plot"),
    ],
)
def test_what_is_wrong_is_named(option: str, value: str, code: str) -> None:
    with pytest.raises(Invalid) as caught:
        main(["density", option, value])
    assert caught.value.code == code
    assert caught.value.hint


def test_a_workload_that_the_mix_can_t_run(tmp_path: Path) -> None:
    file = tmp_path / "win.yaml"
    file.write_text("os: windows\n")
    with pytest.raises(Unsupported, match="the mix has 3 docker"):
        main([*HOST, "--workload", str(file), "--mix", "docker=3"])
    file.write_text("parts: [{name: a}]\n")
    with pytest.raises(Invalid, match="describes 1 parts"):
        main([*HOST, "--workload", str(file)])
    file.write_text("os: windows\ninit_system: true\n")
    with pytest.raises(Invalid, match="contradicts"):
        main([*HOST, "--workload", str(file)])
    file.write_text("memroy: 1GiB\n")
    with pytest.raises(Invalid, match="memroy"):
        main([*HOST, "--workload", str(file)])


def test_trials_need_the_daemon() -> None:
    for option in ("--measure", "--fill"):
        with pytest.raises(Unreachable):
            main(["density", option])


def test_a_fleet_takes_no_options_of_one_host(fleet: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*fleet, "--mix", "kvm=1"]) == 2
    assert "--fleet goes without --mix" in capsys.readouterr().err


def test_a_fill_keeps_the_proportions_at_every_moment() -> None:
    order = trying.order_of({"a": 1, "b": 3}, 100)
    assert order == ["b", "b", "a", "b"] or order == ["b", "a", "b", "b"]
    assert len(trying.order_of({"a": 10, "b": 30}, 8)) == 8


def test_a_fill_is_predicted_from_the_figures() -> None:
    known = published()
    name, figure = next(iter(known.engines.items()))
    each = figure.memory_each
    assert trying.predicted(known, [name], Bounds(most=9, seconds=1, memory=1 << 62)) == (9, 9 * each)
    assert trying.predicted(known, [name], Bounds(most=9, seconds=1, memory=each * 2 + 1)) == (3, 3 * each)


def test_disk_requests_as_benchmarks_found_them() -> None:
    found = {"median": 900.0, "unit": "IOPS"}
    there = {"native": {"disk.random.read.32": found, "disk.random.write.32": {**found, "median": 400.0}}}
    assert fitting._requests(there) == 400.0
    assert fitting._requests({}) is None


def test_an_interrupt_during_the_request_cancels_the_launch() -> None:
    class Fake:
        cancelled: list[str] = []

        @property
        def instances(self) -> Fake:
            return self

        operations = instances

        def launch(self, **_: object) -> dict[str, str]:
            os.kill(os.getpid(), signal.SIGINT)
            return {"id": "op"}

        def cancel(self, operation: str) -> None:
            self.cancelled.append(operation)

        def wait(self, operation: str, *, timeout: float) -> None:
            assert timeout

    before = signal.getsignal(signal.SIGINT)
    starter = trying.OnDaemon(Fake(), "debian/12", {"engines": []})  # type: ignore[arg-type]
    with pytest.raises(KeyboardInterrupt):
        starter.start("a", "b")
    assert Fake.cancelled == ["op"]
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize(
    ("need", "told"),
    [
        ({"what": "inotify instances", "unit": "count", "needed": 18000, "most": 1024},
         "the mix needs 18,000 inotify instances, and there are 1,024"),
        ({"what": "memory", "unit": "bytes", "needed": 2 << 30, "most": 1 << 30},
         "the mix needs 2.0 GiB of memory, and there is 1.0 GiB"),
    ],
)  # fmt: skip
def test_what_a_mix_lacks_is_a_sentence(need: dict[str, object], told: str) -> None:
    with pytest.raises(Unsupported) as caught:
        fitting.require_mix({"mix": {"fits": False, "times": 0.5, "needs": [need]}})
    assert caught.value.message == told
