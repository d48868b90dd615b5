"""From a launch plan to the body of Docker's "create container" request. Pure.

Field names are the Docker Engine API's (ContainerCreate, v1.41 to v1.44).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any

from triune.domain.errors import Invalid, Unsupported
from triune.domain.image import OciForm
from triune.domain.instance import HOST_NETWORK, InstanceSpec, VolumeMount
from triune.domain.names import instance_name, single_line
from triune.domain.network import Nic, Publish
from triune.engines.base import LaunchPlan
from triune.engines.docker import limit_config, runtimes, settings

MANAGED = "triune.managed"
IMAGE = "triune.image"
CREATED = "triune.created"
SETTINGS = "triune.settings"
COMMAND = "triune.command"
CPUS = "triune.cpus"
MEMORY = "triune.memory"
# Where volumes of pools are mounted, as a JSON list: in Docker's eyes they are folders of the host like any other.
VOLUMES = "triune.volumes"
# Of an image: a program in it that runs before the command, and gives the container its identity.
START = "triune.start"
MACHINE_ID = "container_uuid"  # as systemd's Container Interface calls it

# Programs that reap orphans and pass on signals themselves; a second init before them would not be PID 1's job.
_INITS = frozenset(
    {
        "init",
        "systemd",
        "docker-init",
        "tini",
        "dumb-init",
        "catatonit",
        "s6-svscan",
        "runit",
        "runsvdir",
        "openrc-init",
    }
)
_VOLUME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{1,254}", re.ASCII)
_ENV_KEY = re.compile(r"[^=\s]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Abilities:
    """What the engine at hand can do that changes the request.

    `endpoint_mac`: the card's MAC address belongs to the endpoint (API 1.44) instead of the container.
    `weight`: Docker takes the CPU's weight as we mean it (control groups v1).
    `disk_limit`: why a container's disk cannot be limited here, or None when it can.
    `runtimes`: those that the engine knows; None: nobody asked.
    """

    endpoint_mac: bool = False
    weight: bool = True
    disk_limit: str | None = "this storage driver cannot limit a container's disk"
    runtimes: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class ImageStart:
    """What an image runs by itself; `before` is its program that runs before any command."""

    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    before: str | None = None


def create_body(plan: LaunchPlan, image: ImageStart, abilities: Abilities) -> dict[str, Any]:
    """Return the request's body. `image` decides whether an init is put before the command.

    Raises Invalid or Unsupported for what Docker cannot do.
    """
    spec = plan.spec
    instance_name(spec.name)
    form = _form(plan)
    _refuse_user_data(plan)
    _refuse_pool(plan)
    config, host = settings.parse(spec.settings)
    if "Runtime" in host:
        host["Runtime"] = runtimes.known(host["Runtime"], abilities.runtimes)
    command = [_word(word) for word in spec.command]
    body: dict[str, Any] = {
        "Image": form.id,
        "Hostname": spec.name,
        "Env": _environment(spec.env),
        "Labels": _labels(plan),
        "ExposedPorts": {_port(publish): {} for publish in spec.publish},
        **({"Cmd": command} if command else {}),
        **config,
    }
    if image.before is not None and plan.machine_id and "Entrypoint" not in config and not image.entrypoint:
        # Docker forgets the image's own command where an entry point is given.
        body |= {"Entrypoint": [image.before], "Cmd": command or list(image.command)}
        body["Env"] = _environment({MACHINE_ID: plan.machine_id, **spec.env})
    runs = config.get("Entrypoint") or image.entrypoint or command or image.command
    host.setdefault("Init", not _is_init(runs))
    host.setdefault("RestartPolicy", {"Name": "no", "MaximumRetryCount": 0})
    host |= _limits(spec, abilities)
    host["Mounts"] = [mount(volume) for volume in spec.volumes]
    network = network_body(plan.nics, spec, abilities)
    host |= network.pop("HostConfig")
    return body | network | {"HostConfig": host}


def _form(plan: LaunchPlan) -> OciForm:
    if not isinstance(plan.form, OciForm):
        raise Unsupported(
            "form_missing",
            f"the image {plan.image} has no form for app containers",
            hint="Pull it with: triune image pull docker:NAME, or build one of your own: triune image build",
        )
    return plan.form


def _refuse_user_data(plan: LaunchPlan) -> None:
    if plan.user_data is not None:
        raise Unsupported(
            "no_cloud_init",
            "app containers run one command and no cloud-init, so user data would be ignored",
            hint="Leave it out and use --env or a volume, or launch with --engine lxc or kvm.",
        )


def _refuse_pool(plan: LaunchPlan) -> None:
    if plan.pool is not None:
        raise Unsupported(
            "pool_unsupported",
            "Docker keeps the roots of its containers in a place of its own, so they can't go to a pool",
            hint="Leave --pool out, and keep the data in volumes of the pool: --volume NAME:/path",
        )


def _environment(env: Mapping[str, str]) -> list[str]:
    for key in env:
        if not _ENV_KEY.fullmatch(single_line(key, "the name of an environment variable")):
            raise Invalid("bad_variable", f"{key!r} is no name for a variable", hint="Write it as KEY=VALUE.")
    return [f"{key}={single_line(value, f'the environment variable {key}')}" for key, value in env.items()]


def _word(word: str) -> str:
    """A word of a command; it is told in JSON, so that a line break in it does no harm."""
    if "\0" in word:
        raise Invalid("control_character", "the command contains a NUL character", hint="Remove it.")
    return word


def _labels(plan: LaunchPlan) -> dict[str, str]:
    spec = plan.spec
    labels = {
        MANAGED: "1",
        IMAGE: single_line(plan.image, "the image's name"),
        CREATED: plan.created.isoformat(),
        SETTINGS: json.dumps(dict(spec.settings), sort_keys=True),
        COMMAND: json.dumps(list(spec.command)),
    }
    labels |= _limit_labels(spec.cpus, spec.memory)
    if pooled := [single_line(one.target, "a volume's target") for one in spec.volumes if one.volume]:
        labels[VOLUMES] = json.dumps(pooled)
    return labels


def label_limits(labels: Mapping[str, str], host: Mapping[str, Any]) -> dict[str, str]:
    """The labels of one of ours with the limits of its HostConfig: those it had may be those of its launch."""
    limits = limit_config.limits_of(host, weight=False)
    kept = {key: value for key, value in labels.items() if key not in (CPUS, MEMORY)}
    return kept | _limit_labels(limits.cpus, limits.memory)


def _limit_labels(cpus: float | None, memory: int | None) -> dict[str, str]:
    """Docker's list tells no limits."""
    told = {CPUS: None if cpus is None else f"{cpus:g}", MEMORY: None if memory is None else str(memory)}
    return {label: value for label, value in told.items() if value is not None}


def words(text: str | None) -> tuple[str, ...]:
    """The JSON list of a label; () for anything else."""
    try:
        found = json.loads(text or "[]")
    except ValueError:
        return ()
    return tuple(str(word) for word in found) if isinstance(found, list) else ()


def _is_init(command: Sequence[str]) -> bool:
    return bool(command) and PurePosixPath(command[0]).name in _INITS


def _limits(spec: InstanceSpec, abilities: Abilities) -> dict[str, Any]:
    asked = replace(spec.limits, cpus=spec.cpus, memory=spec.memory)
    limits = limit_config.host_config(asked, weight=abilities.weight)
    if spec.disk is not None:
        if abilities.disk_limit is not None:
            raise Unsupported(
                "disk_limit_unsupported",
                f"Docker cannot limit the disk of {spec.name}: {abilities.disk_limit}",
                hint="Leave out --disk, or keep Docker's data on btrfs, zfs, or xfs mounted with pquota.",
            )
        limits["StorageOpt"] = {"size": str(spec.disk)}
    return limits


def mount(volume: VolumeMount) -> dict[str, Any]:
    """A host's folder, or a volume of Docker's own, as the request says it. Raises Invalid."""
    single_line(volume.source, "a volume's source")
    if volume.format:
        raise Unsupported(
            "disk_volume",
            f"the volume {volume.volume} is a disk, which only virtual machines can use",
            hint="Make a volume that is a folder: triune volume create NAME",
        )
    target = single_line(volume.target, "a volume's target")
    if not target.startswith("/") or PurePosixPath(target) == PurePosixPath("/"):
        raise Invalid("bad_volume", f"{target!r} is no place for a volume", hint="Write it as SOURCE:/absolute/path.")
    kind = "bind" if volume.source.startswith("/") else "volume"
    if kind == "volume" and not _VOLUME.fullmatch(volume.source):
        raise Invalid(
            "bad_volume",
            f"{volume.source!r} is neither an absolute folder of the host nor a volume's name",
            hint="Write it as NAME:/path or /folder:/path; a name has letters, digits, '_', '.' and '-'.",
        )
    return {"Type": kind, "Source": volume.source, "Target": target, "ReadOnly": volume.read_only}


def _port(publish: Publish) -> str:
    return f"{publish.guest_port}/{publish.protocol}"


def _bindings(ports: Sequence[Publish]) -> dict[str, list[dict[str, str]]]:
    bindings: dict[str, list[dict[str, str]]] = {}
    for publish in ports:
        binding = {"HostIp": publish.host_ip or "", "HostPort": str(publish.host_port)}
        bindings.setdefault(_port(publish), []).append(binding)
    return bindings


def network_body(nics: Sequence[Nic], spec: InstanceSpec, abilities: Abilities) -> dict[str, Any]:
    """What the request says of the network, with a `HostConfig` of its own."""
    if len(nics) > 1:
        raise Unsupported(
            "one_network", "an app container can be launched into one network", hint="Name a single --network."
        )
    if not nics:
        if spec.publish:
            raise Invalid(
                "publish_without_network",
                f"{spec.name} has no network, so none of its ports can be published",
                hint="Leave out --publish, or choose a --network.",
            )
        return {"HostConfig": {"NetworkMode": HOST_NETWORK if spec.network == HOST_NETWORK else "none"}}
    (nic,) = nics
    name = single_line(nic.network.name, "the network's name")
    endpoint: dict[str, Any] = {"IPAMConfig": {"IPv4Address": nic.address}}
    host = {
        "NetworkMode": name,
        "Dns": [nic.network.gateway],
        "DnsSearch": [nic.network.domain],
        "PortBindings": _bindings(spec.publish),
    }
    result: dict[str, Any] = {"HostConfig": host, "NetworkingConfig": {"EndpointsConfig": {name: endpoint}}}
    if abilities.endpoint_mac:
        endpoint["MacAddress"] = nic.mac
    else:
        result["MacAddress"] = nic.mac
    return result
