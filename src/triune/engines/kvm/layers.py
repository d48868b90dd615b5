"""Disks that several machines stand on: what a copy-on-write clone and its original have in common.

A clone of a stopped machine copies nothing. What the original's disk holds becomes a layer that nobody writes any more,
and both get an empty overlay on it:

    .layers/ID/disk.qcow2        the layer: the original's disk so far, which stands on its image or on another layer
    NAME/disk-ID.qcow2           the original's disk from now on
    NEW/disk.qcow2               the clone's

Order: hard-link the disk as the layer; make the original's overlay; define the original with it (from here on it is
so); remove the disk's old name; make the clone. The original's paths are valid throughout. A layer goes with the last
disk that stands on it, whichever machine is removed first: `sweep` follows the chains of all domains and our disks.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import threading
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from triune.disks.qcow2 import read_header
from triune.disks.qcow2_overlay import is_untouched, write_overlay
from triune.disks.qcow2_tables import read_backing
from triune.domain.errors import Invalid
from triune.engines.kvm.client import Client, library
from triune.engines.kvm.drives import Drive
from triune.engines.kvm.owner import qemu_owner

DEEPEST = 16  # layers above the image: each costs every later read a little
_FOLDER = ".layers"
_OWN = re.compile(r".+-[0-9a-f]{16}\.qcow2")


class Layers:
    """All of one engine. `lock` is held while a layer has been made and nothing stands on it yet."""

    def __init__(self, client: Client, state_dir: Path) -> None:
        self._client = client
        self._state_dir = state_dir
        self.lock = threading.Lock()

    def share(self, drive: Drive) -> tuple[Path, Path]:
        """Make a layer of a stopped machine's disk and an overlay on it beside the disk; both exist beside the disk's
        own name until the domain is defined anew. Returns (layer, overlay)."""
        number = secrets.token_hex(8)
        place = self._state_dir / _FOLDER / number
        place.mkdir(mode=0o711, parents=True)
        place.parent.chmod(0o711)
        layer, overlay = place / "disk.qcow2", drive.path.parent / f"disk-{drive.target}-{number}.qcow2"
        try:
            os.link(drive.path, layer)
            write_overlay(overlay, virtual_size(layer), layer, "qcow2")
            self.give_to_qemu(layer)
        except BaseException:
            overlay.unlink(missing_ok=True)
            shutil.rmtree(place, ignore_errors=True)
            raise
        return layer, overlay

    def overlay(self, path: Path, backing: tuple[Path, str]) -> None:
        """A new disk that stands on another."""
        write_overlay(path, virtual_size(backing[0]), *backing)

    def give_to_qemu(self, layer: Path) -> None:
        """Let QEMU's user read it, and nobody else: it holds what the guest wrote."""
        owner = qemu_owner(self._client)
        if owner is not None:
            os.chown(layer, *owner)

    def free(self, drive: Drive) -> tuple[Path, str] | None:
        """What a disk stands on, where that is a layer and the disk itself has nothing of its own."""
        if not drive.backing or not self.holds(drive.backing[0][0]):
            return None
        with drive.path.open("rb") as stream:
            return drive.backing[0] if is_untouched(stream) else None

    def holds(self, path: Path) -> bool:
        """Whether it is a layer."""
        return path.parent.parent == self._state_dir / _FOLDER

    def sweep(self) -> None:
        """Remove what nothing stands on: layers, and overlays that a crash left before any domain had them."""
        with self.lock:
            layers = set((self._state_dir / _FOLDER).glob("*/*"))
            if not layers:
                return
            named = self._named()
            used: set[Path] = set()
            for disk in self._state_dir.glob("[!.]*/*.qcow2"):
                # a second name is a renaming under way
                if disk not in named and _OWN.fullmatch(disk.name) and disk.stat().st_nlink == 1:
                    disk.unlink(missing_ok=True)
                else:
                    used |= set(_chain(disk))
            for path in named:
                used |= {path, *_chain(path)}
            for layer in layers - used:
                shutil.rmtree(layer.parent, ignore_errors=True)
            with contextlib.suppress(OSError):  # others are left
                (self._state_dir / _FOLDER).rmdir()

    def _named(self) -> set[Path]:
        """Every file that any domain of the host names, now or after its next start."""

        def work(connection: Any) -> set[Path]:
            virt = library()
            found: set[Path] = set()
            for domain in connection.listAllDomains(0):
                for flags in (0, virt.VIR_DOMAIN_XML_INACTIVE):
                    # one that is gone meanwhile names nothing
                    with contextlib.suppress(virt.libvirtError):
                        root = ET.fromstring(domain.XMLDesc(flags))  # noqa: S314 - from libvirt
                        found |= {Path(source.get("file", "")) for source in root.iter("source") if source.get("file")}
            return found

        return self._client.call(work)


def virtual_size(path: Path) -> int:
    """The size of the disk that a qcow2 image holds, in bytes."""
    with path.open("rb") as stream:
        return read_header(stream).virtual_size


def _chain(path: Path) -> Iterator[Path]:
    """What a disk stands on, and that on, as their headers tell."""
    seen = {path}
    while True:
        try:
            with path.open("rb") as stream:
                backing = read_backing(stream)
        except (OSError, Invalid):
            return
        if backing is None or Path(backing) in seen:
            return
        path = Path(backing)
        seen.add(path)
        yield path
