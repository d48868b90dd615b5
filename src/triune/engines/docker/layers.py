"""The folder on the host that has a container's writable layer.

Docker tells it with its own storage driver overlay2. With containerd's image store (`overlayfs`; what a new Docker 29
has) containerd knows it, as the upper folder of the active snapshot that is called as the container's id.
"""

from __future__ import annotations

from pathlib import Path

from triune.domain.errors import Unsupported
from triune.engines.docker.client import DockerClient
from triune.engines.docker.containers import Described
from triune.host.run import run

# Docker tells these since API 1.46.
_SOCKET = "/run/containerd/containerd.sock"
_NAMESPACE = "moby"
_UPPER = "upperdir="
_SNAPSHOTTER = "overlayfs"


def in_containerd(found: Described) -> bool:
    """Whether a container and its image are in containerd's image store."""
    return (found.get("GraphDriver") or {}).get("Name") == _SNAPSHOTTER


def layer(client: DockerClient, found: Described) -> Path | None:
    """The folder, None where the storage driver has none, or nobody here knows it. Raises Unreachable."""
    driver = found.get("GraphDriver") or {}
    upper = None
    if driver.get("Name") == "overlay2":
        upper = (driver.get("Data") or {}).get("UpperDir")
    elif in_containerd(found):
        upper = _ask_containerd(client, str(found["Id"]))
    return Path(str(upper)) if upper else None


def require_layer(client: DockerClient, found: Described) -> Path:
    """The same. Raises Unsupported("storage_driver")."""
    path = layer(client, found)
    if path is None:
        name = (found.get("GraphDriver") or {}).get("Name") or "of unknown name"
        raise Unsupported(
            "storage_driver",
            f"Docker's storage driver {name} does not show containers' layers",
            hint="It needs overlay2, or overlayfs and containerd's tool ctr: see docker info.",
        )
    return path


def _ask_containerd(client: DockerClient, container: str) -> str | None:
    told = client.read(lambda api: api.info()).get("Containerd") or {}
    where = str(told.get("Address") or _SOCKET)
    namespace = str((told.get("Namespaces") or {}).get("Containers") or _NAMESPACE)
    snapshots = ("snapshots", "--snapshotter", _SNAPSHOTTER)
    try:
        result = run(
            ["ctr", "--address", where, "--namespace", namespace, *snapshots, "mounts", "/mnt", container], check=False
        )
    except Unsupported:  # no ctr here
        return None
    return parse_upper(result.text)


def parse_upper(text: str) -> str | None:
    """The upper folder in `mount -t overlay overlay /mnt -o index=off,workdir=…,upperdir=…`. Never raises."""
    _, _, options = text.strip().rpartition(" -o ")
    found = next((word.removeprefix(_UPPER) for word in options.split(",") if word.startswith(_UPPER)), "")
    return found if found.startswith("/") else None
