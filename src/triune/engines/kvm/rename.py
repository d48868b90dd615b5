"""Renaming a stopped domain together with its folder, so that a crash at any point leaves every path valid.

Order: hard-link the files into the new folder; rename the domain; define it with the new paths; remove the old folder.
The domain's paths exist throughout, and libvirt is told of its snapshots again at the end (see `records`). What a crash
leaves is a second name of the same files: `create` or `delete` of that name removes it.
"""

from __future__ import annotations

import os
import shutil
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

from triune.domain.errors import Conflict
from triune.domain.names import instance_name
from triune.engines.kvm import checkpoints, drives, folders
from triune.engines.kvm import mark as marks
from triune.engines.kvm.client import Client, library
from triune.engines.kvm.paths import move
from triune.engines.kvm.records import Records
from triune.engines.kvm.spec import Files


class Renaming:
    """The `renaming` facet."""

    live = False

    def __init__(self, client: Client, state_dir: Path) -> None:
        self._client = client
        self._state_dir = state_dir
        self._records = Records(client, state_dir)

    def rename(self, name: str, new: str) -> None:
        """Rename it. Raises Conflict("instance_running" | "instance_exists" | "folder_in_use")."""
        instance_name(new)
        domain = self._client.domain(name)
        with self._client.errors(name):
            if domain.isActive():
                raise Conflict("instance_running", f"{name!r} is running", hint=f"Stop it first: triune stop {name}")
            root = ET.fromstring(domain.XMLDesc(0))  # noqa: S314 - from libvirt
        if self._client.find(new) is not None:
            raise Conflict(
                "instance_exists", f"there is a virtual machine {new!r} already", hint="Choose another name."
            )
        checkpoints.forget(self._client, domain, name, drives.writable(root))
        with self._records.carried(domain):
            self._rename(domain, root, name, new)

    def _rename(self, domain: Any, root: ET.Element, name: str, new: str) -> None:
        if marks.read(root) is None:
            with self._client.errors(name):
                domain.rename(new, 0)
            return
        old, target = folders.of(root, self._state_dir) or self._state_dir / name, self._state_dir / new
        if old == target:
            # Another tool changed the name alone, and this gives it back.
            with self._client.errors(name):
                domain.rename(new, 0)
            return
        folders.require_free(self._client, target)
        self._rename_managed(domain, name, new, Files(folder=old), Files(folder=target))

    def _rename_managed(self, domain: Any, name: str, new: str, old_files: Files, new_files: Files) -> None:
        virt = library()
        _link(old_files.folder, new_files.folder)
        try:
            with self._client.errors(name):
                domain.rename(new, 0)
        except BaseException:
            shutil.rmtree(new_files.folder, ignore_errors=True)
            raise
        renamed = self._client.domain(new)
        with self._client.errors(new):
            flags = virt.VIR_DOMAIN_XML_INACTIVE | virt.VIR_DOMAIN_XML_SECURE
            xml = moved(renamed.XMLDesc(flags), old_files, new_files)
        self._client.call(lambda connection: connection.defineXML(xml), name=new)
        shutil.rmtree(old_files.folder, ignore_errors=True)


def moved(xml: str, old: Files, new: Files) -> str:
    """The domain's XML with every path in the old folder led to the new one, and the new host name."""
    root = ET.fromstring(xml)  # noqa: S314 - from libvirt
    move(root, old.folder, new.folder)
    return ET.tostring(root, encoding="unicode")


def _link(old: Path, new: Path) -> None:
    if new.exists():
        shutil.rmtree(new)  # no domain has that name: what a crash left
    new.mkdir(mode=0o711)
    for file in old.iterdir():
        os.link(file, new / file.name, follow_symlinks=False)
