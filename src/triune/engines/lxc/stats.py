"""Counters of running containers, from their control groups and their network namespace."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from triune.domain.instance import Stats
from triune.engines.lxc.client import Client
from triune.host import cgroup

# liblxc names a container's group after it, below whatever group the host's init gives.
PAYLOAD = "lxc.payload"


def all_stats(client: Client) -> Mapping[str, Stats]:
    """By name, of every container that runs; one that ends meanwhile is left out."""
    found = {}
    for name in client.active():
        pid = client.init_pid(name)
        if pid is None:
            continue
        try:
            found[name] = of_process(pid)
        except OSError:
            continue
    return found


def of_process(pid: int) -> Stats:
    """Counters of the container whose init this is. Raises OSError when it is gone."""
    group = cgroup.group_of(pid, PAYLOAD)
    received, sent = network_bytes(Path(f"/proc/{pid}/net/dev").read_text())
    disk_read, disk_written = group.disk_bytes()
    return Stats(
        cpu_time_s=group.cpu_seconds(),
        memory_bytes=group.memory_bytes(),
        memory_limit_bytes=group.memory_limit(),
        disk_read_bytes=disk_read,
        disk_write_bytes=disk_written,
        net_rx_bytes=received,
        net_tx_bytes=sent,
        pids=group.pids(),
    )


def network_bytes(text: str) -> tuple[int, int]:
    """Received and sent bytes over all interfaces but loopback, of /proc/PID/net/dev (proc(5))."""
    received = sent = 0
    for line in text.splitlines()[2:]:
        name, colon, counters = line.partition(":")
        numbers = counters.split()
        if colon and name.strip() != "lo" and len(numbers) >= 9:
            received += int(numbers[0])
            sent += int(numbers[8])
    return received, sent
