"""Ways of one subject on the real engines: by NAT and on the host's network, by virtio-blk and virtio-scsi; and nothing
left. Their programs are of any Debian: what `triune bench` measures with needs an image that takes minutes to build."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.live.daemon import Daemon
from tests.live.system_fixtures import IMAGE, separate_daemon
from tests.live.test_bench import left_behind
from triune.cli.bench_run import Bench
from triune.sdk import Client
from triune.services.benchmarks import line
from triune.services.benchmarks.catalogue import HIGHER, LOWER, OUTSIDE, STORED, Benchmark, catalogue
from triune.services.benchmarks.parsing import Parser
from triune.services.benchmarks.results import Result, load
from triune.services.benchmarks.running import Plan
from triune.services.benchmarks.subject import HOST, NAT

pytestmark = [pytest.mark.live, pytest.mark.docker, pytest.mark.net]

_PORT = 15777
_SERVE = """
use IO::Socket::INET;
my $server = IO::Socket::INET->new(LocalAddr => $ARGV[0], LocalPort => $ARGV[1], Listen => 5, ReuseAddr => 1) or die $@;
exit 0 if fork;
close $_ for (STDIN, STDOUT, STDERR);
alarm 120;
while (my $one = $server->accept) {
    my $line = <$one>;
    last if $line =~ /end/;
    print $one $one->peerhost, "\\n";
    close $one;
}
"""
_ASK = """
use IO::Socket::INET;
my $link = IO::Socket::INET->new(PeerAddr => $ARGV[0], PeerPort => $ARGV[1], Timeout => 10) or die $@;
print $link "$ARGV[2]\\n"; my $seen = <$link>; print "from $seen", "took 1\\n";
"""


class Quiet:
    """A Watcher that may be told to end the run at its first figure."""

    def __init__(self, *, impatient: bool = False) -> None:
        self.impatient = impatient
        self.problems: list[str] = []

    def step(self, text: str, fraction: float) -> None: ...

    def sampled(self, benchmark: Benchmark, subject: str, value: float) -> None:
        if self.impatient:
            raise KeyboardInterrupt

    def problem(self, text: str) -> None:
        self.problems.append(text)


def reached(way: str) -> Benchmark:
    return Benchmark(
        id=f"net.{way}.asked", area="network", title="an answer", unit="s", better=LOWER, where=OUTSIDE, form=way,
        tool="dd", suites=("full",), port=_PORT, serve=("perl", "-e", _SERVE, "{address}", str(_PORT)),
        unserve=("perl", "-e", _ASK, "{address}", str(_PORT), "end"),
        command=("perl", "-e", _ASK, "{address}", "{port}", "ask"),
        parser=Parser(pattern=r"took (\d)"),
    )  # fmt: skip


def stored(form: str) -> Benchmark:
    return Benchmark(
        id=f"disk.{form}.copied", area="disk", title="reading", unit="s", better=HIGHER, where=STORED, form=form,
        tool="dd", suites=("full",), prepare=("dd", "if=/dev/urandom", "of={path}", "bs=1M", "count=16", "conv=fsync"),
        command=("sh", "-c", "echo on {path}; dd if={path} of=/dev/null bs=1M count=16 2>&1"),
        parser=Parser(pattern=r"copied, ([\d.e-]+) s"),
    )  # fmt: skip


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with separate_daemon("bway", "bench-none-", 114) as daemon:
        yield daemon


def bench(daemon: Daemon, benchmarks: list[Benchmark], output: Path) -> Bench:
    known = catalogue()
    plan = Plan(known=known, suite=replace(known.suite("full"), rounds=2, seconds=1), benchmarks=tuple(benchmarks),
                rounds=2, cpus=1, memory=256 * 2**20)  # fmt: skip
    return Bench(Client(str(daemon.socket)), plan, image=IMAGE, output=output, quiet=True)


def left(daemon: Daemon, found: Result | Any) -> list[str]:
    """What test_bench looks for; and links, volumes and published ports."""
    run = found["id"]
    links = subprocess.run(["ip", "-br", "link"], capture_output=True, text=True, check=True).stdout
    volumes = [row["name"] for row in daemon.json("volume", "list") if f"bench-{run}" in row["name"]]
    rules = subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True, check=True).stdout
    ports = [row for row in rules.splitlines() if f"dport {_PORT}" in row or f":{_PORT}" in row]
    return [*left_behind(daemon, run), *([links] if line.name(run) in links else []), *volumes, *ports]


@pytest.mark.lxc
def test_from_outside_by_nat_and_on_the_hosts_network(daemon: Daemon, tmp_path: Path) -> None:
    told = Quiet()
    run = bench(daemon, [reached(NAT), reached(HOST)], tmp_path / "a.json")
    found = run.run(["native", "lxc", "docker"], told)
    assert {(row["benchmark"], row["subject"]) for row in found["samples"]} == {
        *(("net.nat.asked", name) for name in ("native", "lxc", "docker")),
        *(("net.host.asked", name) for name in ("native", "docker")),
    }, found["problems"]
    assert [(row["subject"], row["benchmark"]) for row in found["problems"]] == [("lxc", "net.host.asked")]
    assert "a network of its own" in found["problems"][0]["message"]
    # The client has an address of its own, beside that of the host: it did not come by the loopback.
    seen = {str(row["output"]).split()[1] for row in found["samples"] if "output" in row}
    assert len(seen) == 1
    assert seen.pop().startswith(("198.18.", "198.19."))
    assert left(daemon, found) == []


def test_an_interrupt_leaves_nothing_of_the_network_outside(daemon: Daemon, tmp_path: Path) -> None:
    run = bench(daemon, [reached(NAT), reached(HOST)], tmp_path / "a.json")
    with pytest.raises(KeyboardInterrupt):
        run.run(["docker"], Quiet(impatient=True))
    found = load(tmp_path / "a.json")
    assert (found["state"], len(found["samples"])) == ("interrupted", 1)
    assert left(daemon, found) == []


@pytest.mark.kvm
def test_a_disk_by_virtio_blk_and_by_virtio_scsi(daemon: Daemon, tmp_path: Path) -> None:
    run = bench(daemon, [stored("raw"), stored("scsi")], tmp_path / "a.json")
    found = run.run(["docker", "kvm"], Quiet())
    output = {row["benchmark"]: str(row["output"]).split()[1] for row in found["samples"] if "output" in row}
    assert {name: disk[:7] for name, disk in output.items()} == {
        "disk.raw.copied": "/dev/vd",
        "disk.scsi.copied": "/dev/sd",
    }, found["problems"]
    assert {row["subject"] for row in found["samples"]} == {"kvm"}
    assert sorted(row["benchmark"] for row in found["problems"]) == ["disk.raw.copied", "disk.scsi.copied"]
    assert left(daemon, found) == []
