"""A VMX, and an instance of this host, as workloads."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from triune.disks.vmx import Vmx
from triune.domain.units import format_size
from triune.domain.workload import MOST_PARTS
from triune.host.serving import Service
from triune.services.advice.knowledge import programs
from triune.services.advice.seen import Seen, folder_access, guest_system, plain

_DEVICE = re.compile(r"pcipassthru\d+\.present")
_MIB = 2**20
_LEAST_MEMORY = 64 * _MIB


def from_vmx(data: bytes) -> Seen:
    """Read a machine of VMware's. Raises Invalid where it is none."""
    vmx = Vmx.parse(data)
    found: dict[str, Any] = {
        "name": plain(vmx.get("displayName"), 63),
        "packaging": "disk-image",
        "state": "system",
        "administration": "inside",
    }
    notes = []
    guest = vmx.get("guestOS")
    if guest:
        found["os"] = guest_system(guest)
    else:
        notes.append("the VMX names no guest system: Linux is assumed")
    for key, name, factor in (("memsize", "memory", _MIB), ("numvcpus", "cpus", 1)):
        text = vmx.get(key)
        if text.isascii() and text.isdigit() and 0 < int(text) <= 2**24:
            found[name] = int(text) * factor
    found.setdefault("memory", 256 * _MIB)  # VMware's own default
    true = {key.lower() for key, value, _ in vmx.items() if value.upper() == "TRUE"}
    if any(_DEVICE.fullmatch(key) for key in true):
        found["pci_passthrough"] = True
    if "vhv.enable" in true:
        found["vms_inside"] = True
    if vmx.encrypted:
        notes.append("the VMX is encrypted: only its name could be read")
    notes.append("its disks are brought over by `triune import`, whatever command stands below")
    return Seen(found, tuple(notes))


def from_instance(instance: Mapping[str, Any], host: Mapping[str, Any]) -> Seen:
    """An instance as the API tells it, on the host that the API tells."""
    isolation = instance.get("isolation") or {}
    engine: Mapping[str, Any] = next(
        (one for one in host.get("engines", ()) if one.get("name") == instance.get("engine")), {}
    )
    from_store = bool(((engine.get("facets") or {}).get("oci") or {}).get("available"))
    found: dict[str, Any] = {
        "name": instance["name"],
        "cpus": instance.get("cpus"),
        "memory": instance.get("memory_bytes"),
    }
    notes = [f"it runs as {instance.get('engine')} now"]
    if from_store:
        found |= {"packaging": "oci-image", "image": instance.get("image")}
    else:
        found |= {"state": "system", "administration": "inside"}
        found["init_system"] = True if isolation.get("kernel") == "shared" else None
    if isolation.get("kernel") == "own":
        notes.append("what its own system is cannot be seen from outside: say --os where it is not Linux")
    if isolation.get("privileged") is True:
        found["privileged"] = True
    mounts = [
        plain(str(one.get("source") or "")) for one in instance.get("devices") or () if one.get("type") == "mount"
    ]
    access = {folder_access(source) for source in mounts} - {""}
    found["host_access"] = sorted(access) or None
    if mounts and from_store:
        found["state"] = "data"
    published = [str(port) for card in instance.get("network") or () for port in card.get("published") or ()]
    found["publish"] = [port for port in published if re.fullmatch(r"[0-9.:]+(?:/(?:tcp|udp))?", port)] or None
    notes.append("one beside it needs a name of its own in the command")
    return Seen({key: value for key, value in found.items() if value is not None}, tuple(notes))


def from_host(
    instances: Sequence[Mapping[str, Any]], host: Mapping[str, Any], services: Sequence[Service] = ()
) -> Seen:
    """All instances of a host, and the programs that serve on the host itself, as parts: the first 64."""
    seen = [from_instance(instance, host) for instance in instances[:MOST_PARTS]]
    own, known = programs()
    theirs = [service for service in services if service.program not in own]
    seen += [_from_service(service, known.get(service.program)) for service in theirs[: MOST_PARTS - len(seen)]]
    total = len(instances) + len(theirs)
    notes = [f"the first {MOST_PARTS} of {total} instances and services were looked at"] if total > MOST_PARTS else []
    told = [f"{one.data['name']}: {note}" for one in seen for note in one.notes[:1]]
    return Seen({"parts": [dict(one.data) for one in seen]}, (*notes, *told))


def _from_service(service: Service, demands: Mapping[str, Any] | None) -> Seen:
    found: dict[str, Any] = {"name": plain(service.program, 63), **(demands or {})}
    found["publish"] = [_published(port) for port in service.ports]
    if service.memory is not None:
        found["memory"] = max(_LEAST_MEMORY, -(-2 * service.memory // _MIB) * _MIB)
    takes = "" if service.memory is None else f", with {format_size(service.memory)} of memory"
    note = f"it serves {', '.join(service.ports)} on the host itself{takes}"
    return Seen(found, (note if demands is not None else f"{note}; what it needs beyond that cannot be seen",))


def _published(port: str) -> str:
    """8080/tcp as `--publish` writes it."""
    number, _, protocol = port.partition("/")
    return f"{number}:{number}" + ("" if protocol == "tcp" else f"/{protocol}")
