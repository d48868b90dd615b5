"""Counters of running containers, from their control groups and their network namespace."""

from __future__ import annotations

from collections.abc import Mapping

from triune.domain.instance import Stats
from triune.engines.lxc.client import Client
from triune.host import cgroup, usage

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
    return usage.of(pid, cgroup.group_of(pid, PAYLOAD))
