"""`make bench`: what Triune adds to its engines, as ratios in one run against the engines' own tools.

Every pair is measured in turn (ours, theirs, ours, theirs, …) and compared by medians. The result goes to
docs/BENCHMARKS.md with the conditions. Nothing here passes or fails: a budget that is missed is printed as missed.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from itertools import chain
from pathlib import Path

from tests.bench import backups, fleet, incus, kvm_snapshots, lxc_snapshots, rescue, warm
from tests.bench.place import touched
from tests.live.daemon import CACHE, TRIUNE, Daemon
from tests.live.system_fixtures import IMAGE, built_image

PREFIX = "tbench-"
BRIDGE = "tribench0"
DOCKER = "/usr/bin/docker"
REPORT = Path("docs/BENCHMARKS.md")


@dataclass(frozen=True)
class Row:
    """One line of the report. `budget` is what DESIGN.md §8 allows; `met` says whether this run kept it."""

    what: str
    ours: str
    theirs: str
    ratio: str
    budget: str
    met: bool


def run(*argv: str, check: bool = True) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(argv, capture_output=True, check=check)


def timed(action: Callable[[], object]) -> float:
    begin = time.perf_counter()
    action()
    return time.perf_counter() - begin


def in_turn(
    ours: Callable[[int], object],
    theirs: Callable[[int], object],
    rounds: int,
    before: Callable[[], object] = lambda: None,
    first: int = 0,
) -> tuple[list[float], list[float]]:
    """Measure both, alternating who goes first; `before` each one, not measured. Rounds are counted from `first` on."""
    times: tuple[list[float], list[float]] = ([], [])
    for number in range(first, first + rounds):
        order = (0, 1) if number % 2 == 0 else (1, 0)
        for side in order:
            action = (ours, theirs)[side]
            before()
            times[side].append(timed(lambda action=action, number=number: action(number)))  # type: ignore[misc]
    return times


def seconds(times: list[float]) -> str:
    digits = 0 if statistics.median(times) >= 0.05 else 1
    middle, least, most = (f"{time * 1000:.{digits}f}" for time in (statistics.median(times), min(times), max(times)))
    return f"{middle} ms (min {least}, max {most}, n={len(times)})"


def ratio_row(what: str, times: tuple[list[float], list[float]], budget: float, theirs: str) -> Row:
    ratio = statistics.median(times[0]) / statistics.median(times[1])
    return Row(
        what, seconds(times[0]), f"{theirs}: {seconds(times[1])}", f"{ratio:.2f}", f"≤ {budget:g}", ratio <= budget
    )


def absolute_row(what: str, times: list[float], budget: float, theirs: str = "") -> Row:
    return Row(what, seconds(times), theirs, "", f"≤ {budget * 1000:.0f} ms", statistics.median(times) <= budget)


def commands(daemon: Daemon, rounds: int = 30) -> list[Row]:
    """`list` of three and `--help`, whole processes."""
    triune = [str(TRIUNE)]

    def ours(_: int) -> None:
        subprocess.run([*triune, "list"], env=daemon.env, stdout=subprocess.DEVNULL, check=True)

    def theirs(_: int) -> None:
        subprocess.run([DOCKER, "ps"], stdout=subprocess.DEVNULL, check=True)

    def help_(_: int) -> None:
        subprocess.run([*triune, "--help"], stdout=subprocess.DEVNULL, check=True)

    listed = in_turn(ours, theirs, rounds)
    helped, _ = in_turn(help_, theirs, rounds)
    return [
        ratio_row("`triune list`, three instances", listed, 2.5, "`docker ps`"),
        absolute_row("`triune --help`", helped, 0.1),
    ]


def crowd(daemon: Daemon, count: int = 1000, rounds: int = 9) -> list[Row]:
    """`list` with a thousand stopped instances, half LXC and half Docker, made with the engines' own tools."""
    listing = partial(subprocess.run, [TRIUNE, "list"], env=daemon.env, stdout=subprocess.DEVNULL, check=True)
    lxc = [Path("/var/lib/lxc") / f"{PREFIX}{number}" for number in range(count // 2)]
    names = [f"{PREFIX}d{number}" for number in range(count // 2)]
    image = "triune/debian:12"
    try:
        for folder in lxc:
            (folder / "rootfs").mkdir(parents=True)
            (folder / "config").write_text(
                f"lxc.uts.name = {folder.name}\nlxc.rootfs.path = dir:{folder}/rootfs\nlxc.arch = linux64\n"
            )
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda name: run(DOCKER, "create", "--name", name, image, "true"), names))
        assert len(daemon.json("list")) >= count
        times, theirs = in_turn(lambda _: listing(), lambda _: run(DOCKER, "ps", "-a"), rounds)
        beside = f"`docker ps -a` of its half: {seconds(theirs)}"
        rows = [absolute_row(f"`triune list`, {count} instances", times, 0.3, beside)]
        if incus.installed():
            with tempfile.TemporaryDirectory() as nothing, incus.incus(Path(nothing)) as peer:
                peer.crowd(count)
                both = in_turn(lambda _: listing(), lambda _: peer.run("list"), rounds)
            rows.append(ratio_row(f"`triune list`, {count} instances", both, 1.0, "`incus list`, as many"))
    finally:
        for folder in lxc:
            shutil.rmtree(folder, ignore_errors=True)
        for begin in range(0, len(names), 100):
            run(DOCKER, "rm", "-f", *names[begin : begin + 100], check=False)
    return rows


def many_snapshots(daemon: Daemon, count: int = 1000, rounds: int = 30) -> Row:
    """`list` with one system container on btrfs that has a thousand snapshots, and with these put aside, in turn."""
    name, pool = f"{PREFIX}snapshots", f"{PREFIX}pool"
    listing = partial(subprocess.run, [TRIUNE, "list"], env=daemon.env, stdout=subprocess.DEVNULL, check=True)
    times: tuple[list[float], list[float]] = ([], [])
    daemon.run("pool", "create", pool, "--driver", "btrfs", "--size", "3GiB")
    try:
        daemon.launch(IMAGE, name, "lxc", "--pool", pool, "--no-start")
        daemon.run("snapshot", "create", name, "s0")
        # Counting what a thousand snapshots share takes the kernel minutes, and has no part in a listing.
        run("btrfs", "quota", "disable", daemon.json("pool", "show", pool)["path"])
        there = lxc_snapshots.multiplied(name, "s0", count)
        assert len(daemon.json("snapshot", "list", name)) == count
        aside = there.with_name("aside")
        for _ in range(rounds):
            times[0].append(timed(listing))
            there.rename(aside)
            times[1].append(timed(listing))
            aside.rename(there)
    finally:
        daemon.run("rm", name, "--yes", "--force", check=False, timeout=900)
        daemon.run("pool", "rm", pool, "--yes", check=False, timeout=900)
    return ratio_row(f"`triune list`, one instance with {count} snapshots", times, 1.1, "the same without them")


def lxc_launch(daemon: Daemon, rounds: int = 7) -> Row:
    """Request to running, against a bare `lxc-start -d` of a container made beforehand on the same tree."""
    bare = f"{PREFIX}bare"
    daemon.launch(IMAGE, bare, "lxc", "--wait", "running")
    run("lxc-stop", "-k", "-n", bare)

    def ours(number: int) -> None:
        daemon.run("launch", IMAGE, f"{PREFIX}l{number}", "--engine", "lxc", "--wait", "running")

    def theirs(_: int) -> None:
        run("lxc-start", "-d", "-n", bare)
        run("lxc-wait", "-n", bare, "-s", "RUNNING", "-t", "10")

    times: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds):
        times[0].append(timed(lambda number=number: ours(number)))  # type: ignore[misc]
        daemon.run("rm", f"{PREFIX}l{number}", "--yes", "--force")
        times[1].append(timed(lambda: theirs(0)))
        run("lxc-stop", "-k", "-n", bare)
    daemon.run("rm", bare, "--yes", "--force")
    return ratio_row("launch LXC to running", times, 1.5, "`lxc-start` on a prepared overlay")


def incus_launch(daemon: Daemon, rounds: int = 7) -> Row:
    """Request to running, against `incus launch` of the same root tree from its cached image into a dir pool."""
    images = daemon.data / "images"
    digest = (images / "names" / IMAGE).read_text().strip()
    with incus.incus(images / digest / "private" / "tree") as peer:
        times: tuple[list[float], list[float]] = ([], [])
        for number in range(rounds):
            name = f"{PREFIX}i{number}"
            launch = ("launch", IMAGE, name, "--engine", "lxc", "--wait", "running")
            both = (lambda launch=launch: daemon.run(*launch), lambda name=name: peer.launch(name))
            for side in (0, 1) if number % 2 == 0 else (1, 0):
                times[side].append(timed(both[side]))
            daemon.run("rm", name, "--yes", "--force")
            peer.remove(name)
    return ratio_row("launch LXC to running, beside Incus", times, 0.25, "`incus launch`, dir pool")


def copies(rounds: int = 7, more: int = 18) -> list[Row]:
    """Snapshots and clones of stopped system containers and machines, against the bare tool.

    Where the tool takes milliseconds there are more rounds: one millisecond is a fifth of it.
    """
    rows = []

    def fresh() -> None:
        os.sync()  # what one has written must not wait for the disk in the other's time
        touched(1 << 30)

    with lxc_snapshots.benches() as containers, kvm_snapshots.benches() as machines:
        for what, tool, ours, bare in chain(containers, machines):
            times = in_turn(ours, bare, rounds, fresh)
            if statistics.median(times[1]) < 0.05:
                further = in_turn(ours, bare, more, os.sync, first=rounds)
                times = (times[0] + further[0], times[1] + further[1])
            rows.append(ratio_row(what, times, 1.3, tool))
    return rows


def docker_launch(daemon: Daemon, rounds: int = 9) -> Row:
    """Against `docker run -d` of the same image with the same options on the same network."""

    def ours(number: int) -> None:
        daemon.run("launch", IMAGE, f"{PREFIX}d{number}", "--engine", "docker", "--wait", "running")

    def theirs(number: int) -> None:
        run(DOCKER, "run", "-d", "--init", "--network", BRIDGE, "--name", f"{PREFIX}n{number}", "triune/debian:12")

    times = in_turn(ours, theirs, rounds)
    daemon.remove_all(PREFIX)
    return ratio_row("launch Docker", times, 1.15, "`docker run -d`")


def first_backup(daemon: Daemon, rounds: int = 3) -> Row:
    name = f"{PREFIX}backup"
    daemon.launch(IMAGE, name, "lxc")
    pair = backups.Pair(daemon, name, CACHE / "bench-backup")
    try:
        pair.fill()
        times = in_turn(pair.ours, pair.theirs, rounds)
    finally:
        pair.forget()
        daemon.run("rm", name, "--yes", "--force", check=False)
    return ratio_row("first backup of a system container with about 1 GB", times, 1.25, "`restic backup` of its tree")


def kvm_launch(daemon: Daemon, rounds: int = 3) -> Row:
    """Request to guest agent, against `virsh start` of the same domain to its agent's first answer."""
    bare = f"{PREFIX}bare"
    daemon.launch(IMAGE, bare, "kvm")
    run("virsh", "destroy", bare)
    times: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds):
        name = f"{PREFIX}k{number}"
        times[0].append(timed(lambda name=name: daemon.launch(IMAGE, name, "kvm")))  # type: ignore[misc]
        daemon.run("rm", name, "--yes", "--force")
        times[1].append(timed(lambda: _virsh_to_agent(bare)))
        run("virsh", "destroy", bare)
    daemon.run("rm", bare, "--yes", "--force")
    return ratio_row("launch KVM, cold, to guest agent", times, 1.1, "`virsh start` to its agent")


def kvm_warm(daemon: Daemon) -> list[Row]:
    """From a template: against the same launch cold, and beside what else starts on this host."""
    found = warm.measure(daemon, f"{PREFIX}warm-", DOCKER)
    tools = {"virsh": "`virsh start`", "lxc": "`lxc-start`", "docker": "`docker run`"}
    beside = ", ".join(f"{tool} {statistics.median(found[key]) * 1000:.0f} ms" for key, tool in tools.items())
    return [
        ratio_row("launch KVM, warm, beside cold", (found["warm"], found["cold"]), 0.1, "`launch --cold`"),
        absolute_row("launch KVM, warm, to guest agent", found["warm"], 0.5, f"to the tool's return: {beside}"),
    ]


def _virsh_to_agent(name: str) -> None:
    run("virsh", "start", name)
    while run("virsh", "qemu-agent-command", name, '{"execute":"guest-ping"}', check=False).returncode:
        time.sleep(0.02)


def at_once(daemon: Daemon, each: int = 20, rounds: int = 5) -> Row:
    """Twenty LXC and twenty Docker launches at the same time, against the engines' own tools as concurrently.

    The tools' roots are prepared, ours are made. A launch that fails ends the measurement.
    """
    numbers = [(engine, number) for engine in ("lxc", "docker") for number in range(each)]
    prepared = [f"{PREFIX}bl{number}" for number in range(each)]
    for name in prepared:
        daemon.run("launch", IMAGE, name, "--engine", "lxc", "--no-start")

    def launch(one: tuple[str, int]) -> None:
        daemon.run("launch", IMAGE, f"{PREFIX}p{one[0]}{one[1]}", "--engine", one[0], "--wait", "running")

    def bare(one: tuple[str, int]) -> None:
        if one[0] == "lxc":
            run("lxc-start", "-d", "-n", prepared[one[1]])
        else:
            run(DOCKER, "run", "-d", "--init", "--network", BRIDGE, "--name", f"{PREFIX}bd{one[1]}", "triune/debian:12")

    def clear() -> None:
        daemon.remove_all(f"{PREFIX}p")
        daemon.remove_all(f"{PREFIX}bd")
        for name in prepared:
            run("lxc-stop", "-k", "-n", name, check=False)  # it may not run

    with ThreadPoolExecutor(len(numbers)) as pool:
        times = in_turn(
            lambda _: list(pool.map(launch, numbers)), lambda _: list(pool.map(bare, numbers)), rounds, before=clear
        )
    daemon.remove_all(PREFIX)
    return ratio_row(f"{each} LXC + {each} Docker at once, none fails", times, 1.0, "`lxc-start`, `docker run` as many")


def at_rest(daemon: Daemon, span: float = 60) -> list[Row]:
    """Memory and CPU of the daemon with nothing to do."""
    assert daemon.process is not None
    proc = Path("/proc") / str(daemon.process.pid)
    time.sleep(5)

    def ticks() -> int:
        fields = (proc / "stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])

    before = ticks()
    time.sleep(span)
    share = (ticks() - before) / os.sysconf("SC_CLK_TCK") / span * 100
    (rss,) = [int(line.split()[1]) for line in (proc / "status").read_text().splitlines() if line.startswith("VmRSS")]
    return [
        Row("daemon at rest, memory", f"{rss / 1024:.0f} MiB RSS", "", "", "≤ 90 MiB", rss <= 90 * 1024),
        Row("daemon at rest, CPU", f"{share:.2f} % over {span:.0f} s", "", "", "< 0.2 %", share < 0.2),
    ]


def conditions() -> str:
    model = next(
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    versions = {
        "Docker": run(DOCKER, "version", "--format", "{{.Server.Version}}").stdout.decode().strip(),
        "LXC": run("lxc-start", "--version").stdout.decode().strip(),
        "libvirt": run("virsh", "--version").stdout.decode().strip(),
        "Python": platform.python_version(),
    }
    if incus.installed():
        versions["Incus"] = incus.version()
    tools = ", ".join(f"{name} {version}" for name, version in versions.items())
    return f"{os.cpu_count()} × {model}, {memory:.0f} GiB, Linux {platform.release()}; {tools}."


def report(rows: list[Row]) -> str:
    head = (
        "# Benchmarks\n\nMade by `make bench` (`python -m tests.bench`). Medians; both sides of a ratio are\n"
        "measured in turn in one run. Figures of another host differ; the ratios are what counts.\n\n"
        f"{datetime.now(UTC):%Y-%m-%d}, {conditions()}\nVMs run emulated or under KVM as `triune doctor` says.\n\n"
        "| what | Triune | the engine's own tool | ratio | budget | kept |\n|---|---|---|---|---|---|\n"
    )
    lines = [
        f"| {r.what} | {r.ours} | {r.theirs} | {r.ratio} | {r.budget} | {'yes' if r.met else '**no**'} |" for r in rows
    ]
    note = "" if incus.installed() else "\nIncus is not installed here: the row beside `incus launch` is left out.\n"
    return head + "\n".join(lines) + "\n" + note


def main() -> None:
    names = {"bridge": BRIDGE, "table": "triune_bench", "domain": "tribench.internal"}
    with Daemon(CACHE / "data-bench", **names, candidates=("10.99.0.0/16", "10.100.0.0/16")) as daemon:
        rows = measure_all(daemon)
    text = report(rows)
    REPORT.write_text(text)
    print(text)


def measure_all(daemon: Daemon) -> list[Row]:
    """Every row; nothing of it stays."""
    try:
        built_image(daemon, plain=True)
        daemon.remove_all(PREFIX)
        rows = at_rest(daemon)
        for name, engine in ((f"{PREFIX}{engine}", engine) for engine in ("lxc", "docker", "kvm")):
            daemon.launch(IMAGE, name, engine)
        rows += commands(daemon)
        daemon.remove_all(PREFIX)
        beside = (incus_launch,) if incus.installed() else ()
        for measure in (lxc_launch, *beside, docker_launch, kvm_launch, first_backup, at_once, many_snapshots):
            rows.append(measure(daemon))
            print(json.dumps(rows[-1].__dict__, ensure_ascii=False), file=sys.stderr)
        rows += crowd(daemon)
        rows += kvm_warm(daemon)
        rows += copies()
        rows += rescue.rows(CACHE / "bench-rescue")
        rows += fleet.rows()
    finally:
        daemon.remove_all(PREFIX)
    return rows


if __name__ == "__main__":
    main()
