"""From what a backup says of a container to the body of Docker's "create container" request. Pure."""

from __future__ import annotations

import copy
import secrets
from collections.abc import Collection, Mapping
from typing import Any

from triune.domain.errors import Failed
from triune.domain.names import instance_name
from triune.engines.archiving import RestorePlan
from triune.engines.docker import spec

CREATED = spec.CREATED
RESTORED = "triune.restored"
"""Of a volume that a restore made: when, as the container's own mark says it."""

# What is this host's, or comes with the network and the volumes of the new container.
_LEFT_OUT = frozenset(
    {
        *("Binds", "Mounts", "VolumesFrom", "ContainerIDFile", "Links", "NetworkMode", "PortBindings", "Dns"),
        *("DnsSearch", "AutoRemove", "CgroupParent", "Cgroup", "ConsoleSize", "Annotations"),
    }
)


def volumes(described: Mapping[str, object]) -> list[Mapping[str, Any]]:
    """The volumes of a description: `{part, name, destination, read_only, anonymous}` each."""
    found = described.get("volumes")
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def create_body(plan: RestorePlan, image: str, abilities: spec.Abilities, taken: Collection[str]) -> dict[str, Any]:
    """The request's body. `taken` are names of volumes that exist: theirs are left alone, and ours called otherwise.

    Raises Failed("bad_manifest") where the description has no configuration.
    """
    name = instance_name(plan.spec.name)
    config, host = plan.described.get("config"), plan.described.get("host")
    if not isinstance(config, dict) or not isinstance(host, dict):
        raise Failed(
            "bad_manifest", "the backup does not say how its container was made", hint="Look: triune backup list"
        )
    body = copy.deepcopy(config)
    before = body.get("Hostname")
    asked = plan.described.get("spec")
    old = asked.get("name") if isinstance(asked, dict) else None
    body["Hostname"] = name if before == old or _is_default(before) else before
    body["Image"] = image
    labels = {**(body.get("Labels") or {}), spec.MANAGED: "1", spec.CREATED: plan.created.isoformat()}
    labels[spec.IMAGE] = plan.image or str(config.get("Image") or image)
    labels.setdefault(spec.SETTINGS, "{}")
    labels.setdefault(spec.COMMAND, "[]")
    body["Labels"] = spec.label_limits(labels, host)
    own = {key: value for key, value in copy.deepcopy(host).items() if key not in _LEFT_OUT and value is not None}
    own["Binds"] = [bind for bind in host.get("Binds") or () if str(bind).startswith("/")]
    own["Mounts"] = [
        *(mount for mount in host.get("Mounts") or () if mount.get("Type") not in ("volume", "bind")),
        *_binds(plan, host),
        *(_mount(volume, name, plan, taken) for volume in volumes(plan.described)),
    ]
    network = spec.network_body(plan.nics, plan.spec, abilities)
    own |= network.pop("HostConfig")
    body.pop("MacAddress", None)
    return body | network | {"HostConfig": own}


def _binds(plan: RestorePlan, host: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Folders of this host: as the spec has them now; of what Triune did not make, as they were."""
    if plan.spec.volumes:
        return [spec.mount(volume) for volume in plan.spec.volumes]
    return [mount for mount in host.get("Mounts") or () if mount.get("Type") == "bind"]


def _is_default(hostname: object) -> bool:
    """Docker's own choice: the first characters of the container's id."""
    text = str(hostname or "")
    return len(text) == 12 and all(char in "0123456789abcdef" for char in text)


def _mount(volume: Mapping[str, Any], name: str, plan: RestorePlan, taken: Collection[str]) -> dict[str, Any]:
    """Docker makes the volume with the container; the label says that it is ours to fill, and to undo."""
    mount: dict[str, Any] = {
        "Type": "volume",
        "Target": str(volume["destination"]),
        "ReadOnly": bool(volume.get("read_only")),
        "VolumeOptions": {"NoCopy": True, "Labels": {RESTORED: plan.created.isoformat()}},
    }
    if not volume.get("anonymous"):
        wanted = str(volume["name"])
        for candidate in (wanted, f"{name}-{wanted}", f"{name}-{wanted}-{secrets.token_hex(4)}"):
            if candidate not in taken:
                mount["Source"] = candidate
                break
    return mount
