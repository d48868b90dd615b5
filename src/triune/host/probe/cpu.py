"""The processor: its virtualization flags."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from triune.domain.finding import Finding
from triune.host.probe.view import Facts, View, missing, ok, unknown, warning

AREA = "cpu"


@dataclass(frozen=True, slots=True)
class Cpu:
    """What /proc/cpuinfo says: `flags` of the first processor, `count` of logical ones."""

    vendor: str
    model: str
    count: int
    flags: frozenset[str]

    @property
    def virtualization(self) -> str | None:
        """The name of the hardware virtualization it shows, or None."""
        if "vmx" in self.flags:
            return "Intel VT-x"
        return "AMD-V" if "svm" in self.flags else None


def parse_cpuinfo(text: str) -> Cpu:
    """Parse /proc/cpuinfo (proc(5)): blocks of `key : value`, one block a processor. Never raises."""
    first: dict[str, str] = {}
    count = 0
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        if not colon:
            continue
        if key.strip() == "processor":
            count += 1
        first.setdefault(key.strip(), value.strip())
    flags = first.get("flags") or first.get("Features") or ""
    return Cpu(
        vendor=first.get("vendor_id", ""),
        model=first.get("model name", "unknown processor") or "unknown processor",
        count=count,
        flags=frozenset(flags.split()),
    )


def probe(view: View) -> Sequence[Finding]:
    """Whether the processor can virtualize."""
    text = view.files.text("/proc/cpuinfo")
    if text is None:
        return [unknown("cpu.virtualization", AREA, "/proc/cpuinfo cannot be read, so the processor is unknown.")]
    cpu = parse_cpuinfo(text)
    name = cpu.virtualization
    facts: Facts = {"vendor": cpu.vendor, "model": cpu.model, "cpus": cpu.count, "virtualization": name}
    if name:
        return [ok("cpu.virtualization", AREA, f"{cpu.count} × {cpu.model} with {name}.", **facts)]
    if view.files.exists("/dev/kvm"):
        sentence = "The processor shows neither vmx nor svm, though /dev/kvm exists: this host is itself a guest."
        return [warning("cpu.virtualization", AREA, sentence, **facts)]
    where = "in the outer hypervisor" if "hypervisor" in cpu.flags else "in the firmware setup (VT-x or SVM)"
    sentence = f"The processor shows neither vmx nor svm; turn hardware virtualization on {where}."
    return [missing("cpu.virtualization", AREA, sentence, **facts)]
