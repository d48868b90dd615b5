"""Checkpoints: libvirt's names for the bitmaps in which QEMU notes what changed since a backup."""

from __future__ import annotations

import contextlib
import json
import time
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from typing import Any

from triune.domain.errors import TriuneError
from triune.engines.kvm.client import Client, library
from triune.engines.kvm.drives import Drive
from triune.host.run import run

PREFIX = "triune-"


def build(name: str, tracked: Sequence[Drive], drives: Sequence[Drive], defined: ET.Element | None = None) -> str:
    """A checkpoint's XML; with `defined` (the domain's definition) one whose bitmaps are there already."""
    root = ET.Element("domaincheckpoint")
    ET.SubElement(root, "name").text = name
    if defined is not None:
        ET.SubElement(root, "creationTime").text = str(int(time.time()))
    disks = ET.SubElement(root, "disks")
    for drive in drives:
        words = {"name": drive.target, "checkpoint": "bitmap" if drive in tracked else "no"}
        if defined is not None and drive in tracked:
            words["bitmap"] = name
        ET.SubElement(disks, "disk", words)
    if defined is not None:
        root.append(defined)
    return ET.tostring(root, encoding="unicode")


def names(client: Client, domain: Any, name: str) -> set[str]:
    """Those libvirt knows."""
    with client.errors(name):
        return {checkpoint.getName() for checkpoint in domain.listAllCheckpoints(0)}


def add(client: Client, domain: Any, name: str, drives: Sequence[Drive], checkpoint: str) -> None:
    """Begin one of a stopped domain: nothing can change meanwhile. On an error there is none."""
    virt = library()
    tracked = [drive for drive in drives if drive.format == "qcow2"]
    try:
        for drive in tracked:
            run(["qemu-img", "bitmap", "--add", "--enable", "-f", "qcow2", drive.path, checkpoint])
        with client.errors(name):
            text = domain.XMLDesc(virt.VIR_DOMAIN_XML_INACTIVE | virt.VIR_DOMAIN_XML_SECURE)
            xml = build(checkpoint, tracked, drives, ET.fromstring(text))  # noqa: S314 - from libvirt
            domain.checkpointCreateXML(xml, virt.VIR_DOMAIN_CHECKPOINT_CREATE_REDEFINE)
    except BaseException:
        drop(client, domain, name, drives, [checkpoint])
        raise


def drop(client: Client, domain: Any, name: str, drives: Sequence[Drive], unwanted: Sequence[str]) -> None:
    """Forget some, with their bitmaps. Gone: succeed."""
    if not unwanted:
        return
    virt = library()
    with client.errors(name):
        active = bool(domain.isActive())
        known = {checkpoint.getName(): checkpoint for checkpoint in domain.listAllCheckpoints(0)}
    for one in unwanted:
        if one not in known:
            continue
        # Where nothing runs, libvirt can't remove the bitmaps.
        flags = 0 if active else virt.VIR_DOMAIN_CHECKPOINT_DELETE_METADATA_ONLY
        try:
            known[one].delete(flags)
        except virt.libvirtError:
            # its bitmap is gone or broken: then it says nothing any more
            with client.errors(name):
                known[one].delete(virt.VIR_DOMAIN_CHECKPOINT_DELETE_METADATA_ONLY)
    if not active:
        for drive in drives:
            _remove_bitmaps(drive, set(unwanted))


def forget(client: Client, domain: Any, name: str, drives: Sequence[Drive]) -> None:
    """Drop all of a stopped domain's, those of other tools too: the disks will be what no bitmap tells of."""
    known = names(client, domain, name)
    if known:
        drop(client, domain, name, drives, sorted(known))


def _remove_bitmaps(drive: Drive, unwanted: set[str]) -> None:
    if drive.format != "qcow2":
        return
    with contextlib.suppress(TriuneError):
        told = json.loads(run(["qemu-img", "info", "--output=json", drive.path]).text)
        data = told.get("format-specific", {}).get("data", {})
        for bitmap in data.get("bitmaps", []):
            if bitmap["name"] in unwanted:
                run(["qemu-img", "bitmap", "--remove", "-f", "qcow2", drive.path, bitmap["name"]], timeout=None)
