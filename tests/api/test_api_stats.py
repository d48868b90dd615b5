"""`triune stats`: once in every format, sorted, live on a terminal that is as before afterwards."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import termios
import time
from collections.abc import Iterator
from datetime import datetime, tzinfo

import pytest
import yaml

from tests.api.house import House
from tests.api.terminal import Terminal
from triune.api.routes import instances
from triune.domain.instance import Stats

pytestmark = pytest.mark.heavy  # live tables take their time

KEYS = [
    *("name", "engine", "cpu_percent", "memory_bytes", "memory_limit_bytes", "disk_read_bytes", "disk_write_bytes"),
    *("net_rx_bytes", "net_tx_bytes", "pids"),
]


class Clock:
    """A second passes from one sample to the next, however long they take."""

    def __init__(self) -> None:
        self.at = time.time()

    def now(self, zone: tzinfo) -> datetime:
        self.at += 1
        return datetime.fromtimestamp(self.at - 1, zone)


@pytest.fixture
def busy(house: House, monkeypatch: pytest.MonkeyPatch) -> Iterator[House]:
    """Three instances whose counters grow at known rates."""
    clock = Clock()
    monkeypatch.setattr(instances, "datetime", clock)
    monkeypatch.setenv("TERM", "xterm")
    house.launch("one", memory="64MiB")
    house.launch("two", "kvm", memory="64MiB")
    house.launch("three", "docker", image="docker:nginx:9")
    rates = {"lxc": ("one", 0.5, 10), "kvm": ("two", 1.5, 60), "docker": ("three", 0.1, 30)}
    for engine, (name, share, mib) in rates.items():

        def stats(name: str = name, share: float = share, mib: int = mib) -> dict[str, Stats]:
            now = clock.at
            return {
                name: Stats(
                    cpu_time_s=now * share,
                    memory_bytes=mib << 20,
                    memory_limit_bytes=64 << 20,
                    disk_read_bytes=int(now * share * (1 << 20)),
                    net_tx_bytes=int(now / share),
                    pids=mib,
                )
            }

        monkeypatch.setattr(house.engine(engine), "stats", stats)
    yield house


def once(house: House, *argv: str) -> str:
    done = house.run("stats", *argv)
    assert done.returncode == 0, done.stderr
    return done.stdout.decode()


def test_the_keys_of_every_format(busy: House) -> None:
    rows = json.loads(once(busy, "--once", "--format", "json"))
    assert [list(row) for row in rows] == [KEYS] * 3
    assert [(row["name"], row["engine"]) for row in rows] == [("one", "lxc"), ("three", "docker"), ("two", "kvm")]
    assert [row["cpu_percent"] for row in rows] == pytest.approx([50, 10, 150], rel=0.1)
    assert rows[0]["memory_bytes"] == 10 << 20
    assert [list(row) for row in yaml.safe_load(once(busy, "--format", "yaml"))] == [KEYS] * 3
    assert next(csv.reader(io.StringIO(once(busy, "--format", "csv")))) == KEYS


@pytest.mark.parametrize(
    ("sort", "names"),
    [
        ("name", ["one", "three", "two"]),
        ("cpu", ["two", "one", "three"]),
        ("memory", ["two", "three", "one"]),
        ("disk", ["two", "one", "three"]),
        ("net", ["three", "one", "two"]),
        ("pids", ["two", "three", "one"]),
    ],
)
def test_the_greatest_comes_first(busy: House, sort: str, names: list[str]) -> None:
    lines = once(busy, "--sort", sort).splitlines()
    assert [line.split()[0] for line in lines[1:]] == names
    assert "\033" not in "".join(lines)


def test_some_of_them_and_what_cannot_be_shown(busy: House) -> None:
    rows = json.loads(once(busy, "one", "three", "--format", "json"))
    assert [row["name"] for row in rows] == ["one", "three"]
    assert busy.run("stats", "one", "nobody").returncode == 3
    busy.client.operations.wait(busy.client.instances.stop("one", force=True)["id"])
    busy.engine("lxc").stats = dict  # type: ignore[method-assign]
    done = busy.run("stats", "one")
    assert done.returncode == 4
    assert b"triune start one" in done.stderr


def test_nothing_runs(house: House) -> None:
    done = house.run("stats")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"No instance is running.\n")
    assert json.loads(once(house, "--format", "json")) == []


@pytest.mark.parametrize("end", [b"q", b"\x03"])
def test_live_until_a_key(busy: House, end: bytes) -> None:
    terminal = Terminal(busy, "stats")
    terminal.expect(b"measuring")
    terminal.expect(b"three")
    terminal.expect(b"by name")
    terminal.type(b"s")
    terminal.expect(b"by cpu")
    termios.tcsetwinsize(terminal.master, (4, 40))
    os.kill(terminal.process.pid, signal.SIGWINCH)
    terminal.expect("… and ".encode())
    if end == b"q":
        terminal.type(end)
    else:
        os.kill(terminal.process.pid, signal.SIGINT)
    terminal.expect(b"\033[?1049l")
    assert terminal.end() == 0


def test_no_colour_and_a_terminal_without_a_cursor(busy: House, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal(busy, "stats")  # a house says NO_COLOR
    terminal.expect(b"three")
    terminal.type(b"q")
    terminal.expect(b"\033[?1049l")
    assert b"\033[2m" not in terminal.said
    assert b"\033[1m" not in terminal.said
    assert terminal.end() == 0
    monkeypatch.setenv("TERM", "dumb")
    terminal = Terminal(busy, "stats")
    terminal.expect(b"three")
    assert b"\033" not in terminal.said
    assert terminal.end() == 0
