"""Limits of what an instance may use: the same keys and units for every engine.

Keys as `triune set` and `launch --set` take them, and the field of `Limits` each one sets:

    cpus          cpus          CPUs' worth of time, a fraction allowed (1.5)
    cpu.weight    cpu_weight    share of CPU time under contention, 1 to 10000, 100 is normal (cgroup v2's cpu.weight)
    cpu.pin       cpu_pin       host CPUs it may run on, a list as in cpuset.cpus ("0", "0-3,6")
    memory        memory        bytes
    swap          swap          bytes of swap on top of memory; 0: none
    pids          pids          processes and threads
    io.read       io_read       bytes/s from disk          iops.read     iops_read     reads/s
    io.write      io_write      bytes/s to disk            iops.write    iops_write    writes/s
    net.in        net_in        bits/s towards the instance
    net.out       net_out       bits/s from the instance
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

FIELDS: Mapping[str, str] = {
    "cpus": "cpus",
    "cpu.weight": "cpu_weight",
    "cpu.pin": "cpu_pin",
    "memory": "memory",
    "swap": "swap",
    "pids": "pids",
    "io.read": "io_read",
    "io.write": "io_write",
    "iops.read": "iops_read",
    "iops.write": "iops_write",
    "net.in": "net_in",
    "net.out": "net_out",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """One instance's limits, units as above; None is no limit (or the engine's normal, for weight and pinning)."""

    cpus: float | None = None
    cpu_weight: int | None = None
    cpu_pin: str | None = None
    memory: int | None = None
    swap: int | None = None
    pids: int | None = None
    io_read: int | None = None
    io_write: int | None = None
    iops_read: int | None = None
    iops_write: int | None = None
    net_in: int | None = None
    net_out: int | None = None
