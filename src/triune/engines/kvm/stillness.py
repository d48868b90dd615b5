"""Holding a running guest's file systems still through its agent, for as short as possible, and always letting go."""

from __future__ import annotations

import contextlib
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from typing import Any

from triune.domain.snapshot import Consistency
from triune.engines.kvm import inventory
from triune.engines.kvm.client import library

_PATIENCE = 10  # seconds for the guest to write out what it holds
_LETTING_GO = 30


@contextlib.contextmanager
def held(domain: Any) -> Iterator[Consistency]:
    """Freeze the guest's file systems: `agent`, or `crash` where no agent does it."""
    frozen = _freeze(domain)
    try:
        yield Consistency.AGENT if frozen else Consistency.CRASH
    finally:
        if frozen:
            thaw(domain)


def _freeze(domain: Any) -> bool:
    virt = library()
    try:
        if domain.state(0)[0] != virt.VIR_DOMAIN_RUNNING or not _has_agent(domain):
            return False
        domain.agentSetResponseTimeout(_PATIENCE, 0)
        domain.fsFreeze()
    except virt.libvirtError:
        # An agent that was too slow may have frozen some of them by now.
        thaw(domain)
        return False
    return True


def thaw(domain: Any) -> None:
    """Let go, whatever was frozen. Nothing frozen, no agent: succeed."""
    virt = library()
    with contextlib.suppress(virt.libvirtError):
        if domain.isActive() and _has_agent(domain):
            domain.agentSetResponseTimeout(_LETTING_GO, 0)
            domain.fsThaw()
    with contextlib.suppress(virt.libvirtError):
        domain.agentSetResponseTimeout(virt.VIR_DOMAIN_AGENT_RESPONSE_TIMEOUT_BLOCK, 0)


def _has_agent(domain: Any) -> bool:
    return inventory.agent_connected(ET.fromstring(domain.XMLDesc(0)))  # noqa: S314 - from libvirt
