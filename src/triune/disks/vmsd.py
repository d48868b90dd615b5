"""Snapshots of a machine as its .vmsd lists them, and the machine's ids in its .vmxf.

Source of the formats: files that ESXi and Workstation wrote. A .vmsd has the form of a VMX: `snapshot0.uid = "1"`, …;
its times are microseconds since 1970 in two halves of 32 bits. A .vmxf is XML of which two elements matter.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from triune.disks.vmx import Vmx

_MOST_SNAPSHOTS = 1024
_MOST_DISKS = 1024
_LONGEST_VMXF = 1 << 20


@dataclass(frozen=True, slots=True)
class Snapshot:
    """`disks` are (slot, the file that holds the state): ("scsi0:0", "web.vmdk"). `created` in seconds since the epoch,
    0 where it is not told."""

    uid: int
    parent: int | None
    name: str
    description: str
    state: str
    created: float
    disks: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Snapshots:
    """All of them, in the file's order. `problems` are sentences about what doesn't fit together."""

    current: int | None
    snapshots: tuple[Snapshot, ...]
    problems: tuple[str, ...] = field(default=())


def snapshots(data: bytes) -> Snapshots:
    """Read a .vmsd. Raises Invalid("bad_vmx") where it is no text of that form."""
    vmx = Vmx.parse(data)
    found, problems = [], []
    told = _number(vmx, "snapshot.numSnapshots") or 0
    for index in range(min(told, _MOST_SNAPSHOTS)):
        uid = _number(vmx, f"snapshot{index}.uid")
        if uid is None:
            problems.append(f"snapshot {index} is listed without its number")
            continue
        found.append(_snapshot(vmx, index, uid))
    if told > _MOST_SNAPSHOTS:
        problems.append(f"it claims {told} snapshots: only {_MOST_SNAPSHOTS} were looked at")
    uids = {each.uid for each in found}
    problems += [
        f"the parent {each.parent} of snapshot {each.name!r} is missing"
        for each in found
        if each.parent is not None and each.parent not in uids
    ]
    current = _number(vmx, "snapshot.current")
    if current is not None and current not in uids and found:
        problems.append(f"the current snapshot {current} is missing")
    return Snapshots(current if current in uids else None, tuple(found), tuple(problems))


def _snapshot(vmx: Vmx, index: int, uid: int) -> Snapshot:
    lead = f"snapshot{index}"
    disks = []
    for number in range(min(_number(vmx, f"{lead}.numDisks") or 0, _MOST_DISKS)):
        if file := vmx.get(f"{lead}.disk{number}.fileName"):
            disks.append((vmx.get(f"{lead}.disk{number}.node"), file))
    high, low = _number(vmx, f"{lead}.createTimeHigh"), _number(vmx, f"{lead}.createTimeLow")
    micros = ((high or 0) & 0xFFFFFFFF) << 32 | (low or 0) & 0xFFFFFFFF
    return Snapshot(
        uid=uid,
        parent=_number(vmx, f"{lead}.parent"),
        name=vmx.get(f"{lead}.displayName"),
        description=vmx.get(f"{lead}.description"),
        state=vmx.get(f"{lead}.filename"),
        created=micros / 1e6 if high is not None else 0.0,
        disks=tuple(disks),
    )


def _number(vmx: Vmx, key: str) -> int | None:
    value = vmx.get(key)
    return int(value) if re.fullmatch(r"-?\d{1,12}", value, re.ASCII) else None


@dataclass(frozen=True, slots=True)
class MachineIds:
    """`vm_id` of the machine, and the name of its VMX; empty where they are not told."""

    vm_id: str
    vmx: str


def machine_ids(data: bytes) -> MachineIds:
    """Read a .vmxf. Never fails: no XML parser sees somebody else's entities."""
    text = data[:_LONGEST_VMXF].decode("utf-8", "replace")
    return MachineIds(_element(text, "VMId"), _element(text, "vmxPathName"))


def _element(text: str, name: str) -> str:
    found = re.search(rf"<{name}(?:\s[^<>]{{0,200}})?>([^<>]{{0,4096}})</{name}>", text)
    if not found:
        return ""
    plain = found[1]
    for entity, character in (("&lt;", "<"), ("&gt;", ">"), ("&quot;", '"'), ("&apos;", "'"), ("&amp;", "&")):
        plain = plain.replace(entity, character)
    return plain.strip()
