"""What holds a container apart: of a running one as the kernel has it, else as it is configured.

Field names are the Docker Engine API's (ContainerInspect, ImageInspect, SystemInfo).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from triune.domain import capabilities, seccomp, secrets
from triune.domain.errors import NotFound, TriuneError
from triune.domain.isolation import Exposure, HostMount, Isolation
from triune.engines.docker import containers, ports, spec
from triune.engines.docker.client import DockerClient
from triune.engines.docker.containers import Described
from triune.engines.docker.detail import isolation
from triune.engines.docker.layers import in_containerd
from triune.host import confinement, doors, packages
from triune.host.mounted import shown

# Docker's manual, "Runtime privilege and Linux capabilities".
DEFAULT_CAPABILITIES = frozenset((
    "audit_write", "chown", "dac_override", "fowner", "fsetid", "kill", "mknod", "net_bind_service", "net_raw",
    "setfcap", "setgid", "setpcap", "setuid", "sys_chroot",
))  # fmt: skip
# What official images need to start as root, own their data, go on as another user, and end their children.
_NEEDED = "CHOWN,DAC_OVERRIDE,FOWNER,KILL,NET_BIND_SERVICE,SETGID,SETUID"
_PACKAGES = {"runc": ("runc",), "containerd": ("containerd", "containerd.io"), "Docker": ("docker.io", "docker-ce")}
_PORTS = (2375, 2376)
_WITH_TLS = (2376,)
_SHARED = {"PidMode": "pid", "IpcMode": "ipc", "UTSMode": "uts", "NetworkMode": "net", "CgroupnsMode": "cgroup"}
_PROC_GUARDS = "/proc/sysrq-trigger"


class DockerAuditing:
    """The facet."""

    hardened: Mapping[str, str] = {
        "cap-drop": "ALL",
        "cap-add": _NEEDED,
        "no-new-privileges": "true",
        "read-only": "true",
        "tmpfs": "/tmp,/run,/var/tmp",  # noqa: S108 - inside
        "cgroupns": "private",
    }
    hardened_limits: Mapping[str, str] = {"pids": "512"}

    def __init__(self, client: DockerClient) -> None:
        self._client = client

    def isolation(self, name: str) -> Isolation:
        """Inspect it, its image and its process."""
        found = containers.describe(self._client, name)
        info = self._client.read(lambda api: api.info())
        image = self._image(str(found.get("Image") or ""))
        pid = int(found["State"].get("Pid") or 0) if found["State"].get("Running") else 0
        return facts(found, info, image, _process(pid))

    def _image(self, image: str) -> Mapping[str, Any]:
        if not image:
            return {}
        gone = NotFound("image_not_found", "its image is gone", hint="Pull it again.")
        try:
            answer: Mapping[str, Any] = self._client.read(lambda api: api.inspect_image(image), missing=gone)
        except TriuneError:
            return {}
        return answer

    def exposure(self) -> Exposure:
        """Docker, containerd and runc, its socket, and TCP ports that dockerd listens on."""
        version = self._client.read(lambda api: api.version(api_version=False))
        told = {str(one.get("Name", "")).lower(): one.get("Version") for one in version.get("Components") or ()}
        versions = {"Docker": version.get("Version"), "containerd": told.get("containerd"), "runc": told.get("runc")}
        socket = doors.socket_file(Path(self._client.socket_path))
        return Exposure(
            components=tuple(
                packages.component(name, str(number), _PACKAGES[name]) for name, number in versions.items() if number
            ),
            doors=(*((socket,) if socket else ()), *doors.ports(_PORTS, "dockerd", guarded=_WITH_TLS)),
        )


def _process(pid: int) -> confinement.Confinement | None:
    try:
        return confinement.of(pid) if pid else None
    except OSError:
        return None


def facts(
    found: Described,
    info: Mapping[str, Any],
    image: Mapping[str, Any],
    process: confinement.Confinement | None,
) -> Isolation:
    """The facts of a container from Docker's descriptions of it, the engine and the image."""
    host, config = found.get("HostConfig") or {}, found.get("Config") or {}
    labels = config.get("Labels") or {}
    asked = isolation(found, info.get("SecurityOptions") or ())
    own = asked["kernel"] == "own"
    privileged = bool(host.get("Privileged"))
    kept = process.capabilities if process and not own else configured_capabilities(host)
    filtered = process.filtered if process and not own else bool(asked["seccomp"])
    blocked = _blocked(host, kept) if filtered else frozenset()
    unprotected = privileged or host.get("MaskedPaths") == [] or host.get("ReadonlyPaths") == []
    unknown = {} if image else {"image_created": "Docker no longer has the image"}
    if blocked is None:
        unknown["calls_blocked"] = "its seccomp profile can't be read"
    reference = labels.get(spec.IMAGE) if labels.get(spec.MANAGED) == "1" else f"docker:{config.get('Image')}"
    return Isolation(
        running=bool(found["State"].get("Running")),
        own_kernel=own,
        boundary=str(asked["boundary"]),
        user_space=own and "runsc" in str(asked["runtime"]),
        accelerated=True if own and "runsc" not in str(asked["runtime"]) else None,
        runtime=str(asked["runtime"]),
        privileged=privileged,
        user_namespace=process.mapped if process and not own else bool(asked["user_namespace"]),
        id_map=process.id_map if process else (),
        capabilities=kept,
        filtered=filtered,
        calls_blocked=blocked,
        label=process.label if process and not own else str(asked["apparmor"] or ""),
        labels_available=confinement.labels_available(),
        no_new_privileges=bool(asked["no_new_privileges"]),
        read_only_root=bool(asked["read_only"]),
        proc_guarded=not unprotected or _PROC_GUARDS in (host.get("ReadonlyPaths") or ()),
        root_inside=str(config.get("User") or "").partition(":")[0] in ("", "0", "root"),
        nesting=privileged,
        mounts=_mounts(found),
        devices=_devices(host),
        shared_namespaces=_shared(host),
        ports=tuple(str(publish) for publish in ports.wanted(host)),
        memory_limited=bool(host.get("Memory")),
        image=reference,
        image_created=containers.timestamp(image.get("Created")),
        # containerd's image store gives a digest to what was built here, too: it tells nothing of the origin.
        image_origin=next(iter(image.get("RepoDigests") or ()), "") if image and not in_containerd(found) else None,
        secrets=tuple(secrets.in_variables(secrets.as_variables(map(str, config.get("Env") or ())))),
        unknown=unknown,
    )


def configured_capabilities(host: Mapping[str, Any]) -> frozenset[str]:
    """What a HostConfig leaves root of a container."""
    if host.get("Privileged"):
        return capabilities.ALL
    added = capabilities.plain(map(str, host.get("CapAdd") or ()))
    dropped = capabilities.plain(map(str, host.get("CapDrop") or ()))
    if added >= capabilities.ALL:
        return capabilities.ALL - dropped
    return (DEFAULT_CAPABILITIES - dropped) | added


def _blocked(host: Mapping[str, Any], kept: frozenset[str]) -> frozenset[str] | None:
    """The reference's calls that its filter takes away; None for a filter that can't be read."""
    given = [str(option) for option in host.get("SecurityOpt") or () if str(option).startswith("seccomp")]
    # `seccomp=…`, or `seccomp:…` as of old.
    profile = given[-1].removeprefix("seccomp")[1:] if given else "default"
    if profile in ("default", "builtin"):
        return seccomp.reference_blocked(kept)
    try:
        # The command line of Docker sends the file's content, so the text itself is here.
        data = json.loads(profile)
        return seccomp.blocked(data) if isinstance(data, dict) else None
    except ValueError:
        return None


def _mounts(found: Described) -> tuple[HostMount, ...]:
    """Bind mounts; volumes are Docker's own folders."""
    return tuple(
        shown(str(mount.get("Source") or ""), str(mount.get("Destination") or ""), read_only=not mount.get("RW", True))
        for mount in found.get("Mounts") or ()
        if mount.get("Type") == "bind"
    )


def _devices(host: Mapping[str, Any]) -> tuple[str, ...]:
    given = [str(device.get("PathOnHost")) for device in host.get("Devices") or ()]
    given += [f"cgroup rule {rule}" for rule in host.get("DeviceCgroupRules") or ()]
    given += [f"{request.get('Driver') or 'gpu'} request" for request in host.get("DeviceRequests") or ()]
    return tuple(given)


def _shared(host: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(kind for key, kind in _SHARED.items() if str(host.get(key) or "") == "host")
