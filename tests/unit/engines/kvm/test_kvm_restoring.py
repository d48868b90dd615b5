"""A machine's definition led to another host: emulated there and not here, or the other way round."""

from __future__ import annotations

import xml.etree.ElementTree as ET

from tests.unit.engines.kvm.plans import ACCELERATED, EMULATED, FILES, plan

from triune.engines.kvm import restoring, spec
from triune.engines.kvm.spec import HostFacts


def adapted(host: HostFacts, other: HostFacts) -> tuple[ET.Element, ET.Element]:
    """What was made for one host, led to another, and what is made there."""
    made, wanted = (ET.fromstring(spec.build(plan(), FILES, one)) for one in (host, other))
    restoring._adapt(made, other)
    return made, wanted


def words(root: ET.Element) -> list[str]:
    return root.findtext("os/cmdline", "").split(" ")


def test_from_emulated_to_accelerated() -> None:
    made, wanted = adapted(EMULATED, ACCELERATED)
    assert made.get("type") == "kvm"
    assert made.find("features/tcg") is None
    assert words(made) == words(wanted)
    assert "no_timer_check" not in words(made)


def test_from_accelerated_to_emulated() -> None:
    made, wanted = adapted(ACCELERATED, EMULATED)
    assert made.get("type") == "qemu"
    assert words(made) == words(wanted)
    assert words(adapted(EMULATED, EMULATED)[0]) == words(wanted)
