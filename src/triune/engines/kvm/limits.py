"""Limits of virtual machines, through libvirt: in the configuration for each later start, and live.

cpus      CPU time of the whole QEMU process; the guest gets and loses vCPUs as well, as far as it plays along
memory    live by the balloon, up to what the machine was started with; a start makes it a hard bound
io, iops  QEMU's own throttling, so no cgroup is needed
"""

from __future__ import annotations

import contextlib
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from triune.domain.errors import Conflict, Failed, Unsupported
from triune.domain.limits import Limits, parse_cpu_list
from triune.domain.units import format_size
from triune.engines.kvm import spec, tuning
from triune.engines.kvm.client import Client, library
from triune.engines.kvm.spec import HostFacts
from triune.host import cpus

_AGENT_SECONDS = 3
_BALLOON_SECONDS = 20.0
_POLL = 0.1
_MOST_KERNEL = 64 * 1024  # KiB
_SLACK = 2**20  # a balloon that is so near has done what it can
MISSING = {
    "limiting.swap": "a virtual machine swaps to its own disk: make a swap file or partition in the guest",
    "limiting.pids": "a virtual machine has its own kernel, which counts its processes: use systemd's TasksMax inside",
}
_NO_WEIGHT = "the cgroup controller cpu, which shares CPU time out, is missing on this host"


def missing(cpu_cgroup: int | None) -> dict[str, str]:
    """Why a limit can't be set here, by `limiting.KEY`."""
    return dict(MISSING) if cpu_cgroup is not None else {**MISSING, "limiting.cpu.weight": _NO_WEIGHT}


@dataclass
class _Change:
    """A change under way: what undoes it, the last first, and the keys that wait for a start. `quota`: CPU time can be
    held back here."""

    quota: bool
    undo: list[Callable[[], object]] = field(default_factory=list)
    later: set[str] = field(default_factory=set)


class Limiting:
    """Implements engines.base.Limiting."""

    def __init__(self, client: Client, host: Callable[[], HostFacts], cpu_cgroup: int | None) -> None:
        self._client = client
        self._host = host
        self._cpu_cgroup = cpu_cgroup
        gone = {key.removeprefix("limiting.") for key in missing(cpu_cgroup)}
        self.keys: frozenset[str] = tuning.KEYS - gone
        self.live: frozenset[str] = self.keys
        self.volatile: frozenset[str] = frozenset()

    def read(self, name: str) -> Limits:
        """What is in force (or will be, for a stopped one)."""
        domain = self._client.domain(name)
        with self._client.errors(name):
            root = ET.fromstring(domain.XMLDesc(0))  # noqa: S314 - from libvirt
        found = tuning.read(root, self._cpu_cgroup)
        # Live, a pinning is lifted by allowing every CPU, and told so.
        free = found.cpu_pin is not None and set(parse_cpu_list(found.cpu_pin)) >= set(cpus.online())
        return replace(found, cpu_pin=None) if free else found

    def apply(self, name: str, limits: Limits, changed: frozenset[str]) -> frozenset[str]:
        """Set them; see engines.base.Limiting.apply."""
        for key in sorted(changed - self.keys):
            raise Unsupported(
                "limit_unsupported",
                f"{name!r} can't be given the limit {key}: {missing(self._cpu_cgroup).get(f'limiting.{key}', '')}",
                hint=f"Leave {key} out.",
            )
        if "cpus" in changed:
            spec.check_cpus(name, limits.cpus, self._host())
        if "memory" in changed and limits.memory is not None:
            spec.check_memory(name, limits.memory, self._host())
        domain = self._client.domain(name)
        change = _Change(quota=self._cpu_cgroup is not None)
        with self._client.errors(name):
            active, persistent = bool(domain.isActive()), bool(domain.isPersistent())
            try:
                if persistent:
                    self._configure(domain, limits, changed, change)
                if active:
                    self._apply_live(domain, name, limits, changed, change)
            except BaseException:
                _undo(change)
                raise
        return frozenset(change.later)

    def _configure(self, domain: Any, limits: Limits, changed: frozenset[str], change: _Change) -> None:
        virt = library()
        before = domain.XMLDesc(virt.VIR_DOMAIN_XML_INACTIVE | virt.VIR_DOMAIN_XML_SECURE)
        root = ET.fromstring(before)  # noqa: S314 - from libvirt
        tuning.tune(root, limits, changed, self._cpu_cgroup)
        connection = domain.connect()
        change.undo.append(lambda: connection.defineXML(before))
        connection.defineXML(ET.tostring(root, encoding="unicode"))

    def _apply_live(self, domain: Any, name: str, limits: Limits, changed: frozenset[str], change: _Change) -> None:
        if "memory" in changed:  # first: it may be refused
            _set_memory(domain, name, limits.memory, change)
        if "cpus" in changed:
            _set_cpus(domain, limits.cpus, change)
        if "cpu.weight" in changed:
            shares = tuning.shares(limits.cpu_weight, self._cpu_cgroup)
            _schedule(domain, {"cpu_shares": shares}, change)
        if "cpu.pin" in changed or ("cpus" in changed and limits.cpu_pin is not None):  # a new vCPU may run anywhere
            _set_pin(domain, limits.cpu_pin, change)
        io_keys = [key for key in tuning.IO_KEYS if key in changed]
        if io_keys:
            root = ET.fromstring(domain.XMLDesc(0))  # noqa: S314 - from libvirt
            for disk in tuning.writable_disks(root):
                target = disk.find("target")
                if target is not None:
                    _throttle(domain, target.get("dev", ""), limits, change)


def _undo(change: _Change) -> None:
    virt = library()
    while change.undo:
        with contextlib.suppress(virt.libvirtError):
            change.undo.pop()()


def _schedule(domain: Any, wanted: dict[str, int], change: _Change) -> None:
    live = library().VIR_DOMAIN_AFFECT_LIVE
    before = domain.schedulerParametersFlags(live)
    differing = {key: value for key, value in wanted.items() if before.get(key) != value}
    if differing:
        change.undo.append(
            lambda: domain.setSchedulerParametersFlags({key: before[key] for key in differing if key in before}, live)
        )
        domain.setSchedulerParametersFlags(differing, live)


def _set_cpus(domain: Any, wanted: float | None, change: _Change) -> None:
    virt = library()
    live = virt.VIR_DOMAIN_AFFECT_LIVE
    count, most = domain.vcpusFlags(live), domain.vcpusFlags(live | virt.VIR_DOMAIN_VCPU_MAXIMUM)
    needed = count if wanted is None else tuning.vcpus(wanted)
    if needed > most:
        change.later.add("cpus")
    if count < min(needed, most):
        change.undo.append(partial(domain.setVcpusFlags, count, live))
        count = min(needed, most)
        domain.setVcpusFlags(count, live)
    total = tuning.quota(wanted, count)
    if total > 0 and not change.quota:
        change.later.add("cpus")  # fewer vCPUs, then
    if change.quota and (total > 0 or not _unlimited(domain)):
        _schedule(domain, {"vcpu_quota": -1}, change)  # a machine of other makers may have one
        _schedule(domain, {"global_period": tuning.QUOTA_PERIOD, "global_quota": total}, change)
    _ask_for_vcpus(domain, min(needed, count))


def _unlimited(domain: Any) -> bool:
    found = domain.schedulerParametersFlags(library().VIR_DOMAIN_AFFECT_LIVE)
    return all(found.get(key, -1) < 0 for key in ("vcpu_quota", "global_quota"))


def _ask_for_vcpus(domain: Any, count: int) -> None:
    """Have the guest use so many of its vCPUs, so that its programs see as many. The quota holds without it."""
    virt = library()
    deadline = time.monotonic() + _AGENT_SECONDS
    with contextlib.suppress(virt.libvirtError):
        domain.agentSetResponseTimeout(_AGENT_SECONDS, 0)
        # A guest needs a moment to see a vCPU that has just been plugged in.
        while domain.vcpusFlags(virt.VIR_DOMAIN_VCPU_GUEST) < count and time.monotonic() < deadline:
            time.sleep(_POLL)
        domain.setVcpusFlags(count, virt.VIR_DOMAIN_AFFECT_LIVE | virt.VIR_DOMAIN_VCPU_GUEST)


def _set_pin(domain: Any, pin: str | None, change: _Change) -> None:
    live = library().VIR_DOMAIN_AFFECT_LIVE
    host = domain.connect().getCPUMap()[0]
    chosen = set(parse_cpu_list(pin)) if pin is not None else set(range(host))
    mask = tuple(cpu in chosen for cpu in range(host))
    emulator = domain.emulatorPinInfo(live)
    pins = domain.vcpuPinInfo(live)
    change.undo.append(lambda: domain.pinEmulator(emulator, live))
    domain.pinEmulator(mask, live)
    for number in range(domain.vcpusFlags(live)):
        if number < len(pins):
            change.undo.append(partial(domain.pinVcpuFlags, number, pins[number], live))
        domain.pinVcpuFlags(number, mask, live)


def _throttle(domain: Any, device: str, limits: Limits, change: _Change) -> None:
    """All keys at once, as one group of disks has them."""
    live = library().VIR_DOMAIN_AFFECT_LIVE
    before = {key: value for key, value in domain.blockIoTune(device, live).items() if value not in (0, "")}
    wanted = tuning.throttle(limits)
    change.undo.append(lambda: domain.setBlockIoTune(device, before or tuning.throttle(Limits()), live))
    grouped = {"group_name": tuning.GROUP} if any(wanted.values()) else {}
    domain.setBlockIoTune(device, {**wanted, **grouped}, live)


def _set_memory(domain: Any, name: str, wanted: int | None, change: _Change) -> None:
    virt = library()
    live = virt.VIR_DOMAIN_AFFECT_LIVE
    most, stats = domain.maxMemory() * 1024, domain.memoryStats()
    now = int(stats.get("actual", domain.info()[2])) * 1024
    target = most if wanted is None else min(wanted, most)
    if wanted is not None and wanted > most:
        change.later.add("memory")
    if target == now:
        return
    if "unused" not in stats:  # the guest has no driver for its balloon, or has not booted yet
        change.later.add("memory")
        return
    used = _used(stats)
    if target < used:
        raise _below_use(name, target, used)
    change.undo.append(lambda: domain.setMemoryFlags(now // 1024, live))
    domain.setMemoryFlags(target // 1024, live)
    if not _reached(domain, target):
        raise Failed(
            "balloon_stuck",
            f"the guest {name!r} did not give back memory down to {format_size(target)} within {_BALLOON_SECONDS:g} s",
            hint=f"It may be busy or need the memory: triune stats {name}. After a stop any limit can be set.",
        )


def _reached(domain: Any, target: int) -> bool:
    """Wait for the balloon, as far as libvirt has heard of it: that is what is told of the machine from now on."""
    deadline = time.monotonic() + _BALLOON_SECONDS
    while (off := abs(int(domain.info()[2]) * 1024 - target)) and time.monotonic() < deadline:
        time.sleep(_POLL)
    return off <= _SLACK


def _used(stats: dict[str, int]) -> int:
    """What its programs and kernel hold: all that is there but what could be freed at once."""
    total = int(stats.get("available", stats["unused"]))
    # What the guest's kernel took at boot is in neither figure. The report is up to ten seconds old, `actual` is not.
    kernel = min(max(0, int(stats.get("actual", 0)) - total), _MOST_KERNEL)
    return max(0, total - int(stats.get("usable", stats["unused"])) + kernel) * 1024


def _below_use(name: str, wanted: int, used: int) -> Conflict:
    return Conflict(
        "limit_below_use",
        f"{name!r} uses {format_size(used)} of memory now, more than {format_size(wanted)}",
        hint=f"Free memory in it or stop it first: triune stop {name}",
        used=used,
    )
