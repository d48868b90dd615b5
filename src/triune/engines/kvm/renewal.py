"""A clone's own identity, given through its agent when it first runs."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import replace
from typing import Any
from uuid import UUID

from triune.domain.operation import Progress
from triune.engines.kvm import identity
from triune.engines.kvm import mark as marks
from triune.engines.kvm.agent import Agent
from triune.engines.kvm.client import Client, library


def renew(client: Client, domain: Any, name: str, root: ET.Element, mark: marks.Mark, progress: Progress) -> None:
    """Host name, machine id, SSH host keys; then the mark says that it is done. A crash before: done once more.

    Raises Failed("identity_failed").
    """
    virt = library()
    progress.step("kvm-identity", f"giving {name} an identity of its own")
    # Of a clone of what was not ours nothing is known; any other is named by us, or by its image.
    fixed = bool(mark.image) and not _named_by_us(root)
    own = identity.Identity(
        hostname=None if fixed else name, machine_id=UUID(root.findtext("uuid", "")).hex, was=mark.renew
    )
    identity.apply(Agent(client, domain, name), name, own)
    text = marks.unnamed(replace(mark, renew=""))
    flags = virt.VIR_DOMAIN_AFFECT_LIVE | virt.VIR_DOMAIN_AFFECT_CONFIG
    with client.errors(name):
        domain.setMetadata(virt.VIR_DOMAIN_METADATA_ELEMENT, text, "triune", marks.NAMESPACE, flags)


def _named_by_us(root: ET.Element) -> bool:
    """Whether the system takes its name from us: its image has none of its own."""
    words = (root.findtext("os/cmdline") or "").split(" ")
    told = any(word.startswith("systemd.hostname=") for word in words)
    return told or root.find("sysinfo/chassis/entry[@name='asset']") is not None
