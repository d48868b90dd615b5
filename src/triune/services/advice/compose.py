"""A Compose file as a workload: a part for each service. Values of variables are never taken along."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from triune.domain.errors import Invalid
from triune.domain.workload import MOST_PARTS
from triune.services.advice.seen import Seen, folder_access, plain

_WAYS = {"network_mode": "host-network", "pid": "host-pid"}
_READ = frozenset(
    (
        *("image", "build", "platform", "privileged", "network_mode", "pid", "volumes", "ports", "devices", "cap_add"),
        *("deploy", "mem_limit", "cpus", "scale", "runtime", "gpus", "read_only", "container_name"),
    )
)
# Says nothing about where it should run.
_HARMLESS = frozenset(
    (
        *("command", "entrypoint", "environment", "env_file", "restart", "depends_on", "networks", "labels", "logging"),
        *("healthcheck", "hostname", "user", "working_dir", "expose", "stop_grace_period", "init", "tty", "stdin_open"),
        *("profiles", "secrets", "configs", "dns", "extra_hosts", "ulimits"),
    )
)


def from_compose(data: object) -> Seen:
    """Read a Compose file's contents (as YAML gives them). Raises Invalid("bad_compose") where it has no services."""
    services = data.get("services") if isinstance(data, Mapping) else None
    if not isinstance(services, Mapping) or not services:
        raise Invalid("bad_compose", "the Compose file has no services", hint="Is it the right file?")
    if len(services) > MOST_PARTS:
        raise Invalid(
            "bad_compose", f"the Compose file has {len(services)} services", hint=f"Give at most {MOST_PARTS}."
        )
    parts, notes = [], []
    for name, service in services.items():
        if not isinstance(service, Mapping):
            raise Invalid("bad_compose", f"the service {name!r} is no mapping", hint="Check it: docker compose config")
        parts.append({"name": plain(str(name), 63), **_part(service)})
        unread = sorted(str(key) for key in service if key not in _READ | _HARMLESS and not str(key).startswith("x-"))
        if unread:
            notes.append(f"{plain(str(name), 63)}: not looked at: {plain(', '.join(unread))}")
    whole = plain(str(data.get("name") or ""), 63) if isinstance(data, Mapping) else ""
    return Seen({"name": whole, "orchestration": "compose", "parts": parts}, tuple(notes))


def _part(service: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {"packaging": "oci-image"}
    if isinstance(service.get("image"), str):
        found["image"] = f"docker:{plain(service['image'])}"
    if "build" in service:
        found["ci"] = True
    platform = str(service.get("platform") or "")
    if platform.startswith("windows"):
        found = {"os": "windows"}
    elif "/" in platform:
        found["architecture"] = plain(platform.split("/")[1])
    access = {way for key, way in _WAYS.items() if service.get(key) == "host"}
    access |= {folder_access(source) for source, _ in _mounts(service)} - {""}
    named = [f"{source}:{target}" for source, target in _mounts(service) if source and not folder_access(source)]
    if named or _mounts(service):
        found["state"] = "data"
    elif service.get("read_only") is True:
        found["state"] = "stateless"
    found |= {key: value for key, value in (("host_access", sorted(access)), ("volumes", named)) if value}
    return found | _rights(service) | _amounts(service)


def _mounts(service: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(source, target) of each; source "" for one without a name."""
    return [(plain(source), plain(target)) for source, target in _each_mount(service.get("volumes"))]


def _each_mount(volumes: object) -> Iterator[tuple[str, str]]:
    for volume in volumes if isinstance(volumes, list) else ():
        if isinstance(volume, Mapping) and volume.get("type") in (None, "bind", "volume"):
            yield str(volume.get("source") or ""), str(volume.get("target") or "")
        elif isinstance(volume, str):
            source, colon, rest = volume.partition(":")
            yield (source, rest.split(":")[0]) if colon else ("", source)


def _rights(service: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if service.get("privileged") is True:
        found["privileged"] = True
    capabilities = service.get("cap_add")
    if isinstance(capabilities, list) and {"SYS_MODULE", "CAP_SYS_MODULE"} & set(map(str, capabilities)):
        found["kernel_modules"] = ["those it loads (cap_add SYS_MODULE)"]
    devices = service.get("devices")
    if isinstance(devices, list):
        found["devices"] = [plain(str(device).partition(":")[0]) for device in devices]
    reserved = _inner(service, "deploy", "resources", "reservations", "devices")
    asked = [
        name
        for one in (reserved if isinstance(reserved, list) else ())
        if isinstance(one, Mapping)
        for name in one.get("capabilities") or ()
    ]
    if "gpu" in asked or service.get("gpus") or service.get("runtime") == "nvidia":
        found["gpu"] = "shared"
    return found


def _amounts(service: Mapping[str, Any]) -> dict[str, Any]:
    limits = _inner(service, "deploy", "resources", "limits")
    limits = limits if isinstance(limits, Mapping) else {}
    memory = limits.get("memory") or service.get("mem_limit")
    found: dict[str, Any] = {"memory": memory, "cpus": limits.get("cpus") or service.get("cpus")}
    copies = _inner(service, "deploy", "replicas") or service.get("scale")
    if isinstance(copies, int) and copies > 1:
        found |= {"instances": copies, "scale_out": True}
    ports = service.get("ports")
    if isinstance(ports, list):
        found["publish"] = [text for port in ports if (text := _port(port))]
    # A variable ($MEMORY) has its value elsewhere.
    return {key: value for key, value in found.items() if value not in (None, []) and "$" not in str(value)}


def _port(port: object) -> str:
    """As --publish takes it; "" for a port without a place on the host."""
    if isinstance(port, Mapping):
        host, guest = port.get("published"), port.get("target")
        return f"{host}:{guest}" if host and guest else ""
    text = plain(str(port))
    return text if ":" in text and "$" not in text and "-" not in text else ""


def _inner(data: Mapping[str, Any], *keys: str) -> Any:
    found: Any = data
    for key in keys:
        if not isinstance(found, Mapping):
            return None
        found = found.get(key)
    return found
