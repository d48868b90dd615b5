"""The disks of a domain, as its XML tells them: which are its own to write, and whether they can hold snapshots."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from triune.domain.errors import Unsupported


@dataclass(frozen=True, slots=True, kw_only=True)
class Drive:
    """A disk that the guest may write. `path` is empty for one that is no file. `backing` is its declared chain."""

    target: str
    path: Path
    format: str
    backing: tuple[tuple[Path, str], ...] = ()


def writable(root: ET.Element) -> Sequence[Drive]:
    """Every disk the guest may write, in the domain's order."""
    return [
        _drive(disk)
        for disk in root.iterfind("devices/disk")
        if disk.get("device", "disk") == "disk" and disk.find("readonly") is None
    ]


def element(root: ET.Element, target: str) -> ET.Element:
    """The disk of that target. Raises KeyError."""
    for disk in root.iterfind("devices/disk"):
        if _attribute(disk, "target", "dev") == target:
            return disk
    raise KeyError(target)


def untouched(root: ET.Element) -> Sequence[str]:
    """The targets of all others: CD-ROMs, seeds, whatever is read-only."""
    mine = {drive.target for drive in writable(root)}
    targets = (_attribute(disk, "target", "dev") for disk in root.iterfind("devices/disk"))
    return [target for target in targets if target not in mine]


def _drive(disk: ET.Element) -> Drive:
    is_file = disk.get("type") == "file"
    return Drive(
        target=_attribute(disk, "target", "dev"),
        path=Path(_attribute(disk, "source", "file")) if is_file else Path(),
        format=_attribute(disk, "driver", "type") or "raw",
        backing=tuple(_chain(disk)),
    )


def _chain(disk: ET.Element) -> Sequence[tuple[Path, str]]:
    found = []
    layer = disk.find("backingStore")
    while layer is not None and layer.find("source") is not None:
        found.append((Path(_attribute(layer, "source", "file")), _attribute(layer, "format", "type")))
        layer = layer.find("backingStore")
    return found


def _attribute(parent: ET.Element, path: str, name: str) -> str:
    element = parent.find(path)
    return element.get(name, "") if element is not None else ""


def require_qcow2(name: str, drives: Sequence[Drive], what: str) -> None:
    """Raise Unsupported("disk_not_qcow2" | "no_disk") where a disk can't hold snapshots; `what` is what was asked."""
    if not drives:
        raise Unsupported(
            "no_disk", f"{name!r} has no disk of its own: no {what} of it can be made", hint=f"See: triune show {name}"
        )
    for drive in drives:
        if drive.format != "qcow2" or drive.path == Path():
            kind = drive.format if drive.path != Path() else "host device or network"
            raise Unsupported(
                "disk_not_qcow2",
                f"the disk {drive.target} of {name!r} is a {kind} disk: only qcow2 files hold a {what}",
                hint=f"Detach it first, or convert it: qemu-img convert -O qcow2 {drive.path} NEW",
            )


def nvram(root: ET.Element) -> Path | None:
    """The file with a UEFI machine's variables."""
    text = root.findtext("os/nvram")
    return Path(text) if text else None
