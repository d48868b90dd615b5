"""IOMMU and VFIO: whether devices can be handed to virtual machines."""

from __future__ import annotations

from collections.abc import Sequence

from triune.domain.finding import Finding
from triune.host.probe.cpu import parse_cpuinfo
from triune.host.probe.view import Facts, View, missing, ok, warning

AREA = "virtualization"
_GRUB = "/etc/default/grub"


def probe(view: View) -> Sequence[Finding]:
    """One finding on IOMMU groups and VFIO together."""
    groups = view.files.names("/sys/kernel/iommu_groups")
    if not groups:
        return [_no_iommu(view)]
    if view.files.exists("/dev/vfio/vfio"):
        sentence = f"IOMMU with {len(groups)} groups and VFIO: devices can be passed through."
        return [ok("iommu.passthrough", AREA, sentence, groups=len(groups), vfio=True)]
    sentence = f"IOMMU with {len(groups)} groups, but VFIO is not loaded: devices cannot be passed through yet."
    return [
        warning("iommu.passthrough", AREA, sentence, "modprobe vfio-pci", groups=len(groups), vfio=False, optional=True)
    ]


def _no_iommu(view: View) -> Finding:
    cpu = parse_cpuinfo(view.files.text("/proc/cpuinfo") or "")
    command_line = (view.files.text("/proc/cmdline") or "").split()
    facts: Facts = {"groups": 0, "vfio": view.files.exists("/dev/vfio/vfio"), "optional": True}
    can_be_asked = cpu.vendor == "GenuineIntel" and "hypervisor" not in cpu.flags
    if can_be_asked and "intel_iommu=on" not in command_line and view.files.exists(_GRUB):
        fix = f"sed -i 's/^GRUB_CMDLINE_LINUX=\"/&intel_iommu=on iommu=pt /' {_GRUB} && update-grub"
        sentence = "No IOMMU is in use: devices cannot be passed through; it is turned on at the next boot."
        return missing("iommu.passthrough", AREA, sentence, fix, **facts)
    return missing("iommu.passthrough", AREA, "No IOMMU is in use: devices cannot be passed through.", **facts)
