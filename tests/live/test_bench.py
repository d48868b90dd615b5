"""A tiny run on the real engines and natively: figures of all, and nothing left, whatever ends it."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.live.daemon import TRIUNE, Daemon
from tests.live.system_fixtures import IMAGE, separate_daemon
from tests.patience import PATIENCE

pytestmark = [pytest.mark.live, pytest.mark.lxc, pytest.mark.docker]


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with separate_daemon("brun", "bench-none-", 112) as daemon:
        yield daemon


def left_behind(daemon: Daemon, run: str) -> list[str]:
    """Instances, control groups, files and mounts of a run; others may be under way on this host."""
    groups = [str(path) for path in Path("/sys/fs/cgroup").glob(f"*/triune-bench-{run}*")]
    groups += [str(path) for path in Path("/sys/fs/cgroup").glob(f"triune-bench-{run}*")]
    work = daemon.data / "bench" / "work"
    instances = [name for name in daemon.names() if name.startswith(f"bench-{run}-")]
    mounts = [line for line in Path("/proc/mounts").read_text().splitlines() if str(work) in line]
    return [*instances, *groups, *map(str, work.iterdir()), *mounts]


def newest(daemon: Daemon) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(sorted((daemon.data / "bench").glob("*.json"))[-1].read_text())
    return found


def test_a_tiny_run(daemon: Daemon, tmp_path: Path) -> None:
    daemon.run(
        *("bench", "run", "--image", IMAGE, "--engines", "lxc,docker,native", "--repeat", "4", "--memory", "256MiB"),
        *(
            "--only",
            "cpu.syscall",
            "--only",
            "start.parallel",
            "--output",
            str(tmp_path / "a.json"),
            "--format",
            "json",
        ),
    )
    found = json.loads(daemon.run("bench", "report", str(tmp_path / "a.json"), "--json").stdout)
    assert found["state"] == "complete"
    assert found["problems"] == []
    assert [subject["name"] for subject in found["subjects"]] == ["native", "lxc", "docker"]
    rows = {(row["benchmark"], row["subject"]): row for row in found["summary"]}
    assert {(row["benchmark"], row["count"]) for row in rows.values()} == {("cpu.syscall", 4), ("start.parallel", 3)}
    assert ("start.parallel", "native") not in rows, "nothing starts natively"
    for name in ("lxc", "docker"):
        # Any shared host is noisy; ten times as slow would be another program, or no limit where the other has one.
        assert 0.1 < rows["cpu.syscall", name]["relative_to_native"]["value"] < 10
    order = [
        (sample["round"], sample["subject"]) for sample in found["samples"] if sample["benchmark"] == "cpu.syscall"
    ]
    assert order == [(number, name) for number in range(1, 5) for name in ("native", "lxc", "docker")]
    assert found["benchmarks"][0]["tool"]["version"] not in ("", "unknown")
    page = tmp_path / "a.html"
    daemon.run("bench", "report", str(tmp_path / "a.json"), "--html", str(page))
    assert page.read_text().count("<svg") == 3
    daemon.run("bench", "compare", str(tmp_path / "a.json"), str(tmp_path / "a.json"))
    assert left_behind(daemon, found["id"]) == []


def begun(daemon: Daemon) -> subprocess.Popen[bytes]:
    """A run that would take minutes, once it has its first figures."""
    before = len(list((daemon.data / "bench").glob("*.json")))
    argv = ["bench", "run", "--image", IMAGE, "--engines", "lxc,native", "--repeat", "99", "--only", "cpu.compress"]
    process = subprocess.Popen(
        [TRIUNE, *argv, "--suite", "full", "--memory", "256MiB"],
        env=daemon.env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and process.poll() is None:
        if len(list((daemon.data / "bench").glob("*.json"))) > before and newest(daemon)["samples"]:
            return process
        time.sleep(0.2)
    process.kill()
    raise AssertionError(f"the run took no sample: {process.stderr.read().decode() if process.stderr else ''}")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_keeps_what_it_has_and_leaves_nothing_behind(daemon: Daemon, number: signal.Signals) -> None:
    process = begun(daemon)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"what was measured is in" in said
    found = newest(daemon)
    assert (found["state"], bool(found["samples"])) == ("interrupted", True)
    assert left_behind(daemon, found["id"]) == []


def test_what_a_killed_run_left_is_removed_by_the_next(daemon: Daemon) -> None:
    process = begun(daemon)
    process.kill()
    process.communicate(timeout=PATIENCE)
    found = newest(daemon)
    assert left_behind(daemon, found["id"])
    daemon.run(
        *("bench", "run", "--image", IMAGE, "--engines", "native", "--repeat", "1", "--memory", "256MiB"),
        *("--only", "cpu.syscall", "-q"),
    )
    assert left_behind(daemon, found["id"]) == []
