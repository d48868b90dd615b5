"""KVM: the device, whether it truly runs a guest, and nested virtualization."""

from __future__ import annotations

from collections.abc import Sequence

from triune.domain.finding import Finding
from triune.host.kvm import HOST_CPU, libvirt_reprobes, prove
from triune.host.probe.cpu import parse_cpuinfo
from triune.host.probe.view import Facts, View, missing, ok, unknown, warning

AREA = "virtualization"
_EMULATED = "virtual machines run emulated, several times slower"


def probe(view: View) -> Sequence[Finding]:
    """The device proved by running a guest, who may open it, and nesting."""
    return [_device(view), *_access(view), _nested(view)]


def _device(view: View) -> Finding:
    if not view.files.exists("/dev/kvm"):
        return _no_device(view)
    if not view.root:
        sentence = "/dev/kvm is there, but only root can prove that it runs guests."
        return unknown("kvm.device", AREA, sentence, "sudo triune doctor", device=True)
    if not view.live:
        return unknown("kvm.device", AREA, "/dev/kvm is there; it was not tried.", device=True)
    if view.tools.find("qemu-system-x86_64") is None:
        sentence = "/dev/kvm is there; without QEMU it cannot be proved."
        return unknown("kvm.device", AREA, sentence, "triune setup", device=True)
    proof = prove()
    facts: Facts = {
        "device": True, "usable": proof.usable, "reason": proof.reason, "cpu": proof.cpu,
        "kernel": proof.kernel or None,
    }  # fmt: skip
    untried = "" if proof.kernel else "; no stock kernel has been tried yet (that of the first virtual machine will be)"
    if proof.usable and proof.cpu != HOST_CPU:
        return warning(
            "kvm.device", AREA, f"{_inline(proof.reason)}; virtual machines get that plain model{untried}.", **facts
        )
    if proof.usable:
        sentence = f"/dev/kvm ran a test guest: virtual machines are hardware-accelerated{untried}."
        return ok("kvm.device", AREA, sentence, **facts)
    sentence = f"{_inline(facts['reason'])}; {_EMULATED}."
    return warning("kvm.device", AREA, sentence, **facts)


def _access(view: View) -> list[Finding]:
    """Nothing where there is no device to open."""
    if not (view.live and view.files.exists("/dev/kvm")):
        return []
    reason = libvirt_reprobes()
    if reason is None:
        return [ok("kvm.access", AREA, "QEMU's user may open /dev/kvm, so libvirt keeps what it learnt of QEMU.")]
    return [warning("kvm.access", AREA, f"{_inline(reason)}.", "chgrp kvm /dev/kvm && chmod 660 /dev/kvm")]


def _inline(reason: object) -> str:
    """A reason as part of a sentence: one line, no full stop."""
    return " ".join(str(reason).split()).rstrip(".") or "no reason known"


def _no_device(view: View) -> Finding:
    cpu = parse_cpuinfo(view.files.text("/proc/cpuinfo") or "")
    facts: Facts = {"device": False, "usable": False}
    module = {"Intel VT-x": "kvm_intel", "AMD-V": "kvm_amd"}.get(cpu.virtualization or "")
    if module is None:
        return missing("kvm.device", AREA, f"There is no /dev/kvm: {_EMULATED}.", **facts)
    sentence = f"There is no /dev/kvm, though the processor has {cpu.virtualization}: {_EMULATED}."
    return missing("kvm.device", AREA, sentence, f"modprobe {module}", **facts)


def _nested(view: View) -> Finding:
    for module in ("kvm_intel", "kvm_amd"):
        value = view.files.text(f"/sys/module/{module}/parameters/nested")
        if value is None:
            continue
        if value.strip() in ("Y", "1"):
            return ok("kvm.nested", AREA, "Virtual machines can run virtual machines (nested is on).", nested=True)
        vendor = module.removeprefix("kvm_")
        option = f"echo 'options {module} nested=1' > /etc/modprobe.d/kvm-nested.conf"
        fix = f"{option} && modprobe -r {module} && modprobe {module}"
        sentence = f"Nested virtualization is off in kvm_{vendor}: a VM cannot run accelerated VMs itself."
        return warning("kvm.nested", AREA, sentence, fix, nested=False, optional=True)
    sentence = "Nested virtualization: no, neither kvm_intel nor kvm_amd is loaded."
    return missing("kvm.nested", AREA, sentence, nested=False, optional=True)
