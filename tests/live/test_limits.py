"""`triune set` on real containers: for each limit a load inside runs into it, and does not without it."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.live.daemon import TRIUNE, Daemon
from tests.live.system_fixtures import IMAGE, separate_daemon
from tests.patience import until
from triune.host import lxcfs
from triune.sdk import Client

pytestmark = [pytest.mark.live, pytest.mark.alone, pytest.mark.net]

PREFIX = "tlim-"
ENGINES = [pytest.param(engine, marks=getattr(pytest.mark, engine)) for engine in ("lxc", "docker")]
BUSY = "while :; do :; done"
MIB = 1 << 20


class Box:
    """One running instance and how tests load it."""

    def __init__(self, daemon: Daemon, engine: str, name: str) -> None:
        self.daemon, self.engine, self.name = daemon, engine, name
        self.client = Client(str(daemon.socket))
        rest = ("sleep", "infinity") if engine == "docker" else ()
        daemon.launch(IMAGE, name, engine, "--network", "none", command=rest)

    def set(self, *words: str) -> str:
        return self.daemon.run("set", self.name, *words).stdout.decode()

    def refused(self, *words: str) -> tuple[int, str]:
        done = self.daemon.run("set", self.name, *words, check=False)
        return done.returncode, done.stderr.decode()

    def sh(self, script: str) -> str:
        return self.daemon.exec(self.name, "bash", "-c", script, check=False)

    def limits(self) -> dict[str, object]:
        shown = self.daemon.json("show", self.name)["limits"]
        return {key: value for key, value in shown.items() if value is not None}

    def cpu_time(self) -> float:
        return self.client.instances.stats(self.name)[0]["cpu_time_s"]

    def pids(self) -> int:
        return self.client.instances.stats(self.name)[0]["pids"] or 0

    @contextmanager
    def busy(self, loops: int = 1) -> Iterator[None]:
        """CPU-bound loops inside."""
        script = f"for i in $(seq {loops}); do {BUSY} & done; read; kill $(jobs -p)"
        argv = [str(TRIUNE), "exec", self.name, "--", "bash", "-c", script]
        with subprocess.Popen(argv, env=self.daemon.env, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as load:
            assert load.stdin is not None
            eventually(lambda: self.sh("pgrep -c bash || grep -lx bash /proc/[0-9]*/comm | wc -l").strip() not in "01")
            time.sleep(0.3)
            yield
            load.stdin.close()

    def share(self, seconds: float = 1.5) -> float:
        """CPUs' worth of time it takes now."""
        begin, before = time.monotonic(), self.cpu_time()
        time.sleep(seconds)
        return (self.cpu_time() - before) / (time.monotonic() - begin)

    def direct(self, how: str, size: str, count: int) -> float:
        """Seconds for so many direct reads or writes of this size."""
        where = "if=/var/load of=/dev/null iflag=direct" if how == "read" else "if=/dev/zero of=/var/out oflag=direct"
        said = self.sh(f"dd {where} bs={size} count={count} 2>&1 | tail -1; rm -f /var/out")
        return float(said.split(", ")[-2].split()[0])


def eventually(condition: Callable[[], object], seconds: float = 60) -> None:
    until(condition, within=seconds, pause=0.05)


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    """One of its own, with the images of the others."""
    with separate_daemon("lim", PREFIX, 111) as made:
        yield made


@pytest.fixture(scope="module", params=ENGINES)
def shared(request: pytest.FixtureRequest, daemon: Daemon) -> Iterator[Box]:
    box = Box(daemon, request.param, f"{PREFIX}{request.param}")
    box.sh(f"dd if=/dev/zero of=/var/load bs=1M count=24; sync; echo {BUSY!r} > /dev/null")
    yield box
    daemon.run("rm", box.name, "--yes", "--force")


@pytest.fixture
def box(shared: Box) -> Iterator[Box]:
    """Without limits, before and after."""
    yield shared
    if there := shared.limits():
        shared.set(*(f"{key}=none" for key in there))
    assert shared.limits() == {}


def test_cpus_bound_a_busy_loop(box: Box) -> None:
    with box.busy(2):
        free = box.share()
        assert "cpus 0.01 now" in box.set("cpus=0.01")
        bound = box.share()
        box.set("cpus=none")
        again = box.share()
    # Others use this machine too: what is free may be little.
    assert bound < 0.03
    assert free > 2 * bound
    assert again > 2 * bound


def test_pinned_to_one_cpu_two_loops_get_no_more_than_one(box: Box) -> None:
    with box.busy(2):
        box.set("cpu.pin=1")
        allowed = {line for line in box.sh("grep -h Cpus_allowed_list /proc/[0-9]*/status").split() if ":" not in line}
        share = box.share()
        box.set("cpu.pin=0")
        allowed_then = box.sh("grep Cpus_allowed_list /proc/self/status").split()[1]
    assert allowed == {"1"}
    assert allowed_then == "0"
    assert 0.1 < share < 1.1
    box.set("cpu.pin=none")
    assert box.sh("grep Cpus_allowed_list /proc/self/status").split()[1] == "0-1"


def test_weights_decide_who_gets_the_cpu(box: Box) -> None:
    other = Box(box.daemon, box.engine, f"{box.name}-other")
    try:
        for one in (box, other):
            one.set("cpu.pin=1")
        with box.busy(), other.busy():
            shares = []
            for first, second in ((1000, 50), (50, 1000)):
                box.set(f"cpu.weight={first}")
                other.set(f"cpu.weight={second}")
                begin = (box.cpu_time(), other.cpu_time())
                time.sleep(2)
                shares.append((box.cpu_time() - begin[0], other.cpu_time() - begin[1]))
    finally:
        box.daemon.run("rm", other.name, "--yes", "--force")
    assert shares[0][0] > 4 * shares[0][1]
    assert shares[1][1] > 4 * shares[1][0]


def test_memory_ends_in_an_event_when_it_is_used_up(box: Box) -> None:
    allocate = "head -c 180M /dev/zero | tail -c 170M | wc -c"
    assert box.sh(allocate).strip() == str(170 * MIB)
    box.set("memory=100MiB", "swap=0")
    before = len(ooms(box))
    assert box.sh(allocate).strip() != str(170 * MIB)
    eventually(lambda: len(ooms(box)) > before)
    # By the kernel's count, never by the engine's word alone: containerd may lose that.
    assert [int(one["data"]["killed"]) for one in ooms(box)[before:]] == [1]
    status, said = box.refused("memory=4MiB" if box.engine == "lxc" else "memory=6MiB")
    if box.engine == "lxc":  # a lone sleep uses less than the least that Docker takes
        assert (status, "limit_below_use" in said, "uses" in said) == (4, True, True)
    assert box.limits()["swap"] == 0


def ooms(box: Box) -> list[dict[str, Any]]:
    events = box.daemon.json("events")
    return [one for one in events if one["type"] == "instance.oom" and one["subject"].endswith(box.name)]


def test_a_fork_bomb_is_bounded(box: Box) -> None:
    bomb = "for i in $(seq 120); do sleep 4 & done 2>/dev/null; jobs -r | wc -l; kill $(jobs -p)"
    assert box.sh(bomb).split()[-1] == "120"
    limit = box.pids() + 40
    box.set(f"pids={limit}")
    begun = box.sh(bomb.replace("seq 120", "seq 60") + " 2>/dev/null")
    assert box.pids() <= limit
    assert not begun.split() or int(begun.split()[-1]) <= 40
    status, said = box.refused("pids=1")
    assert (status, "limit_below_use" in said) == (4, True)
    assert "processes and threads now, more than 1" in said


@pytest.mark.parametrize("how", ["read", "write"])
def test_direct_traffic_to_disk_is_bounded(box: Box, how: str) -> None:
    free = box.direct(how, "1M", 12)
    box.set(f"io.{how}=6MiB/s")
    bound = box.direct(how, "1M", 12)
    other = box.direct("write" if how == "read" else "read", "1M", 12)
    assert 1.5 < bound < 8
    assert free < 0.6 * bound
    assert other < 0.6 * bound


@pytest.mark.parametrize("how", ["read", "write"])
def test_requests_to_disk_are_bounded(box: Box, how: str) -> None:
    free = box.direct(how, "4k", 80)
    box.set(f"iops.{how}=40")
    bound = box.direct(how, "4k", 80)
    assert 1.5 < bound < 8
    assert free < 0.6 * bound


def test_what_was_set_outlives_a_restart_by_any_tool(box: Box) -> None:
    words = ("cpus=0.7", "cpu.weight=300", "cpu.pin=1", "memory=200MiB", "swap=0", "pids=90")
    box.set(*words, "io.read=6MiB/s", "iops.write=70")
    before = box.limits()
    assert before["io.read"] == 6 * MIB
    box.daemon.run("restart", box.name, "--force")
    assert box.limits() == before
    assert box.direct("read", "1M", 12) > 1.5
    box.daemon.run("stop", box.name, "--force")
    assert box.limits() == before
    native = ["docker", "start"] if box.engine == "docker" else ["lxc-start", "-n"]
    subprocess.run([*native, box.name], check=True, capture_output=True)
    eventually(lambda: box.daemon.json("show", box.name)["state"] == "running" and box.direct("read", "1M", 4) > 0.4)
    assert box.limits() == before


@pytest.mark.parametrize(("point", "done"), [("limits", False), ("before-keep", False), ("after-keep", True)])
def test_a_daemon_killed_while_it_sets_leaves_all_or_nothing(box: Box, point: str, done: bool) -> None:
    box.set("pids=90", "io.read=6MiB/s")
    before = box.limits()
    box.daemon.crash(f"set:{point}")
    box.daemon.run("set", box.name, "cpus=0.5", "pids=80", "io.read=5MiB/s", "iops.read=50", check=False)
    box.daemon.died()
    box.daemon.start()
    after = {"cpus": 0.5, "pids": 80, "io.read": 5 * MIB, "iops.read": 50}
    eventually(lambda: box.limits() == (after if done else before))


@pytest.mark.lxc
def test_a_container_sees_its_limits_as_its_machine(daemon: Daemon) -> None:
    reason = lxcfs.why_not()
    if reason:
        pytest.skip(reason)
    name = f"{PREFIX}seen"
    daemon.launch(IMAGE, name, "lxc", "--network", "none", "--memory", "256MiB", "--set", "cpu.pin=1")
    try:
        assert daemon.exec(name, "grep", "MemTotal", "/proc/meminfo").split()[1] == str(256 * 1024)
        assert daemon.exec(name, "nproc").strip() == "1"
        assert daemon.exec(name, "grep", "-c", "^processor", "/proc/cpuinfo").strip() == "1"
        daemon.run("set", name, "memory=300MiB")
        assert daemon.exec(name, "grep", "MemTotal", "/proc/meminfo").split()[1] == str(300 * 1024)
    finally:
        daemon.run("rm", name, "--yes", "--force")
