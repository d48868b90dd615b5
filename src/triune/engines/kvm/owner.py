"""Whom libvirt runs QEMU as."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

from triune.engines.kvm.client import Client

_LABEL = "host/secmodel[model='dac']/baselabel"


def qemu_owner(client: Client) -> tuple[int, int] | None:
    """(user, group) that libvirt runs QEMU as; None where it does not say."""
    text = client.call(lambda connection: connection.getCapabilities())
    label = ET.fromstring(text).findtext(_LABEL) or ""  # noqa: S314 - from libvirt
    owner = re.fullmatch(r"\+?(\d+):\+?(\d+)", label.strip())
    return (int(owner[1]), int(owner[2])) if owner is not None else None
