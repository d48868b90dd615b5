"""`net.in` and `net.out` on the real engines: TCP between host and instance, measured both ways."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.live import rates
from tests.live.daemon import TRIUNE, Daemon
from tests.live.netlab import eventually, sh
from tests.live.system_fixtures import ENGINES, IMAGE, separate_daemon
from triune.host import net, tc

pytestmark = [pytest.mark.live, pytest.mark.alone, pytest.mark.net]

PREFIX = "tnlim-"
M = 10**6
PARAMS = [pytest.param(engine, marks=getattr(pytest.mark, engine)) for engine in ENGINES]


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    """One of its own, with the images of the others."""
    with separate_daemon("nlim", PREFIX, 107) as made:
        yield made
        made.remove_all(PREFIX)
        eventually(lambda: not own_helpers(), 5)


def own_helpers() -> list[str]:
    """Devices of ours whose interface is on this network, or gone."""
    there = {port.index for port in net.ports("tnlim0")}
    links = {row["ifindex"] for row in json.loads(sh("ip", "-j", "link", "show"))}
    return [name for name, index in tc.helpers().items() if index in there or index not in links]


@pytest.fixture(scope="module", params=PARAMS)
def name(request: pytest.FixtureRequest, daemon: Daemon) -> str:
    """An instance that is launched with limits already."""
    engine: str = request.param
    rest = ("sleep", "infinity") if engine == "docker" else ()
    limits = ("--set", "net.in=8Mbit/s", "--set", "net.out=4Mbit/s")
    daemon.launch(IMAGE, PREFIX + engine, engine, *limits, command=rest)
    return PREFIX + engine


def gateway() -> str:
    """The host, as the instances see it."""
    return str(net.addresses("tnlim0")["tnlim0"][0].ip)


def inside(daemon: Daemon, name: str, script: str) -> list[str]:
    # A system that has just booted may still wait for its address.
    connect = f"for i in {{1..500}}; do exec 3<>/dev/tcp/{gateway()}/{{port}} 2>/dev/null && break; sleep 0.2; done"
    return [
        "env",
        f"TRIUNE_HOST={daemon.socket}",
        str(TRIUNE),
        "exec",
        name,
        "--",
        "bash",
        "-c",
        f"{connect}; {script}",
    ]


def towards(daemon: Daemon, name: str) -> float:
    return rates.download(gateway(), inside(daemon, name, "cat <&3 >/dev/null"), 3)


def sent(daemon: Daemon, name: str) -> rates.Arrived:
    return rates.upload(gateway(), inside(daemon, name, "timeout 3 cat /dev/zero >&3; true"))


def back(daemon: Daemon, name: str) -> float:
    return sent(daemon, name).rate


def in_force(daemon: Daemon, name: str) -> tc.Rates:
    (card,) = daemon.json("show", name)["network"]
    return tc.read(card["interface"])


def keeps_to(wanted: float, measured: Callable[[Daemon, str], float], daemon: Daemon, name: str) -> bool:
    """Whether it is as fast as it may be, and never faster; an emulated guest that stands still is slower at times."""
    seen = [measured(daemon, name)]
    while max(seen) <= 0.85 * wanted and len(seen) < 4:
        seen.append(measured(daemon, name))
    return 0.85 * wanted < max(seen) < 1.15 * wanted


def test_the_launch_limits_both_directions(daemon: Daemon, name: str) -> None:
    assert in_force(daemon, name) == tc.Rates(towards=8 * M, back=4 * M)
    assert keeps_to(8 * M, towards, daemon, name)
    assert keeps_to(4 * M, back, daemon, name)


def counted(daemon: Daemon, name: str) -> dict[str, Any]:
    (row,) = daemon.json("stats", name, "--once")
    return dict(row)


def test_stats_tell_what_it_did(daemon: Daemon, name: str) -> None:
    before = counted(daemon, name)
    total = sent(daemon, name).total
    write = ("dd", "if=/dev/zero", "of=/var/tmp/fill", "bs=1M", "count=9", "oflag=direct")
    read = ("dd", "if=/var/tmp/fill", "of=/dev/null", "bs=1M", "iflag=direct")
    daemon.exec(name, *write)
    daemon.exec(name, *read)
    load = daemon.begin("exec", name, "--", "timeout", "60", "sh", "-c", "while :; do :; done")
    try:
        eventually(lambda: counted(daemon, name)["cpu_percent"] > 15, 30)
        after = counted(daemon, name)
    finally:
        load.kill()
        load.wait()
    assert list(after) == list(before)
    assert 0.8 * total < after["net_tx_bytes"] - before["net_tx_bytes"] < 1.6 * total
    assert 0 < after["net_rx_bytes"] - before["net_rx_bytes"] < 0.3 * total  # acknowledgements
    assert 9 * 2**20 <= after["disk_write_bytes"] - before["disk_write_bytes"] < 40 * 2**20
    assert 9 * 2**20 <= after["disk_read_bytes"] - before["disk_read_bytes"] < 40 * 2**20
    assert 100_000 < after["memory_bytes"] < 400 * 2**20
    # The host sees no process of a virtual machine.
    assert after["pids"] is None if daemon.json("show", name)["isolation"]["kernel"] == "own" else after["pids"] > 1


def test_a_change_acts_at_once_and_a_lifted_limit_leaves_nothing(daemon: Daemon, name: str) -> None:
    daemon.run("set", name, "net.in=none", "net.out=6Mbit/s")
    assert in_force(daemon, name) == tc.Rates(back=6 * M)
    assert towards(daemon, name) > 16 * M
    assert keeps_to(6 * M, back, daemon, name)
    daemon.run("set", name, "net.out=none")
    (card,) = daemon.json("show", name)["network"]
    link = net.link(card["interface"])
    assert link is not None
    assert tc.helper(link.index) not in tc.helpers()
    assert back(daemon, name) > 16 * M


def test_limits_outlive_restart_and_pause_and_the_daemon(daemon: Daemon, name: str) -> None:
    daemon.run("set", name, "net.in=5Mbit/s", "net.out=6Mbit/s")
    wanted = tc.Rates(towards=5 * M, back=6 * M)
    daemon.run("restart", name, "--force", timeout=300)
    eventually(lambda: in_force(daemon, name) == wanted, 10)
    daemon.run("pause", name)
    daemon.run("resume", name)
    assert in_force(daemon, name) == wanted
    (card,) = daemon.json("show", name)["network"]
    daemon.kill()
    tc.clear(card["interface"])
    daemon.start()
    eventually(lambda: in_force(daemon, name) == wanted, 10)
    daemon.run("stop", name, "--force")
    eventually(lambda: not own_helpers(), 5)
