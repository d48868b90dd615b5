"""Which folder belongs to which domain. The paths in its XML tell: `virsh domrename` changes the name alone."""

from __future__ import annotations

import contextlib
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from triune.domain.errors import Conflict
from triune.engines.kvm.client import Client, library


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


def _paths(root: ET.Element) -> Iterator[Path]:
    for element in root.iter():
        for key in ("file", "dir", "path"):
            if value := element.get(key):
                yield Path(value)
    if nvram := root.findtext("os/nvram"):
        yield Path(nvram)
