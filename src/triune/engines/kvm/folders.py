"""Which folder belongs to which domain. The paths in its XML tell: `virsh domrename` changes the name alone."""

from __future__ import annotations

import contextlib
import secrets
import shutil
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from triune.domain.errors import Conflict
from triune.domain.pool import PoolPlace
from triune.engines.kvm.client import Client, library

DISK = "disk.qcow2"


def of(root: ET.Element, state_dir: Path) -> Path | None:
    """The folder of `state_dir` that the domain's own files lie in; None where it has none there."""
    return next((path.parent for path in _paths(root) if path.parent.parent == state_dir), None)


def holder(client: Client, folder: Path) -> str | None:
    """The name of a domain whose files lie in this folder, or None."""

    def work(connection: Any) -> str | None:
        virt = library()
        for domain in connection.listAllDomains(0):
            # one that is gone meanwhile holds nothing
            with contextlib.suppress(virt.libvirtError):
                root = ET.fromstring(domain.XMLDesc(0))  # noqa: S314 - from libvirt
                if any(folder in path.parents for path in _paths(root)):
                    return str(domain.name())
        return None

    return client.call(work)


def require_free(client: Client, folder: Path) -> None:
    """Raise Conflict("folder_in_use") where a domain's files lie in this folder."""
    other = holder(client, folder) if folder.exists() else None
    if other is not None:
        raise Conflict(
            "folder_in_use",
            f"the virtual machine {other!r} was renamed by another tool and keeps its disk in {folder}",
            hint=f"Choose another name, or: triune rm {other}",
        )


def remove(folder: Path) -> None:
    """Remove an instance's folder, and what of it lies in a pool. Gone: succeed."""
    disk = folder / DISK
    if disk.is_symlink():
        place = disk.readlink().parent
        # Only what `place_disk` makes: a link that somebody else put there is removed, not what it points to. Half a
        # rename leaves two folders with one place: the last of them takes it along.
        if place.parent.parent.name == "instances" and not _shared(folder, disk.readlink()):
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(place)
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(folder)


def _shared(folder: Path, target: Path) -> bool:
    links = (other / DISK for other in folder.parent.iterdir() if other != folder)
    return any(link.is_symlink() and link.readlink() == target for link in links)


def place_disk(folder: Path, pool: PoolPlace, engine: str) -> None:
    """Lead the disk of a new instance's folder to a pool: its folder there has a name that no rename can collide with.

    The link comes first: it tells `remove` what to remove, however far the rest had come.
    """
    place = pool.path / "instances" / engine / f"{folder.name}.{secrets.token_hex(4)}"
    (folder / DISK).symlink_to(place / DISK)
    place.parent.mkdir(mode=0o711, exist_ok=True)
    place.mkdir(mode=0o711)


def _paths(root: ET.Element) -> Iterator[Path]:
    for element in root.iter():
        for key in ("file", "dir", "path"):
            if value := element.get(key):
                yield Path(value)
    if nvram := root.findtext("os/nvram"):
        yield Path(nvram)
