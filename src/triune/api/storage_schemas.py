"""Pools and volumes: what requests carry, and what replies look like."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, Field

from triune.api.schemas import Body, Name, Size, list_row
from triune.domain.pool import PoolDriver, VolumeKind


class PoolBody(Body):
    """A pool to make."""

    name: Name
    driver: PoolDriver = PoolDriver.DIR
    path: Annotated[str | None, Field(max_length=4096, description="Absolute; null: a place of Triune's own")] = None
    size: Annotated[Size | None, Field(description="Of a btrfs in a file of its own")] = None
    dataset: Annotated[str, Field(max_length=255, description="For zfs, like tank/triune")] = ""


class VolumeBody(Body):
    """An empty volume to make."""

    source: Literal["empty"] = "empty"
    name: Name
    pool: Annotated[str, Field(max_length=63)] = "default"
    kind: VolumeKind | None = None
    size: Size | None = None
    format: Annotated[str, Field(max_length=20, description="qcow2, raw or vmdk; of a disk")] = ""


class VolumeImportFields(Body):
    """What to make of a file; see services.storage."""

    pool: Annotated[str, Field(max_length=63)] = "default"
    format: Annotated[str | None, Field(max_length=20, description="qcow2, raw, vmdk or tree")] = None
    size: Annotated[Size | None, Field(description="Limit of a folder")] = None
    max_size: Annotated[Size | None, Field(description="Largest it may become; left out: 4 TiB")] = None


class VolumeImportBody(VolumeImportFields):
    """Import a file or a folder of the daemon's host."""

    source: Literal["import"]
    name: Name
    path: Annotated[str, Field(min_length=1, max_length=4096, description="Absolute")]


class VolumeUpload(VolumeImportFields):
    """The query of an upload."""

    name: Name


VolumeMaking = VolumeImportBody | VolumeBody


class ResizeBody(Body):
    """The new size of a volume."""

    size: Size


class ConvertBody(Body):
    """The new format of a disk."""

    format: Annotated[str, Field(max_length=20, description="qcow2, raw or vmdk")]


class ExportBody(Body):
    """The file to write, on the daemon's host."""

    path: Annotated[str, Field(min_length=1, max_length=4096, description="Absolute; must not exist")]
    format: Annotated[str | None, Field(max_length=20, description="Of a disk; null: as it is")] = None


class AttachBody(Body):
    """Where a volume is seen; a disk has no target."""

    target: Annotated[str, Field(max_length=4096)] = ""
    read_only: bool = False


# Replies


class Pool(BaseModel):
    """One pool; sizes are null where it is unavailable, and `reason` says why."""

    name: str
    driver: PoolDriver
    path: str
    created: datetime
    size: int | None
    free: int | None
    available: bool
    reason: str
    loop: str | None
    dataset: str
    reflink: bool
    quota: bool
    quota_reason: str
    used_by: list[str]


if TYPE_CHECKING:
    PoolRow = Pool
else:
    PoolRow = list_row(Pool, "name")


class PoolList(BaseModel):
    """A page of pools."""

    items: list[PoolRow]
    next: str | None


class Volume(BaseModel):
    """One volume; `reason` says why it can't be used now."""

    name: str
    pool: str
    kind: VolumeKind
    path: str
    created: datetime
    size: int | None
    used: int | None
    format: str
    reason: str
    used_by: list[str]


if TYPE_CHECKING:
    VolumeRow = Volume
else:
    VolumeRow = list_row(Volume, "name")


class VolumeList(BaseModel):
    """A page of volumes."""

    items: list[VolumeRow]
    next: str | None
