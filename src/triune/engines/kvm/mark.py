"""Our mark in a domain's metadata: what libvirt itself cannot hold of an instance.

<triune:instance xmlns:triune="https://triune.dev/xmlns/domain/1" version="1">
  <triune:image>debian/12</triune:image>
  <triune:created>2026-01-02T03:04:05+00:00</triune:created>
  <triune:agent>yes</triune:agent>
  <triune:address mac="52:54:00:…" network="triune0">10.87.0.5</triune:address>
  <triune:settings>{"graphics": "vnc"}</triune:settings>      JSON, ASCII only
  <triune:volumes>[["triune0", "/srv"]]</triune:volumes>      tag and target
  <triune:renew>web</triune:renew>         a clone that still has the identity of this one
</triune:instance>

libvirt shows it to every user of the host (the read-only socket), so nothing secret is in it: an instance's environment
is a file in its folder.
"""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

NAMESPACE = "https://triune.dev/xmlns/domain/1"
_Q = f"{{{NAMESPACE}}}"

ET.register_namespace("triune", NAMESPACE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """The mark of a managed instance. `addresses` are (mac, network, address).

    `renew`: the name of the one it was cloned from, until it has an identity of its own.
    """

    image: str
    created: datetime
    agent: bool = False
    addresses: tuple[tuple[str, str, str], ...] = ()
    settings: Mapping[str, str] = field(default_factory=dict)
    volumes: tuple[tuple[str, str], ...] = ()
    renew: str = ""


def write(mark: Mark) -> ET.Element:
    """The metadata element."""
    root = ET.Element(f"{_Q}instance", {"version": "1"})
    ET.SubElement(root, f"{_Q}image").text = mark.image
    ET.SubElement(root, f"{_Q}created").text = mark.created.isoformat()
    ET.SubElement(root, f"{_Q}agent").text = "yes" if mark.agent else "no"
    for mac, network, address in mark.addresses:
        ET.SubElement(root, f"{_Q}address", {"mac": mac, "network": network}).text = address
    ET.SubElement(root, f"{_Q}settings").text = json.dumps(dict(mark.settings))
    ET.SubElement(root, f"{_Q}volumes").text = json.dumps([list(volume) for volume in mark.volumes])
    if mark.renew:
        ET.SubElement(root, f"{_Q}renew").text = mark.renew
    return root


def unnamed(mark: Mark) -> str:
    """The metadata element as virDomainSetMetadata wants it: libvirt puts the name space in itself."""
    root = write(mark)
    for element in root.iter():
        element.tag = element.tag.removeprefix(_Q)
    return ET.tostring(root, encoding="unicode")


def read(domain: ET.Element) -> Mark | None:
    """The mark of a domain, or None: it is not ours, or someone broke the mark (then it counts as adopted)."""
    root = domain.find(f"metadata/{_Q}instance")
    if root is None:
        return None
    try:
        return Mark(
            image=root.findtext(f"{_Q}image", ""),
            created=datetime.fromisoformat(root.findtext(f"{_Q}created", "")),
            agent=root.findtext(f"{_Q}agent") == "yes",
            addresses=tuple(
                (item.get("mac", ""), item.get("network", ""), item.text or "")
                for item in root.iterfind(f"{_Q}address")
            ),
            settings=_texts(root.findtext(f"{_Q}settings")),
            volumes=tuple((str(tag), str(target)) for tag, target in json.loads(root.findtext(f"{_Q}volumes") or "[]")),
            renew=root.findtext(f"{_Q}renew", ""),
        )
    except (ValueError, TypeError):
        return None


def _texts(text: str | None) -> dict[str, str]:
    data = json.loads(text or "{}")
    if not isinstance(data, dict):
        raise ValueError("not an object")
    return {str(key): str(value) for key, value in data.items()}
