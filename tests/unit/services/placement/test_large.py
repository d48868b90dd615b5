"""A large fleet through the command: every rule of its files is checked on what it prints, within a bound of memory."""

from __future__ import annotations

import csv
import json
import random
import resource
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest
from tests.patience import PATIENCE

from triune.domain.units import parse_size

HOSTS, INSTANCES = 2_000, 200_000
MEMORY = 2 << 30
COMMAND = "import sys; from triune.cli.main import run; sys.exit(run())"


def write(folder: Path, hosts: int, instances: int) -> tuple[Path, Path]:
    """Hosts of several shapes, instances of all sizes; a tenth has a rule."""
    chance = random.Random(4)
    head = ["name", "cpus", "memory", "disk", "engines", "zone", "labels"]
    rows: list[list[Any]] = [head]
    for number in range(hosts):
        cpus = chance.choice((32, 64, 128))
        engines = chance.choice(("", "", "", "kvm lxc"))
        memory, label = f"{chance.choice((256, 512))}GiB", chance.choice(("", "ssd"))
        rows.append([f"h{number}", cpus, memory, "8TiB", engines, f"z{number % 5}", label])
    with (folder / "hosts.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    head = ["name", "cpus", "memory", "disk", "needs", "apart", "together", "spread", "packaging", "trust", "ci"]
    rows = [head]
    for number in range(instances):
        kind, group = chance.random(), number // 4
        rows.append(
            [
                f"i{number}",
                round(chance.lognormvariate(-1.2, 0.8) + 0.01, 3),
                f"{int(chance.lognormvariate(7.2, 0.8)) + 8}MiB",
                f"{int(chance.lognormvariate(2, 0.9)) + 1}GiB",
                "ssd" if kind < 0.02 else "",
                f"a{group}" if 0.02 < kind < 0.07 else "",
                f"t{group}" if 0.07 < kind < 0.1 else "",
                f"s{number // 9}" if 0.1 < kind < 0.13 else "",
                chance.choice(("oci-image", "packages", "")),
                chance.choice(("", "", "hostile")),
                chance.choice(("true", "")),
            ]
        )
    with (folder / "instances.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return folder / "hosts.csv", folder / "instances.csv"


def read(path: Path) -> dict[str, dict[str, str]]:
    with path.open(newline="") as file:
        return {row["name"]: row for row in csv.DictReader(file)}


@pytest.mark.heavy
def test_a_large_fleet_keeps_every_rule(tmp_path: Path) -> None:
    files = write(tmp_path, HOSTS, INSTANCES)
    argv = [sys.executable, "-c", COMMAND, "density", "--fleet", *map(str, files), "--effort", "1", "--format", "json"]
    done = subprocess.run(
        argv,
        capture_output=True,
        check=False,
        timeout=PATIENCE,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY)),
    )
    assert done.returncode == 0, done.stderr.decode()
    found = json.loads(done.stdout)
    assert (found["instances"], found["placed"], found["unplaced"]) == (INSTANCES, INSTANCES, [])
    assert found["quality"] >= 0.95
    hosts, instances = read(files[0]), read(files[1])
    placed = {row["instance"]: row for row in found["placements"]}
    assert placed.keys() == instances.keys()
    load: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0])
    zones: dict[str, Counter[str]] = defaultdict(Counter)
    together: dict[str, set[str]] = defaultdict(set)
    apart: Counter[tuple[str, str]] = Counter()
    for name, row in instances.items():
        host, engine = hosts[placed[name]["host"]], placed[name]["engine"]
        sums = load[host["name"]]
        for at, value in enumerate((float(row["cpus"]), parse_size(row["memory"]), parse_size(row["disk"]))):
            sums[at] += value
        assert not host["engines"] or engine in host["engines"].split()
        assert row["needs"] in ("", host["labels"])
        assert row["trust"] != "hostile" or engine == "kvm"
        if row["apart"]:
            apart[row["apart"], host["name"]] += 1
        if row["together"]:
            together[row["together"]].add(host["name"])
        if row["spread"]:
            zones[row["spread"]][host["zone"]] += 1
    for name, sums in load.items():
        most = (float(hosts[name]["cpus"]) + 1e-6, parse_size(hosts[name]["memory"]), parse_size(hosts[name]["disk"]))
        assert all(value <= limit for value, limit in zip(sums, most, strict=True)), name
    assert len(load) == found["hosts_used"]
    assert max(apart.values()) == 1
    assert {len(there) for there in together.values()} == {1}
    assert all(max(counts.values()) <= -(-counts.total() // 5) for counts in zones.values())
