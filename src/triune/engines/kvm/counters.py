"""Counters of the running domains, in one call to libvirt.

Memory is what the guest says it could not free at once, as a container's is counted: that is what its limit is about.
The host pays more, QEMU's own memory and the guest's page cache (`memory_used_bytes` of `show`); that stands in for a
guest without a balloon driver. The driver tells every ten seconds (the period in spec.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from triune.domain.instance import Stats
from triune.engines.kvm.client import PATIENCE, Client, library
from triune.engines.kvm.names import is_template


def read(client: Client) -> Mapping[str, Stats]:
    """Stats of every running domain, by name. Network counters are the guest's view."""
    virt = library()
    wanted = (
        virt.VIR_DOMAIN_STATS_CPU_TOTAL
        | virt.VIR_DOMAIN_STATS_VCPU
        | virt.VIR_DOMAIN_STATS_BALLOON
        | virt.VIR_DOMAIN_STATS_INTERFACE
        | virt.VIR_DOMAIN_STATS_BLOCK
    )
    # NOWAIT: one domain whose monitor hangs must not hold the others' figures up
    flags = virt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_ACTIVE | virt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT
    records = client.call(lambda connection: connection.getAllDomainStats(wanted, flags), seconds=PATIENCE)
    found = ((domain.name(), values) for domain, values in records)
    return {name: _stats(values) for name, values in found if not is_template(name)}


def _stats(values: Mapping[str, Any]) -> Stats:
    cpu = values.get("cpu.time")
    if cpu is None:  # without a cgroup libvirt has only the vCPUs' own times
        cpu = sum(int(values.get(f"vcpu.{index}.time", 0)) for index in range(int(values.get("vcpu.maximum", 0))))
    limit = values.get("balloon.current", values.get("balloon.maximum"))
    return Stats(
        cpu_time_s=int(cpu) / 1e9,
        memory_bytes=_memory(values) * 1024,
        memory_limit_bytes=int(limit) * 1024 if limit is not None else None,
        disk_read_bytes=_sum(values, "block", "rd.bytes"),
        disk_write_bytes=_sum(values, "block", "wr.bytes"),
        net_rx_bytes=_sum(values, "net", "rx.bytes"),
        net_tx_bytes=_sum(values, "net", "tx.bytes"),
    )


def _memory(values: Mapping[str, Any]) -> int:
    """KiB in use."""
    free, total = values.get("balloon.usable", values.get("balloon.unused")), values.get("balloon.available")
    current = values.get("balloon.current")
    if free is not None and total is not None and int(free) <= int(total):
        return int(total) - int(free)  # of one and the same report, unlike `current`
    resident = int(values.get("balloon.rss", 0))
    # The rest is QEMU's own: no guest uses more than it was given.
    return resident if current is None else min(resident, int(current))


def _sum(values: Mapping[str, Any], group: str, counter: str) -> int:
    return sum(int(values.get(f"{group}.{i}.{counter}", 0)) for i in range(int(values.get(f"{group}.count", 0))))
