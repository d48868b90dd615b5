"""One check of the final configuration, for every way that leads to an instance."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

from triune.domain.errors import Invalid
from triune.domain.instance import InstanceSpec, VolumeMount
from triune.domain.names import instance_name, single_line, storage_name
from triune.domain.network import Publish
from triune.domain.units import format_size
from triune.services import limits

_LARGEST_DISK = 2**50  # qcow2 with its usual clusters ends at twice that


def check(spec: InstanceSpec) -> None:
    """Raise Invalid if this may not become an instance on this host."""
    instance_name(spec.name)
    _check_text(spec)
    limits.check(replace(spec.limits, cpus=spec.cpus, memory=spec.memory))
    _check_disk(spec)
    _check_ports(spec.publish)
    if spec.pool is not None:
        storage_name(spec.pool, "pool")
    for volume in spec.volumes:
        check_volume(volume)


def check_volume(volume: VolumeMount) -> None:
    """Raise Invalid if an instance may not have this volume."""
    for text, what in ((volume.source, "the volume's source"), (volume.target, "the volume's target")):
        single_line(text, what)
    if not volume.target and "/" not in volume.source:
        return  # a disk: it has no place but a device
    if not volume.target.startswith("/") or ".." in volume.target.split("/"):
        raise Invalid(
            "bad_volume",
            f"the volume's target {volume.target!r} is not an absolute path",
            hint="Write it as VOLUME:/path or /folder:/path.",
        )
    if volume.source.startswith("/") and not Path(volume.source).exists():
        raise Invalid(
            "volume_missing",
            f"there is no {volume.source} on this host",
            hint=f"Make it first: mkdir -p {shlex.quote(volume.source)}",
        )


def _check_text(spec: InstanceSpec) -> None:
    for key, value in spec.env.items():
        single_line(key, "the name of an environment variable")
        if not key or "=" in key or any(char.isspace() for char in key):
            raise Invalid("bad_env", f"{key!r} is not the name of a variable", hint="Write it as --env NAME=VALUE.")
        single_line(value, f"the environment variable {key}")
    for key, value in spec.settings.items():
        single_line(key, "the name of a setting")
        single_line(value, f"the setting {key}")
    for word in spec.command:
        if "\0" in word:
            raise Invalid("control_character", "the command contains a NUL character", hint="Remove it.")


def _check_disk(spec: InstanceSpec) -> None:
    if spec.disk is not None and spec.disk < 2**20:
        raise Invalid(
            "disk_too_small",
            f"a disk of {format_size(spec.disk)} is too small",
            hint="Ask for at least 1 MiB; a size without a unit is in bytes.",
        )
    if spec.disk is not None and spec.disk > _LARGEST_DISK:
        raise Invalid(
            "disk_too_large",
            f"a disk of {format_size(spec.disk)} is more than can be made",
            hint=f"Ask for at most {format_size(_LARGEST_DISK)}.",
        )


def _check_ports(ports: tuple[Publish, ...]) -> None:
    seen: set[tuple[str | None, int, str]] = set()
    for port in ports:
        key = (port.host_ip, port.host_port, port.protocol)
        if key in seen:
            raise Invalid("bad_publish", f"port {port} is published twice", hint="Name each host port once.")
        seen.add(key)
