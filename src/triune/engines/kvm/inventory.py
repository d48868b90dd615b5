"""Domains as rows and details: what `list` and `show` tell, read live from libvirt and /proc."""

from __future__ import annotations

import contextlib
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from triune.domain.errors import NotFound, TriuneError
from triune.domain.instance import Instance, InstanceDetail, Origin, State
from triune.engines.kvm import mark as marks
from triune.engines.kvm import process, tuning
from triune.engines.kvm.agent import Agent
from triune.engines.kvm.client import PATIENCE, Client, library
from triune.engines.kvm.names import is_template
from triune.engines.kvm.spec import AGENT_PORT

ENGINE = "kvm"

# virDomainState → our state (libvirt-domain.h)
_STATES = {
    1: State.RUNNING, 2: State.RUNNING, 3: State.PAUSED, 4: State.RUNNING, 5: State.STOPPED, 6: State.ERROR,
    7: State.PAUSED,
}  # fmt: skip
_PAUSED, _SHUTOFF, _CRASHED = 3, 5, 6
# (state, reason) that mean trouble
_TROUBLE = {
    (_PAUSED, 5): "a disk error has paused it (a full disk?)",
    (_PAUSED, 10): "its guest has crashed",
    (_SHUTOFF, 3): "its QEMU process has crashed",
}


def rows(client: Client) -> Sequence[Instance]:
    """Every domain of the host."""

    def work(connection: Any) -> list[Instance]:
        virt = library()
        found = []
        for domain in connection.listAllDomains(0):
            # one that is gone meanwhile is simply not there
            with contextlib.suppress(virt.libvirtError):
                if not is_template(domain.name()):
                    found.append(_row_of(domain))
        return found

    return client.call(work, seconds=PATIENCE)


def named(client: Client, name: str) -> Instance:
    """One domain's row. Raises NotFound, for a template too: no list shows it."""
    if is_template(name):
        raise NotFound("instance_not_found", f"{name} is a template", hint="See what there is: triune list")
    domain = client.domain(name)
    with client.errors(name):
        return _row_of(domain)


def _row_of(domain: Any) -> Instance:
    return row(ET.fromstring(domain.XMLDesc(0)), *domain.state(0))  # noqa: S314 - from libvirt


def row(root: ET.Element, state: int, reason: int) -> Instance:
    """One domain's row."""
    mark = marks.read(root)
    on = state not in (_SHUTOFF, _CRASHED)
    trouble = _TROUBLE.get((state, reason)) or ("its guest has crashed" if state == _CRASHED else None)
    return Instance(
        name=root.findtext("name", ""),
        engine=ENGINE,
        state=State.ERROR if trouble else _STATES.get(state, State.ERROR),
        origin=Origin.MANAGED if mark else Origin.ADOPTED,
        image=mark.image if mark else None,
        # A reservation is no address that could be reached.
        addresses=tuple(address for *_, address in mark.addresses if address) if mark and on else (),
        created=mark.created if mark else None,
        cpus=tuning.cpus(root),
        memory_bytes=tuning.memory(root),
        accelerated=root.get("type") == "kvm",
        error=trouble or (None if state in _STATES else "libvirt does not know its state"),
    )


def detail(client: Client, name: str, kernels: dict[str, str]) -> InstanceDetail:
    """Everything known of one domain. `kernels` keeps the guests' kernels by boot, as asking costs a second."""
    domain = client.domain(name)
    with client.errors(name):
        root = ET.fromstring(domain.XMLDesc(0))  # noqa: S314 - from libvirt
        base = row(root, *domain.state(0))
        active = bool(domain.isActive())
    mark = marks.read(root)
    pid = process.find(domain.UUIDString(), name) if active else None
    cards = _network(client, domain, root, mark, active=active)
    if active and not base.addresses:
        seen = tuple(dict.fromkeys(address for card in cards for address in card["addresses"]))
        base = _with_addresses(base, seen)
    usage = process.usage(pid) if pid is not None else process.Usage()
    kernel = None
    if base.state is State.RUNNING and agent_connected(root):
        key = f"{domain.UUIDString()}/{pid}/{usage.started}"
        kernel = kernels.get(key) or _ask_kernel(client, domain, name)
        if kernel is not None:
            kernels[key] = kernel
    return InstanceDetail(
        instance=base,
        restarts=None,  # libvirt does not count them
        uptime_s=usage.uptime_s,
        memory_used_bytes=usage.memory,
        disk_used_bytes=_disk_used(root, mark is not None),
        kernel=kernel,
        isolation=_isolation(root, pid),
        network=cards,
        devices=_devices(root),
        settings=dict(mark.settings) if mark else {},
    )


def _with_addresses(base: Instance, addresses: tuple[str, ...]) -> Instance:
    from dataclasses import replace

    return replace(base, addresses=addresses)


def agent_connected(root: ET.Element) -> bool:
    """Whether the guest has opened the agent's port."""
    return any(
        target.get("name") == AGENT_PORT and target.get("state") == "connected"
        for target in root.iterfind("devices/channel/target")
    )


def _ask_kernel(client: Client, domain: Any, name: str) -> str | None:
    try:
        answer = Agent(client, domain, name).ask("guest-get-osinfo", timeout=1)
    except TriuneError:
        return None
    release = answer.get("kernel-release") if isinstance(answer, dict) else None
    return "".join(char for char in release if char.isprintable())[:120] if isinstance(release, str) else None


def _network(
    client: Client, domain: Any, root: ET.Element, mark: marks.Mark | None, *, active: bool
) -> tuple[Mapping[str, Any], ...]:
    ours = {mac.lower(): (network, address) for mac, network, address in mark.addresses} if mark else {}
    cards = []
    seen: dict[str, list[str]] | None = None
    for interface in root.iterfind("devices/interface"):
        mac = _attribute(interface, "mac", "address").lower()
        network, address = ours.get(mac, ("", ""))
        addresses = [address] if address else []
        if active and not addresses:
            seen = _addresses(client, domain, root) if seen is None else seen
            addresses = seen.get(mac, [])
        source = interface.find("source")
        bridge = (source.get("bridge") or source.get("network") or "") if source is not None else ""
        cards.append(
            {
                "network": network or bridge,
                "interface": _attribute(interface, "target", "dev") or None,
                "bridge": bridge or None,
                "mac": mac,
                "addresses": addresses,
                "published": [],
            }
        )
    return tuple(cards)


def _addresses(client: Client, domain: Any, root: ET.Element) -> dict[str, list[str]]:
    """Addresses by MAC, from the first source that knows any: agent, DHCP lease, ARP table."""
    virt = library()
    sources = [virt.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_LEASE, virt.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_ARP]
    if agent_connected(root):
        sources.insert(0, virt.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_AGENT)
    del client
    for source in sources:
        try:
            interfaces = domain.interfaceAddresses(source)
        except virt.libvirtError:
            continue
        found: dict[str, list[str]] = {}
        for interface in interfaces.values():
            for item in interface.get("addrs") or ():
                address = str(item.get("addr", ""))
                if address and not address.lower().startswith("fe80:"):
                    found.setdefault(str(interface.get("hwaddr", "")).lower(), []).append(address)
        if found:
            return found
    return {}


def _attribute(parent: ET.Element, path: str, name: str) -> str:
    element = parent.find(path)
    return element.get(name, "") if element is not None else ""


def _disk_used(root: ET.Element, managed: bool) -> int | None:
    """Allocated bytes of the domain's own files; a shared base image is not its own."""
    total, any_file = 0, False
    for disk in root.iterfind("devices/disk"):
        path = _attribute(disk, "source", "file")
        if not path or (disk.get("device") != "disk" and not managed) or disk.find("readonly") is not None:
            continue
        with contextlib.suppress(OSError):
            total += Path(path).stat().st_blocks * 512
            any_file = True
    return total if any_file else None


def _isolation(root: ET.Element, pid: int | None) -> dict[str, Any]:
    accelerated = root.get("type") == "kvm"
    facts: dict[str, Any] = {
        "kernel": "own",
        "boundary": "own kernel (KVM)" if accelerated else "own kernel (emulated)",
        "privileged": False,
    }
    if pid is not None:
        facts.update(process.confinement(pid))
    return facts


def _disk(disk: ET.Element) -> dict[str, Any]:
    source = disk.find("source")
    keys = ("file", "dev", "name")
    return {
        "type": disk.get("device", "disk"),
        "source": next((source.get(key) for key in keys if source.get(key)), None) if source is not None else None,
        "target": _attribute(disk, "target", "dev"),
        "bus": _attribute(disk, "target", "bus"),
        "format": _attribute(disk, "driver", "type"),
        "base": _attribute(disk, "backingStore/source", "file") or None,
    }


def _devices(root: ET.Element) -> tuple[Mapping[str, Any], ...]:
    devices = [_disk(disk) for disk in root.iterfind("devices/disk")]
    for share in root.iterfind("devices/filesystem"):
        devices.append(
            {
                "type": "mount",
                "source": _attribute(share, "source", "dir"),
                "target": _attribute(share, "target", "dir"),
            }
        )
    for serial in root.iterfind("devices/serial"):
        devices.append(
            {
                "type": "serial",
                "source": _attribute(serial, "source", "path") or None,
                "target": f"ttyS{_attribute(serial, 'target', 'port')}",
            }
        )
    for graphics in root.iterfind("devices/graphics"):
        port = graphics.get("port")
        devices.append(
            {
                "type": "graphics",
                "source": graphics.get("type"),
                "target": f"{graphics.get('listen') or '127.0.0.1'}:{port}",
            }
        )
    return tuple(devices)
