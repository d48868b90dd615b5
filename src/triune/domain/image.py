"""Images and their forms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path


class FormKind(StrEnum):
    """The three neutral artefacts an instance can start from."""

    DISK = "disk"
    TREE = "tree"
    OCI = "oci"


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskForm:
    """A bootable disk. `kernel`/`initrd`/`cmdline` allow a direct kernel boot; without them the firmware boots.

    `format` is qcow2, raw or vmdk and was verified at import. `virtual_size` in bytes. `firmware`: bios or uefi.
    `iso` is an installer to boot from; then `path` is None and the instance gets an empty disk. `fixed_hostname`: the
    system has a name of its own, which stays.
    """

    path: Path | None
    format: str = "qcow2"
    virtual_size: int = 0
    kernel: Path | None = None
    initrd: Path | None = None
    cmdline: str = ""
    firmware: str = "bios"
    iso: Path | None = None
    agent: bool = False
    cloud_init: bool = False
    fixed_hostname: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeForm:
    """A root tree, owned by the host's root, shared read-only by every instance that starts from it."""

    path: Path
    init: str = "/sbin/init"
    cloud_init: bool = False
    fixed_hostname: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class OciForm:
    """An image in Docker's own store. `id` is its content id (`sha256:…`), `reference` its tag."""

    id: str
    reference: str


Form = DiskForm | TreeForm | OciForm


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """An image as `image show` tells it. Sizes in bytes on disk; `packages` is how many are installed, 0: unknown.

    `sha256` is that of an imported file. `notes` say what is peculiar, e.g. why a form is missing.
    `templates` are what instances start warm from: `{engine, image, size, created, ready, why}` each.
    """

    name: str
    digest: str
    created: datetime
    source: str
    size: int
    forms: Mapping[FormKind, Form] = field(default_factory=dict)
    form_sizes: Mapping[FormKind, int] = field(default_factory=dict)
    used_by: tuple[str, ...] = ()
    packages: int = 0
    sha256: str = ""
    notes: tuple[str, ...] = ()
    templates: tuple[Mapping[str, object], ...] = ()
