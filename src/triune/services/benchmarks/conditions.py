"""Under which conditions it was measured: the host's facts, and how busy it was."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from triune.host.probe.cpu import parse_cpuinfo

_CPU = Path("/sys/devices/system/cpu")
_BUSY = 0.25
_LOADED = 0.5
_LOOK_S = 1.0


def conditions(host: Mapping[str, Any]) -> dict[str, Any]:
    """What does not change during a run; `host` is what GET /v1/host tells."""
    cpu = parse_cpuinfo(_text(Path("/proc/cpuinfo")))
    return {
        "hostname": host.get("hostname") or platform.node(),
        "machine": platform.machine(),
        "kernel": platform.release(),
        "system": _system(),
        "cpu": cpu.model,
        "cpus": cpu.count or os.cpu_count() or 1,
        "hypervisor": "hypervisor" in cpu.flags,
        "governor": _text(_CPU / "cpu0/cpufreq/scaling_governor").strip() or "unknown",
        "mitigations": {
            path.name: _text(path).strip() for path in sorted((_CPU / "vulnerabilities").glob("*")) if path.is_file()
        },
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "file_system": _file_system(Path(str(host.get("data") or "/"))),
    }


def load() -> dict[str, float]:
    """`load1` of /proc/loadavg per CPU, and the share of CPU time that is in use now, over a second."""
    before = _cpu_times()
    time.sleep(_LOOK_S)
    after = _cpu_times()
    spent = [late - early for late, early in zip(after, before, strict=False)]
    total = sum(spent) or 1
    idle = sum(spent[3:5])
    return {"load1": os.getloadavg()[0] / (os.cpu_count() or 1), "busy": max(0.0, 1 - idle / total)}


def loaded(found: Mapping[str, float]) -> str:
    """Why the host is too busy to be measured, in a sentence; "" where it is not."""
    busy, load1 = found["busy"], found["load1"]
    if busy > _BUSY:
        return f"the host is busy with other things: {busy:.0%} of its CPU time is in use before anything is measured"
    if load1 > _LOADED:
        return f"the host was busy until a moment ago: its load is {load1:.1f} per CPU"
    return ""


def _cpu_times() -> list[int]:
    """user nice system idle iowait irq softirq steal, in ticks (proc_stat(5))."""
    line = _text(Path("/proc/stat")).partition("\n")[0].split()[1:9]
    return [int(word) for word in line if word.isdecimal()]


def _system() -> str:
    for line in _text(Path("/etc/os-release")).splitlines():
        key, _, value = line.partition("=")
        if key == "PRETTY_NAME":
            return value.strip('"')
    return "unknown"


def _file_system(path: Path) -> str:
    """The kind of file system that a path is on: the longest mount point above it."""
    best, kind = "", "unknown"
    for line in _text(Path("/proc/self/mounts")).splitlines():
        fields = line.split()
        if len(fields) < 3:
            continue
        where = fields[1].encode().decode("unicode_escape")
        if (str(path) + "/").startswith(where.rstrip("/") + "/") and len(where) >= len(best):
            best, kind = where, fields[2]
    return kind


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
