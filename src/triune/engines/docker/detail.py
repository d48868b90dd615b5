"""All that Docker knows of one container."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from triune.domain.errors import TriuneError
from triune.domain.instance import Instance, InstanceDetail, Origin
from triune.engines.docker import containers, ports, spec
from triune.engines.docker.client import DockerClient
from triune.engines.docker.containers import Described
from triune.engines.docker.counters import Counters
from triune.engines.docker.inventory import ENGINE, Inventory, Limits
from triune.host import net

_OWN_KERNELS = {"runsc": "gVisor (own, in user space)", "kata": "Kata (own, in a VM)"}


def detail(client: DockerClient, inventory: Inventory, counters: Counters, name: str) -> InstanceDetail:
    """Inspect it. Raises NotFound, Unreachable."""
    found = containers.describe(client, name)
    limits = inventory.note(found)
    container = str(found["Id"])
    state = found["State"]
    stats = counters.one(container) if state.get("Running") else None
    started = containers.timestamp(state.get("StartedAt"))
    labels = _labels(found)
    return InstanceDetail(
        instance=_row(found, name, limits),
        restarts=int(found.get("RestartCount") or 0),
        uptime_s=(datetime.now(UTC) - started).total_seconds() if state.get("Running") and started else None,
        memory_used_bytes=stats.memory_bytes if stats else None,
        disk_used_bytes=_disk_used(client, container),
        kernel=_kernel(found),
        isolation=isolation(found, client.read(lambda api: api.info()).get("SecurityOptions") or ()),
        network=_network(found),
        devices=tuple(_mount(mount) for mount in found.get("Mounts") or ()),
        settings=_mapping(labels.get(spec.SETTINGS)),
        command=_command(found),
    )


def _labels(found: Described) -> Mapping[str, str]:
    return (found.get("Config") or {}).get("Labels") or {}


def _row(found: Described, name: str, limits: Limits) -> Instance:
    labels = _labels(found)
    managed = labels.get(spec.MANAGED) == "1"
    state = found["State"]
    word = str(state.get("Status", ""))
    made = containers.timestamp(labels.get(spec.CREATED)) if managed else None
    return Instance(
        name=name,
        engine=ENGINE,
        state=containers.state_of(word),
        origin=Origin.MANAGED if managed else Origin.ADOPTED,
        image=labels.get(spec.IMAGE) if managed else (found.get("Config") or {}).get("Image"),
        addresses=containers.addresses((found.get("NetworkSettings") or {}).get("Networks")),
        created=made or _whole_seconds(containers.timestamp(found.get("Created"))),
        cpus=limits.cpus,
        memory_bytes=limits.memory,
        error=containers.error_of(word, str(state.get("Error") or "")),
    )


def _whole_seconds(moment: datetime | None) -> datetime | None:
    """As exact as Docker's list has it, so that both show the same."""
    return moment.replace(microsecond=0) if moment else None


def _disk_used(client: DockerClient, container: str) -> int | None:
    """Size of its own layer; Docker walks the layer for it."""
    try:
        entries = client.read(lambda api: api.containers(all=True, size=True, filters={"id": container}))
    except TriuneError:
        return None
    return int(entries[0].get("SizeRw") or 0) if entries else None


def _runtime(found: Described) -> str:
    return str((found.get("HostConfig") or {}).get("Runtime") or "runc")


def _kernel(found: Described) -> str:
    runtime = _runtime(found)
    return next((kernel for part, kernel in _OWN_KERNELS.items() if part in runtime), os.uname().release)


def isolation(found: Described, engine_options: Any) -> dict[str, Any]:
    """What stands between the container and the host. `engine_options` are the engine's `SecurityOptions`."""
    host = found.get("HostConfig") or {}
    own = [str(option) for option in host.get("SecurityOpt") or ()]
    engine = [str(option).partition(",")[0].removeprefix("name=") for option in engine_options]
    privileged = bool(host.get("Privileged"))
    seccomp = "seccomp" in engine and not privileged and "seccomp=unconfined" not in own
    profile = str(found.get("AppArmorProfile") or "")
    mapped = "rootless" in engine or ("userns" in engine and host.get("UsernsMode") != "host")
    runtime = _runtime(found)
    layers = ["user namespace"] if mapped else []
    layers += ["namespaces"] + (["seccomp"] if seccomp else []) + (["AppArmor"] if profile and not privileged else [])
    kernel = next((text for part, text in _OWN_KERNELS.items() if part in runtime), None)
    boundary = "privileged: hardly any" if privileged and not mapped else ", ".join(layers)
    return {
        "kernel": "own" if kernel else "shared",
        "boundary": f"{kernel}, {boundary}" if kernel else boundary,
        "privileged": privileged,
        "capabilities": {"add": list(host.get("CapAdd") or ()), "drop": list(host.get("CapDrop") or ())},
        "seccomp": seccomp,
        "apparmor": profile or None,
        "runtime": runtime,
        "read_only": bool(host.get("ReadonlyRootfs")),
        "no_new_privileges": "no-new-privileges" in own or "no-new-privileges" in engine,
        "user_namespace": mapped,
    }


def _network(found: Described) -> tuple[Mapping[str, Any], ...]:
    settings = found.get("NetworkSettings") or {}
    host = found.get("HostConfig") or {}
    published = [str(publish) for publish in ports.wanted(host)]
    ends = _host_ends(settings) if found["State"].get("Running") else {}
    cards = []
    for network, endpoint in (settings.get("Networks") or {}).items():
        mac = endpoint.get("MacAddress") or (found.get("Config") or {}).get("MacAddress") or None
        cards.append(
            {
                "network": network,
                "interface": ends.get(mac),
                "mac": mac,
                "addresses": list(containers.addresses({network: endpoint})),
                "published": published,
            }
        )
    return tuple(cards)


def _host_ends(settings: Mapping[str, Any]) -> Mapping[str | None, str]:
    """The host's end of each card, by the card's MAC. Docker does not tell it, but in which namespace the other is."""
    sandbox = settings.get("SandboxKey")
    return dict(net.partners(Path(sandbox)).items()) if sandbox else {}


def _mount(mount: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": "mount",
        "kind": mount.get("Type"),
        "source": mount.get("Name") or mount.get("Source"),
        "target": mount.get("Destination"),
        "read_only": not mount.get("RW", True),
    }


def _mapping(text: str | None) -> dict[str, str]:
    try:
        data = json.loads(text or "{}")
    except ValueError:
        return {}
    return {str(key): str(value) for key, value in data.items()} if isinstance(data, dict) else {}


def _command(found: Described) -> tuple[str, ...]:
    config = found.get("Config") or {}
    return tuple(str(word) for word in [*(config.get("Entrypoint") or ()), *(config.get("Cmd") or ())])
