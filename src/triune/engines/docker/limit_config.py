"""Limits in a container's HostConfig, and the body of an update. Pure but for the host's list of CPUs.

Field names are the Docker Engine API's (Resources). `docker update` takes 0 for "leave it as it is", so a limit is
lifted by a value that limits nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from triune.domain.errors import Invalid
from triune.domain.limits import NORMAL_WEIGHT, Limits, format_cpu_list
from triune.host import cgroup_limits, cpus
from triune.host.cgroup import V1_UNLIMITED

_NANO = 10**9
_SHARES = 1024
_NO_MEMORY_LIMIT = 1 << 62


def host_config(limits: Limits, *, weight: bool) -> dict[str, Any]:
    """The fields of a HostConfig (Docker Engine API, Resources) for what is limited. `weight`: in v1's shares."""
    config: dict[str, Any] = {}
    if limits.cpus is not None:
        config |= {"CpuPeriod": cgroup_limits.PERIOD_US, "CpuQuota": _quota(limits.cpus)}
    if limits.cpu_weight is not None and weight:
        config["CpuShares"] = _shares(limits.cpu_weight)
    if limits.cpu_pin is not None:
        config["CpusetCpus"] = limits.cpu_pin
    if limits.memory is not None:
        # Docker's own default is as much swap again; here nothing said is no limit, as with the other engines.
        config |= {"Memory": limits.memory, "MemorySwap": _total(limits)}
    elif limits.swap is not None:
        raise Invalid(
            "swap_without_memory",
            "Docker limits swap only along with memory",
            hint="Set memory too, or leave swap out.",
        )
    if limits.pids is not None:
        config["PidsLimit"] = limits.pids
    return config


def update_body(limits: Limits, changed: frozenset[str], found: Mapping[str, Any]) -> dict[str, Any]:
    """The body of Docker's "update container" request. `found` is the HostConfig as it is."""
    body: dict[str, Any] = {}
    kept = Limits().changed({key: limits.get(key) for key in changed})
    if changed & {"memory", "swap"}:
        kept = kept.changed({"memory": limits.memory, "swap": limits.swap})
        if limits.memory is None:
            body["Memory"] = _NO_MEMORY_LIMIT
    body |= host_config(kept, weight="cpu.weight" in changed)
    if "Memory" in body and limits.swap is None:
        body["MemorySwap"] = _NO_MEMORY_LIMIT  # -1 is not passed on to the runtime in an update
    if "cpus" in changed:
        body |= _cpus(limits.cpus, found)
    for key, name, nothing in (
        ("cpu.weight", "CpuShares", _SHARES),
        ("cpu.pin", "CpusetCpus", format_cpu_list(cpus.online())),
        ("pids", "PidsLimit", -1),
    ):
        if key in changed and limits.get(key) is None:
            body[name] = nothing
    return body


def _cpus(value: float | None, found: Mapping[str, Any]) -> dict[str, Any]:
    """Docker refuses a quota where it has a number of CPUs (docker run --cpus): then it must be a number again."""
    if found.get("NanoCpus"):
        return {"NanoCpus": round((value or len(cpus.online())) * _NANO), "CpuPeriod": 0, "CpuQuota": 0}
    return {"CpuPeriod": cgroup_limits.PERIOD_US, "CpuQuota": -1 if value is None else _quota(value)}


def limits_of(host: Mapping[str, Any], *, weight: bool) -> Limits:
    """The limits in a HostConfig."""
    cpus_given: float | None = None
    if host.get("NanoCpus"):
        cpus_given = int(host["NanoCpus"]) / _NANO
    elif (host.get("CpuQuota") or 0) > 0:
        cpus_given = int(host["CpuQuota"]) / int(host.get("CpuPeriod") or cgroup_limits.PERIOD_US)
    memory = int(host.get("Memory") or 0) or None
    if memory is not None and memory >= V1_UNLIMITED:
        memory = None
    total = int(host.get("MemorySwap") or 0)
    shares, pids, pin = int(host.get("CpuShares") or 0), int(host.get("PidsLimit") or 0), host.get("CpusetCpus") or None
    share = max(1, round(shares * NORMAL_WEIGHT / _SHARES)) if shares and weight else NORMAL_WEIGHT
    return Limits(
        cpus=cpus_given,
        cpu_weight=None if share == NORMAL_WEIGHT else share,
        cpu_pin=None if pin == format_cpu_list(cpus.online()) else pin,
        memory=memory,
        swap=total - memory if memory is not None and 0 < total < V1_UNLIMITED else None,
        pids=pids if pids > 0 else None,
    )


def _quota(value: float) -> int:
    return max(1000, round(value * cgroup_limits.PERIOD_US))


def _shares(weight: int) -> int:
    return max(2, round(weight * _SHARES / NORMAL_WEIGHT))


def _total(limits: Limits) -> int:
    return -1 if limits.swap is None or limits.memory is None else limits.memory + limits.swap
