"""What is written beside an image's files: manifest.json.

    {"version": 1, "name": "debian/12", "digest": "<64 hex>", "created": "<ISO 8601>", "source": "…",
     "tree": {"path": "private/tree", "init": "/sbin/init", "size": n, "cloud_init": false,
              "fixed_hostname": false} | null,
     "disk": {"path": "disk.qcow2" | null, "format": …, "virtual_size": n, "kernel": … | null, "initrd": … | null,
              "cmdline": "", "firmware": "uefi", "iso": … | null, "agent": …, "cloud_init": …,
              "fixed_hostname": …, "size": n} | null,
     "archive": "archive.tar" | null, "command": [..], "options": {..}, "packages": {"name": "version"},
     "sha256": "…" | "", "notes": [..]}

Paths are relative to the image's own folder. A tree whose `init` is empty runs programs, but not as a system.
`archive` is an OCI archive to load. The OCI form lives in another store and has its own file, oci.json:
{"id": …, "reference": …, "size": n}. Sizes are bytes on disk.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from triune.domain.errors import Failed
from triune.domain.image import DiskForm, OciForm, TreeForm

VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeFiles:
    """Where the root tree is."""

    path: str
    init: str
    size: int
    cloud_init: bool = False
    fixed_hostname: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskFiles:
    """Where the disk and what it boots with are."""

    path: str | None
    format: str
    virtual_size: int
    size: int
    kernel: str | None = None
    initrd: str | None = None
    cmdline: str = ""
    firmware: str = "bios"
    iso: str | None = None
    agent: bool = False
    cloud_init: bool = False
    fixed_hostname: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class OciRecord:
    """The form in the OCI store."""

    id: str
    reference: str
    size: int

    @property
    def form(self) -> OciForm:
        """As the engine knows it."""
        return OciForm(id=self.id, reference=self.reference)


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """One image on disk."""

    name: str
    digest: str
    created: datetime
    source: str
    tree: TreeFiles | None = None
    disk: DiskFiles | None = None
    archive: str | None = None
    command: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    packages: Mapping[str, str] = field(default_factory=dict)
    sha256: str = ""
    notes: tuple[str, ...] = ()

    def to_json(self) -> bytes:
        """As it is written."""
        data = asdict(self)
        data["created"] = self.created.isoformat()
        return json.dumps({"version": VERSION, **data}, indent=1, sort_keys=True).encode()

    def tree_form(self, folder: Path) -> TreeForm | None:
        """The tree of an image that lies in `folder`; None where it has no init."""
        if self.tree is None or not self.tree.init:
            return None
        return TreeForm(
            path=folder / self.tree.path,
            init=self.tree.init,
            cloud_init=self.tree.cloud_init,
            fixed_hostname=self.tree.fixed_hostname,
        )

    def disk_form(self, folder: Path) -> DiskForm | None:
        """The disk of an image that lies in `folder`."""
        disk = self.disk
        if disk is None:
            return None
        return DiskForm(
            path=folder / disk.path if disk.path else None,
            format=disk.format,
            virtual_size=disk.virtual_size,
            kernel=folder / disk.kernel if disk.kernel else None,
            initrd=folder / disk.initrd if disk.initrd else None,
            cmdline=disk.cmdline,
            firmware=disk.firmware,
            iso=folder / disk.iso if disk.iso else None,
            agent=disk.agent,
            cloud_init=disk.cloud_init,
            fixed_hostname=disk.fixed_hostname,
        )


def parse(raw: bytes, where: Path) -> Manifest:
    """Read a manifest. Raises Failed("bad_manifest")."""
    try:
        data = json.loads(raw)
        if data.pop("version") != VERSION:
            raise ValueError("another version")
        tree, disk = data.pop("tree"), data.pop("disk")
        return Manifest(
            **{
                **data,
                "created": datetime.fromisoformat(data["created"]),
                "tree": TreeFiles(**tree) if tree else None,
                "disk": DiskFiles(**disk) if disk else None,
                "command": tuple(data["command"]),
                "notes": tuple(data["notes"]),
            }
        )
    except (ValueError, TypeError, KeyError) as error:
        raise Failed(
            "bad_manifest",
            f"{where} can't be read: {error}",
            hint="Remove the image and build or import it again.",
        ) from error
