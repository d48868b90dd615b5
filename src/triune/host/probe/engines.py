"""The sum of it: can each engine run instances here? Derived from the other findings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from triune.domain.finding import Finding, FindingStatus
from triune.host.probe.view import Facts, missing, ok, unknown, warning

AREA = "engines"


@dataclass(frozen=True, slots=True)
class Need:
    """An engine and the findings that must not be missing for it to run instances."""

    engine: str
    title: str
    findings: tuple[str, ...]


NEEDS = (
    Need(
        "kvm",
        "KVM virtual machines",
        ("programs.qemu", "programs.libvirt", "programs.libvirt-daemon", "programs.bindings"),
    ),
    Need(
        "lxc",
        "LXC system containers",
        (
            "programs.lxc",
            "programs.bindings",
            "cgroups.version",
            "namespaces.kinds",
            "namespaces.user",
            "namespaces.subids",
            "storage.overlay",
        ),
    ),
    Need("docker", "Docker application containers", ("programs.docker-daemon", "cgroups.version", "namespaces.kinds")),
)


def judge(findings: Sequence[Finding]) -> list[Finding]:
    """One finding per engine, from what the other probes found."""
    known = {finding.id: finding for finding in findings}
    return [_engine(need, known) for need in NEEDS]


def _engine(need: Need, known: Mapping[str, Finding]) -> Finding:
    name = f"engines.{need.engine}"
    lacking = [known[item] for item in need.findings if item in known and known[item].status is FindingStatus.MISSING]
    absent = [item for item in need.findings if item not in known or known[item].facts.get("known") is False]
    if lacking or (absent and not any(known.get(item) for item in absent)):
        because = lacking[0].sentence.rstrip(".") if lacking else f"nothing is known of {absent[0]}"
        sentence = f"{need.title} cannot run: {because}."
        return missing(name, AREA, sentence, "triune setup", engine=need.engine, usable=False)
    if absent:
        sentence = f"{need.title}: everything seen is in place, but not all could be looked at."
        return unknown(name, AREA, sentence, "sudo triune doctor", engine=need.engine, usable=None)
    return _usable(need, name, known.get("kvm.device"))


def _usable(need: Need, name: str, device: Finding | None) -> Finding:
    facts: Facts = {"engine": need.engine, "usable": True}
    if need is not NEEDS[0]:
        return ok(name, AREA, f"{need.title} can run.", **facts)
    accelerated = device is not None and device.facts.get("usable") is True
    facts["accelerated"] = accelerated
    if accelerated:
        if device is not None and not device.facts.get("kernel", True):
            sentence = f"{need.title} can run; whether hardware-accelerated, the first one's kernel will prove."
            return ok(name, AREA, sentence, **facts)
        return ok(name, AREA, f"{need.title} can run, hardware-accelerated.", **facts)
    return warning(name, AREA, f"{need.title} can run, emulated: nothing proves that KVM works here.", **facts)
