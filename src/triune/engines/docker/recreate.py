"""From Docker's description of a container to the request that makes another one like it. Pure.

Docker can't give an existing container another image, so a restore makes a new one with the same configuration, and a
clone one with another identity. Field names are the Docker Engine API's (v1.41 to v1.44).
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from triune.domain.network import Nic
from triune.engines.docker import spec
from triune.engines.docker.containers import Described

# Of a clone: the volumes that were made for it alone.
OWN_VOLUMES = "triune.own-volumes"
_NOT_OURS = ("container:", "host", "none")
_DEFAULT = ("", "default", "bridge")


def same(found: Described, image: str) -> dict[str, Any]:
    """The request for a container exactly like this one, on another image. It takes over its anonymous volumes."""
    body = _body(found, image)
    if (body.get("Labels") or {}).get(spec.MANAGED) == "1":
        body["Labels"] = spec.label_limits(body["Labels"], body["HostConfig"])
    if any(is_anonymous(found, mount) for mount in found.get("Mounts") or ()):
        # An anonymous volume that is named in a request is one no longer, and would outlive the container.
        body["HostConfig"]["VolumesFrom"] = [str(found["Id"])]
    body["HostConfig"]["Mounts"] = [one for one in body["HostConfig"].get("Mounts") or () if one.get("Source")]
    first = next(iter(_endpoints(found)), None)
    if first is not None:
        body["NetworkingConfig"] = {"EndpointsConfig": {first: _endpoints(found)[first]}}
    return body


def further_networks(found: Described) -> Mapping[str, Mapping[str, Any]]:
    """The networks to connect it to afterwards: a request may only name one."""
    return dict(list(_endpoints(found).items())[1:])


def another(
    found: Described,
    image: str,
    *,
    name: str,
    created: datetime,
    machine_id: str,
    nics: tuple[Nic, ...],
    volumes: Mapping[str, str],
    endpoint_mac: bool,
) -> dict[str, Any]:
    """The request for a copy under a new identity. `volumes` maps names of its volumes to those of the copy's own.

    Ports are not published again; anonymous volumes become new ones; host folders are shared.
    """
    body = _body(found, image)
    host = body["HostConfig"]
    if body.get("Hostname") is not None:
        body["Hostname"] = name
    body["Env"] = [_identified(word, machine_id) for word in body.get("Env") or ()]
    body["Labels"] = _labels(body, old=str((found.get("Config") or {}).get("Image") or ""), created=created)
    body["Labels"] = spec.label_limits(body["Labels"], host)
    if volumes:
        body["Labels"][OWN_VOLUMES] = json.dumps(sorted(volumes.values()))
    host["PortBindings"] = {}
    host["PublishAllPorts"] = False
    host["Binds"] = [_bound(bind, volumes) for bind in host.get("Binds") or ()]
    host["Mounts"] = [_mounted(mount, volumes) for mount in host.get("Mounts") or ()]
    body.pop("MacAddress", None)
    _connect(body, nics, endpoint_mac=endpoint_mac)
    return body


def _body(found: Described, image: str) -> dict[str, Any]:
    body: dict[str, Any] = copy.deepcopy(dict(found["Config"]))
    body["Image"] = image
    host: dict[str, Any] = copy.deepcopy(dict(found["HostConfig"]))
    host.pop("VolumesFrom", None)
    mode = str(host.get("NetworkMode") or "")
    if mode.startswith("container:"):
        for key in ("Hostname", "ExposedPorts", "MacAddress"):
            body.pop(key, None)
    if host.get("UTSMode") == "host":
        body.pop("Hostname", None)
    body["HostConfig"] = host
    return body


def _endpoints(found: Described) -> dict[str, dict[str, Any]]:
    mode = str((found.get("HostConfig") or {}).get("NetworkMode") or "")
    if mode.startswith(_NOT_OURS):
        return {}
    networks: Mapping[str, Any] = (found.get("NetworkSettings") or {}).get("Networks") or {}
    first = "bridge" if mode in _DEFAULT else mode
    ordered = sorted(networks, key=lambda name: (name != first, name))
    short = str(found["Id"])[:12]
    return {name: _endpoint(networks[name] or {}, short) for name in ordered}


def _endpoint(endpoint: Mapping[str, Any], short: str) -> dict[str, Any]:
    kept = {key: endpoint.get(key) for key in ("IPAMConfig", "Links", "DriverOpts") if endpoint.get(key)}
    # Docker adds the short id of each container as a name of it.
    aliases = [alias for alias in endpoint.get("Aliases") or () if alias != short]
    return {**kept, **({"Aliases": aliases} if aliases else {})}


def is_anonymous(found: Described, mount: Mapping[str, Any]) -> bool:
    """Whether a mount is a volume that Docker named, and that goes with its container."""
    if mount.get("Type") != "volume":
        return False
    host = found.get("HostConfig") or {}
    named = {str(bind).partition(":")[0] for bind in host.get("Binds") or ()}
    named |= {str(one.get("Source")) for one in host.get("Mounts") or () if one.get("Source")}
    return str(mount.get("Name")) not in named


def _identified(word: str, machine_id: str) -> str:
    key = word.partition("=")[0]
    return f"{key}={machine_id}" if key == spec.MACHINE_ID and machine_id else word


def _labels(body: Mapping[str, Any], *, old: str, created: datetime) -> dict[str, str]:
    labels = {str(key): str(value) for key, value in (body.get("Labels") or {}).items()}
    labels.pop(OWN_VOLUMES, None)
    # What another tool made becomes one of ours, as far as its settings are known.
    labels.setdefault(spec.IMAGE, old)
    labels.setdefault(spec.SETTINGS, "{}")
    labels.setdefault(spec.COMMAND, "[]")
    return {**labels, spec.MANAGED: "1", spec.CREATED: created.isoformat()}


def _bound(bind: str, volumes: Mapping[str, str]) -> str:
    source, colon, rest = str(bind).partition(":")
    return f"{volumes.get(source, source)}{colon}{rest}"


def _mounted(mount: Mapping[str, Any], volumes: Mapping[str, str]) -> dict[str, Any]:
    source = mount.get("Source")
    return {**mount, **({"Source": volumes.get(str(source), source)} if source else {})}


def _connect(body: dict[str, Any], nics: tuple[Nic, ...], *, endpoint_mac: bool) -> None:
    host = body["HostConfig"]
    mode = str(host.get("NetworkMode") or "")
    if not nics:
        if not mode.startswith(_NOT_OURS):
            host["NetworkMode"] = mode or "default"
        return
    nic = nics[0]
    endpoint: dict[str, Any] = {"IPAMConfig": {"IPv4Address": nic.address}}
    host["NetworkMode"] = nic.network.name
    host["Dns"] = [nic.network.gateway]
    host["DnsSearch"] = [nic.network.domain]
    if endpoint_mac:
        endpoint["MacAddress"] = nic.mac
    else:
        body["MacAddress"] = nic.mac
    body["NetworkingConfig"] = {"EndpointsConfig": {nic.network.name: endpoint}}
