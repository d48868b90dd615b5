"""Resource counters, from the host's control groups or from the engine."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from triune.domain.errors import NotFound
from triune.domain.instance import Stats
from triune.engines.docker import inventory
from triune.engines.docker.client import DockerClient
from triune.engines.docker.inventory import name_of
from triune.host import cgroup, usage
from triune.host.cgroup import Group

_AT_ONCE = 8
_NANO = 10**9


class Counters:
    """Counters of running containers.

    They are read from the control groups where the containers' processes are this host's (a few file reads each).
    The engine's own one-shot statistics, which take Docker 20.10 a second, are for where they are not (a Docker
    engine in a VM or in another PID namespace).
    """

    def __init__(self, client: DockerClient) -> None:
        self._client = client
        self._lock = threading.Lock()
        # Ids never come again, and a number's owner is checked by its control group at each use.
        self._pids: dict[str, int] = {}

    def all(self) -> dict[str, Stats]:
        """Counters by name; a container that ends meanwhile is left out."""
        entries = self._client.read(lambda api: api.containers())
        running = {name_of(entry): str(entry["Id"]) for entry in entries if entry.get("Names")}
        with self._lock:
            self._pids = {container: pid for container, pid in self._pids.items() if container in running.values()}
        if not running:
            return {}
        with ThreadPoolExecutor(min(_AT_ONCE, len(running)), "docker-stats") as pool:
            answers = pool.map(self.one, running.values())
            return {name: stats for name, stats in zip(running, answers, strict=True) if stats is not None}

    def one(self, container: str) -> Stats | None:
        """Counters of one container by id, or None when it does not run any more."""
        with self._lock:
            pid = self._pids.get(container)
        stats = of_process(pid, container) if pid else None
        if stats is not None:
            return stats
        try:
            found = self._client.read(lambda api: api.inspect_container(container))
        except NotFound:
            return None
        pid = int(found["State"].get("Pid") or 0)
        if not found["State"].get("Running") or not pid:
            return None
        stats = of_process(pid, container)
        if stats is None:
            return self._by_engine(container, inventory.limits_of(found.get("HostConfig") or {}).memory)
        with self._lock:
            self._pids[container] = pid
        return stats

    def _by_engine(self, container: str, memory_limit: int | None) -> Stats | None:
        try:
            found = self._client.read(lambda api: api.stats(container, stream=False, one_shot=True))
        except NotFound:
            return None
        # The zero time means that it ended meanwhile.
        return None if str(found.get("read", "")).startswith("0001-") else counters(found, memory_limit)


def of_process(pid: int, container: str) -> Stats | None:
    """Counters of the container this process belongs to, or None when it does not, or is gone."""
    try:
        group = group_of(pid, container)
        return None if group is None else usage.of(pid, group)
    except OSError:
        return None


def group_of(pid: int, container: str) -> Group | None:
    """The control group of the container this process belongs to, or None when it does not. Raises OSError: it is
    gone."""
    text = Path(f"/proc/{pid}/cgroup").read_text()
    if container not in text:
        return None
    # With the cgroupfs driver the folder is the id, with systemd's it is docker-ID.scope.
    below = container if f"/{container}" in text else f"docker-{container}"
    return cgroup.parse_group(text, cgroup.hierarchies(), below)


def counters(found: Mapping[str, Any], memory_limit: int | None) -> Stats:
    """Docker's statistics (ContainerStats) in our words; cgroup v1 and v2 differ in the memory's details."""
    memory = found.get("memory_stats") or {}
    networks = (found.get("networks") or {}).values()
    read, written = _disk((found.get("blkio_stats") or {}).get("io_service_bytes_recursive") or ())
    return Stats(
        cpu_time_s=int(((found.get("cpu_stats") or {}).get("cpu_usage") or {}).get("total_usage") or 0) / _NANO,
        memory_bytes=_memory(memory),
        memory_limit_bytes=memory_limit,
        disk_read_bytes=read,
        disk_write_bytes=written,
        net_rx_bytes=sum(int(card.get("rx_bytes") or 0) for card in networks),
        net_tx_bytes=sum(int(card.get("tx_bytes") or 0) for card in networks),
        pids=(found.get("pids_stats") or {}).get("current"),
    )


def _memory(memory: Mapping[str, Any]) -> int:
    """What it uses without page cache that can go at once, as `docker stats` shows it."""
    usage = int(memory.get("usage") or 0)
    details = memory.get("stats") or {}
    # v1 says total_inactive_file, v2 inactive_file.
    inactive = int(details.get("total_inactive_file", details.get("inactive_file", 0)) or 0)
    return usage - inactive if inactive < usage else usage


def _disk(entries: Any) -> tuple[int, int]:
    totals = {"read": 0, "write": 0}
    for entry in entries:
        kind = str(entry.get("op", "")).lower()
        if kind in totals:
            totals[kind] += int(entry.get("value") or 0)
    return totals["read"], totals["write"]
