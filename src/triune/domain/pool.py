"""Pools, where disks and trees live, and volumes, disks and folders with a life of their own."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path


class PoolDriver(StrEnum):
    """What a pool is made of. `dir` uses reflinks where its file system has them."""

    DIR = "dir"
    BTRFS = "btrfs"
    ZFS = "zfs"


class VolumeKind(StrEnum):
    """A `tree` is a folder (containers, and VMs by virtiofs); a `disk` is a block device of a VM."""

    TREE = "tree"
    DISK = "disk"


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolPlace:
    """A pool as an engine sees it: a mounted folder and what it can do. `instances` is where instances' roots go,
    `path`/instances/ENGINE/NAME; on btrfs each is a subvolume."""

    name: str
    driver: PoolDriver
    path: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """A pool as `pool show` tells it. Sizes in bytes, None where it is unavailable: then `reason` says why.

    `loop` is the file behind it, where we made one; `dataset` that of zfs. `quota`: what is in it can be limited;
    else `quota_reason` says why not. `used_by` are its volumes and the instances whose roots are in it.
    """

    name: str
    driver: PoolDriver
    path: Path
    created: datetime
    size: int | None = None
    free: int | None = None
    available: bool = True
    reason: str = ""
    loop: Path | None = None
    dataset: str = ""
    reflink: bool = False
    quota: bool = False
    quota_reason: str = ""
    used_by: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    """A volume. `size` is its limit in bytes (None: the pool's), `used` what it takes on disk. `format` of a disk:
    qcow2, raw or vmdk; of a tree: "". `path` is the folder or the disk's file. `reason` says why it can't be used now
    (its pool is unavailable), "" when it can."""

    name: str
    pool: str
    kind: VolumeKind
    path: Path
    created: datetime
    size: int | None = None
    used: int | None = None
    format: str = ""
    reason: str = ""
    used_by: tuple[str, ...] = ()
