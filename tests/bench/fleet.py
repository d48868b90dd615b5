"""A fleet of the largest size through `triune density --fleet`: time from files to JSON, and memory.

Alone: `python -m tests.bench.fleet`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.unit.services.placement.test_large import write

if TYPE_CHECKING:
    from tests.bench.__main__ import Row

TRIUNE = Path(sys.executable).parent / "triune"
HOSTS, INSTANCES = 10_000, 1_000_000
SECONDS, MIB = 60.0, 4096


def rows() -> list[Row]:
    """Time, memory and how far from the lower bound."""
    from tests.bench.__main__ import Row

    with tempfile.TemporaryDirectory() as folder:
        files = write(Path(folder), HOSTS, INSTANCES)
        out = Path(folder) / "placement.json"
        begun = time.perf_counter()
        with out.open("wb") as target:
            argv = [TRIUNE, "density", "--fleet", *files, "--format", "json"]
            child = subprocess.Popen(argv, stdout=target)
            _, status, used = os.wait4(child.pid, 0)
            child.returncode = os.waitstatus_to_exitcode(status)
        took, memory = time.perf_counter() - begun, used.ru_maxrss / 1024
        found = json.loads(out.read_text())
    what = f"`triune density --fleet`, {HOSTS:,} hosts, {found['placed']:,} of {INSTANCES:,} instances placed"
    cpu = f"{took:.1f} s ({used.ru_utime + used.ru_stime:.1f} s of CPU time)"
    return [
        Row(what, cpu, "", "", f"≤ {SECONDS:.0f} s", took <= SECONDS and child.returncode == 0),
        Row("memory: the same", f"{memory:.0f} MiB", "", "", f"≤ {MIB} MiB", memory <= MIB),
        Row("lower bound over hosts used", f"{found['quality']:.3f}", "", "", "≥ 0.95", found["quality"] >= 0.95),
    ]


if __name__ == "__main__":
    for row in rows():
        print(f"{row.what}: {row.ours}, {row.budget}: {'yes' if row.met else 'no'}")
