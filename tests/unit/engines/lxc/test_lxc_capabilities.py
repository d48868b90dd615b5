"""A bounding set of capabilities, in words."""

from __future__ import annotations

from triune.engines.lxc.detail import capabilities


def test_capabilities_are_named() -> None:
    assert capabilities(0x1FFFFFFFFFF, 40) == "all"
    assert capabilities(0x1FFFFFFFFFF & ~(1 << 25) & ~(1 << 16), 40) == "all but sys_module, sys_time"
    assert capabilities(0b100001, 40) == "chown, kill"
    assert capabilities(0, 40) == "none"
    assert capabilities(1 << 63, 40) == "none"


def test_a_capability_newer_than_the_list_has_its_number() -> None:
    assert capabilities(1 << 42, 42) == "capability 42"
