"""A snapshot as libvirt's XML, and what we keep in its description. Format: libvirt.org/formatsnapshot.html.

The description is the comment, then for what libvirt has no place for a last line `triune: {JSON}` with `created`,
`consistency`, `expires` and `schedule`. Snapshots without it were made by other tools.
"""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from triune.domain.snapshot import Consistency, Snapshot
from triune.engines.kvm.drives import Drive

_LINE = "triune: "
_RUNNING = ("running", "paused", "pmsuspended")


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """A snapshot as libvirt tells it. `external`: in files of its own, not inside the disks."""

    snapshot: Snapshot
    external: bool
    disks: tuple[str, ...]


def describe(snapshot: Snapshot) -> str:
    """The description."""
    data: dict[str, str] = {"created": snapshot.created.isoformat(), "consistency": snapshot.consistency.value}
    if snapshot.expires is not None:
        data["expires"] = snapshot.expires.isoformat()
    if snapshot.schedule:
        data["schedule"] = snapshot.schedule
    line = _LINE + json.dumps(data)
    return f"{snapshot.comment}\n{line}" if snapshot.comment else line


def build(snapshot: Snapshot, drives: Sequence[Drive], others: Sequence[str]) -> ET.Element:
    """What a snapshot with the running state is made of; `others` are the disks that it leaves alone."""
    root = ET.Element("domainsnapshot")
    ET.SubElement(root, "name").text = snapshot.name
    ET.SubElement(root, "description").text = describe(snapshot)
    ET.SubElement(root, "memory", {"snapshot": "internal" if snapshot.memory else "no"})
    disks = ET.SubElement(root, "disks")
    for drive in drives:
        ET.SubElement(disks, "disk", {"name": drive.target, "snapshot": "internal"})
    for target in others:
        ET.SubElement(disks, "disk", {"name": target, "snapshot": "no"})
    return root


def recorded(snapshot: Snapshot, drives: Sequence[Drive], others: Sequence[str], domain: ET.Element) -> str:
    """What tells libvirt of a snapshot of the disks alone, that is there already. `domain`: as it is defined."""
    root = build(snapshot, drives, others)
    # Putting back what was taken from a running guest without its memory gives a stopped one.
    ET.SubElement(root, "state").text = "shutoff"
    ET.SubElement(root, "creationTime").text = str(int(snapshot.created.timestamp()))
    if snapshot.parent is not None:
        ET.SubElement(ET.SubElement(root, "parent"), "name").text = snapshot.parent
    root.append(domain)
    return ET.tostring(root, encoding="unicode")


def read(text: str) -> Read:
    """One of libvirt's, made by whatever tool."""
    root = ET.fromstring(text)  # noqa: S314 - from libvirt
    state = root.findtext("state", "")
    comment, ours = _described(root.findtext("description") or "")
    with_memory = _attribute(root, "memory") in ("internal", "external")
    disks = list(root.iterfind("disks/disk"))
    snapshot = Snapshot(
        name=root.findtext("name", ""),
        created=_when(ours.get("created")) or datetime.fromtimestamp(int(root.findtext("creationTime") or 0), UTC),
        consistency=_consistency(ours.get("consistency"), state, with_memory=with_memory),
        memory=with_memory,
        parent=root.findtext("parent/name"),
        expires=_when(ours.get("expires")),
        schedule=str(ours.get("schedule", "")),
        comment=comment,
    )
    external = _attribute(root, "memory") == "external" or any(disk.get("snapshot") == "external" for disk in disks)
    inside = tuple(disk.get("name", "") for disk in disks if disk.get("snapshot") == "internal")
    return Read(snapshot=snapshot, external=external, disks=inside)


def _attribute(root: ET.Element, tag: str) -> str:
    element = root.find(tag)
    return element.get("snapshot", "") if element is not None else ""


def _described(text: str) -> tuple[str, dict[str, Any]]:
    comment, _, line = text.rpartition("\n")
    if line.startswith(_LINE):
        try:
            data = json.loads(line.removeprefix(_LINE))
        except (ValueError, RecursionError):
            data = None
        if isinstance(data, dict):
            return comment, data
    return text, {}


def _when(text: object) -> datetime | None:
    try:
        when = datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        return None
    return when.replace(tzinfo=UTC) if when is not None and when.tzinfo is None else when


def _consistency(text: object, state: str, *, with_memory: bool) -> Consistency:
    if with_memory:
        return Consistency.MEMORY
    if isinstance(text, str) and text in tuple(Consistency):
        return Consistency(text)
    return Consistency.CRASH if state in (*_RUNNING, "disk-snapshot") else Consistency.STOPPED
