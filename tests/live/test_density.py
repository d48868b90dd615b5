"""`triune density` on real containers: what they cost, whether as many fit as was said, and nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator

import pytest

from tests.live.daemon import TRIUNE, Daemon
from tests.live.system_fixtures import separate_daemon
from triune.host.footprint import measure

pytestmark = [pytest.mark.live, pytest.mark.net, pytest.mark.lxc, pytest.mark.docker]

PREFIX = "density-"
ENGINES = ("--engine", "lxc", "--engine", "docker")
MIB = 1 << 20


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with separate_daemon("dens", PREFIX, 161) as made:
        yield made


def ours(daemon: Daemon) -> list[str]:
    return [name for name in daemon.names() if name.startswith(PREFIX)]


@pytest.mark.alone  # what others start or stop meanwhile changes the shares of pages that are mapped by all of them
def test_measured_predicted_and_found_agree(daemon: Daemon) -> None:
    found = daemon.json("density", "--measure", "--measure-count", "2", "--fill", "--fill-most", "4", *ENGINES)
    by_name = {figure["engine"]: figure for figure in found["figures"]}
    lxc, docker = by_name["lxc"], by_name["docker"]
    assert (lxc["origin"], docker["origin"]) == ("measured", "measured")
    assert 4 * MIB < lxc["memory_each"] < 200 * MIB
    assert MIB < docker["memory_each"] < lxc["memory_each"]
    assert lxc["inotify"] >= 1, "a system has an init that watches files"
    fill = found["fill"]
    assert (fill["started"], fill["ended_by"]) == ({"lxc": 2, "docker": 2}, "count")
    assert abs(fill["deviation"]) < 0.4, fill
    assert ours(daemon) == []
    assert daemon.json("density")["measured"] == found["measured"], "it is kept for later"


def test_an_interrupt_removes_what_was_started(daemon: Daemon) -> None:
    argv = [str(TRIUNE), "density", "--fill", "--fill-most", "50", "--engine", "docker"]
    with subprocess.Popen(argv, env=daemon.env, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as fill:
        deadline = time.monotonic() + 60
        while len(ours(daemon)) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        assert measure(ours(daemon)[:1]).processes >= 1
        fill.send_signal(signal.SIGINT)
        told = fill.communicate(timeout=120)[1]
    assert fill.returncode == 130, told
    assert ours(daemon) == []


def test_the_next_trial_removes_what_a_killed_one_left(daemon: Daemon) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    daemon.launch("debian/12", f"{PREFIX}{gone.pid}-0", "docker", "--wait", "running", command=("sleep", "infinity"))
    daemon.launch("debian/12", f"{PREFIX}{os.getpid()}-0", "docker", "--wait", "running", command=("sleep", "infinity"))
    done = daemon.run("density", "--fill", "--fill-most", "1", "--engine", "docker", "--format", "json")
    assert json.loads(done.stdout)["fill"]["count"] == 1
    assert ours(daemon) == [f"{PREFIX}{os.getpid()}-0"], "another one that runs keeps its own"
