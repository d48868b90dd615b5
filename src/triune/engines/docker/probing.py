"""What the Docker engine of this host is and can do."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from triune.domain.errors import TriuneError
from triune.engines.base import Probe
from triune.engines.docker.client import DockerClient
from triune.host import cgroup, cgroup_limits, criu

_LIMITING_DRIVERS = frozenset({"btrfs", "zfs", "devicemapper", "windowsfilter"})


def probe(client: DockerClient, limits: Mapping[str, str]) -> Probe:
    """Ask the engine; never raises. `limits` are those that can't be set here, with the reasons."""
    try:
        version = client.read(lambda api: api.version(api_version=False))
        info = client.read(lambda api: api.info())
        api = ".".join(str(part) for part in client.api_version)
    except TriuneError as error:
        return Probe(available=False, reason=error.message, hint=error.hint)
    components = {str(one.get("Name", "")): str(one.get("Version", "")) for one in version.get("Components") or ()}
    options = [str(option).partition(",")[0].removeprefix("name=") for option in info.get("SecurityOptions") or ()]
    missing = {
        "attaching": "Docker can't add a mount to a container that exists: launch it with --volume",
        "importing": "a container has no firmware and no disks of its own",
        "templates": "a container starts in a moment: nothing has to be kept warm",
        **limits,
    }
    no_memory = criu.why_not(info, client.socket_path)
    if no_memory is not None:
        missing["snapshots.memory"] = no_memory
    limit = disk_limit(info)
    if limit is not None:
        missing["disk-limit"] = f"Docker cannot limit a container's disk: {limit}"
    return Probe(
        available=True,
        version=str(version.get("Version") or "") or None,
        missing=missing,
        facts={
            "api": version.get("ApiVersion"),
            "api_used": api,
            "components": components,
            "containerd": components.get("containerd"),
            "runtime_version": components.get(str(info.get("DefaultRuntime") or "runc")),
            "storage_driver": info.get("Driver"),
            "root": info.get("DockerRootDir"),
            "cgroup_driver": info.get("CgroupDriver"),
            "cgroup_version": info.get("CgroupVersion"),
            "runtimes": sorted(info.get("Runtimes") or {}),
            "default_runtime": info.get("DefaultRuntime"),
            "live_restore": bool(info.get("LiveRestoreEnabled")),
            "rootless": "rootless" in options,
            "userns_remap": "userns" in options,
            "security": options,
            "warnings": list(info.get("Warnings") or ()),
            "disk_limits": cgroup_limits.disk_note(cgroup.hierarchies()),
            "socket": client.socket_path,
        },
    )


def disk_limit(info: Mapping[str, Any]) -> str | None:
    """Why the engine cannot limit a container's disk, or None when it can (docker run --storage-opt size)."""
    driver = str(info.get("Driver") or "")
    if driver in _LIMITING_DRIVERS:
        return None
    backing = next((str(value) for key, value in info.get("DriverStatus") or () if key == "Backing Filesystem"), "")
    if driver != "overlay2":
        return f"its storage driver {driver or 'of unknown name'} cannot"
    if backing != "xfs":
        return f"its storage driver overlay2 can only on xfs, and its data is on {backing or 'another file system'}"
    if not _has_project_quota(str(info.get("DockerRootDir") or "/var/lib/docker")):
        return "its data is on xfs that is not mounted with pquota"
    return None


def _has_project_quota(folder: str) -> bool:
    best, options = "", ""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        words = line.split(" ")
        inside = folder == words[1] or folder.startswith(words[1].rstrip("/") + "/")
        if inside and len(words[1]) >= len(best):
            best, options = words[1], words[3]
    return bool({"prjquota", "pquota"} & set(options.split(",")))
