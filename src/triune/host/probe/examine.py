"""Every probe at once, each bounded in time; none can fail the whole."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence

from triune.domain.finding import Finding
from triune.host.probe import (
    cgroups,
    cpu,
    engines,
    filesystems,
    iommu,
    kvm,
    namespaces,
    network,
    resources,
    security,
    shaping,
    versions,
)
from triune.host.probe.view import Probe, View, unknown

# In the order in which they are shown; the engines come first there.
PROBES: Mapping[str, tuple[str, Probe]] = {
    "cpu": (cpu.AREA, cpu.probe),
    "kvm": (kvm.AREA, kvm.probe),
    "iommu": (iommu.AREA, iommu.probe),
    "cgroups": (cgroups.AREA, cgroups.probe),
    "namespaces": (namespaces.AREA, namespaces.probe),
    "security": (security.AREA, security.probe),
    "filesystems": (filesystems.AREA, filesystems.probe),
    "network": (network.AREA, network.probe),
    "shaping": (shaping.AREA, shaping.probe),
    "versions": (versions.AREA, versions.probe),
    "resources": (resources.AREA, resources.probe),
}
_SECONDS = 10.0
_KVM_SECONDS = 30.0


def examine(view: View | None = None, probes: Mapping[str, tuple[str, Probe]] = PROBES) -> list[Finding]:
    """Run every probe side by side and return all findings, the engines' first. Never raises.

    A probe that is not done in time (10 s; the proof of KVM 30 s, of which it takes its own share) is told as an
    unknown; its thread is left behind, since a hung system call cannot be ended.
    """
    view = view or View()
    done: dict[str, Sequence[Finding]] = {}
    threads = {
        name: threading.Thread(target=_guarded, args=(name, area, probe, view, done), daemon=True)
        for name, (area, probe) in probes.items()
    }
    began = time.monotonic()
    for thread in threads.values():
        thread.start()
    findings: list[Finding] = []
    for name, (area, _) in probes.items():
        limit = _KVM_SECONDS if name == "kvm" else _SECONDS
        threads[name].join(max(0.0, began + limit - time.monotonic()))
        late = unknown(f"{name}.unknown", area, f"The {name} probe did not finish within {limit:.0f} s.")
        findings += done.get(name, [late])
    return [*engines.judge(findings), *findings]


def _guarded(name: str, area: str, probe: Probe, view: View, done: dict[str, Sequence[Finding]]) -> None:
    try:
        done[name] = probe(view)
    except Exception as error:
        sentence = f"The {name} probe failed: {type(error).__name__}: {error}."
        done[name] = [unknown(f"{name}.unknown", area, sentence)]
