"""Checkpoints: libvirt's names for the bitmaps in which QEMU notes what changed since a backup."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from triune.engines.kvm.client import Client, library
from triune.engines.kvm.drives import Drive
from triune.host.run import run

PREFIX = "triune-"


def forget(client: Client, domain: Any, name: str, drives: Sequence[Drive]) -> None:
    """Drop all of a stopped domain's, with their bitmaps: the next backup reads everything."""
    virt = library()
    with client.errors(name):
        known = domain.listAllCheckpoints(0)
        if not known:
            return
        for checkpoint in known:
            checkpoint.delete(virt.VIR_DOMAIN_CHECKPOINT_DELETE_METADATA_ONLY)
    for drive in drives:
        if drive.format == "qcow2":
            _remove_bitmaps(drive)


def _remove_bitmaps(drive: Drive) -> None:
    told = json.loads(run(["qemu-img", "info", "--output=json", drive.path]).text)
    data = told.get("format-specific", {}).get("data", {})
    for bitmap in data.get("bitmaps", []):
        run(["qemu-img", "bitmap", "--remove", "-f", "qcow2", drive.path, bitmap["name"]], timeout=None)
