"""What the store keeps of pools and volumes.

    pools/NAME      {"id", "driver", "path", "created", "loop", "dataset", "made"}
    volumes/NAME    {"pool", "kind", "format", "size", "created", "removing"}

A pool's own folder:

    .triune-pool.json            {"version": 1, "pool": NAME, "id": HEX}: this folder is that pool, and is mounted
    trees/NAME                   volumes that are folders; the host's users can't pass through (setuid programs)
    disks/NAME.FORMAT            volumes that are disks; the hypervisor's own user opens them
    instances/ENGINE/NAME        roots of instances, made by the engines
    tmp/                         work in progress; emptied at the daemon's start
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from triune.domain.pool import PoolDriver, VolumeKind

POOLS = "pools/"
VOLUMES = "volumes/"
MARKER = ".triune-pool.json"
FORMATS = ("qcow2", "raw", "vmdk")


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """What one instance was launched with: its pool (None: the engine's own place) and its named volumes."""

    instance: str
    pool: str | None = None
    volumes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolRecord:
    """`made`: the folder is ours and goes with the pool. `loop` is the file system's file, `dataset` that of zfs."""

    name: str
    id: str
    driver: PoolDriver
    path: Path
    created: datetime
    loop: Path | None = None
    dataset: str = ""
    made: bool = True

    @property
    def marker(self) -> bytes:
        """What the pool's own folder says of itself."""
        return json.dumps({"version": 1, "pool": self.name, "id": self.id}).encode()

    def value(self) -> dict[str, Any]:
        """As the store has it."""
        return {
            "id": self.id,
            "driver": self.driver.value,
            "path": str(self.path),
            "created": self.created.isoformat(),
            "loop": str(self.loop) if self.loop else None,
            "dataset": self.dataset,
            "made": self.made,
        }


def pool_record(name: str, value: dict[str, Any]) -> PoolRecord:
    """From the store."""
    return PoolRecord(
        name=name,
        id=str(value["id"]),
        driver=PoolDriver(value["driver"]),
        path=Path(value["path"]),
        created=datetime.fromisoformat(value["created"]),
        loop=Path(value["loop"]) if value["loop"] else None,
        dataset=str(value["dataset"]),
        made=bool(value["made"]),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeRecord:
    """`size` of a tree is its quota (None: none), of a disk its virtual size. `removing`: it is being removed."""

    name: str
    pool: str
    kind: VolumeKind
    created: datetime
    format: str = ""
    size: int | None = None
    removing: bool = False

    def place(self, pool: Path) -> Path:
        """Its folder or file in the pool at this path."""
        return pool / "trees" / self.name if self.kind is VolumeKind.TREE else disk_path(pool, self.name, self.format)

    def value(self) -> dict[str, Any]:
        """As the store has it."""
        return {
            "pool": self.pool,
            "kind": self.kind.value,
            "format": self.format,
            "size": self.size,
            "created": self.created.isoformat(),
            "removing": self.removing,
        }


def disk_path(pool: Path, name: str, form: str) -> Path:
    """Where the disk of a volume lies."""
    return pool / "disks" / f"{name}.{form}"


def volume_record(name: str, value: dict[str, Any]) -> VolumeRecord:
    """From the store."""
    return VolumeRecord(
        name=name,
        pool=str(value["pool"]),
        kind=VolumeKind(value["kind"]),
        created=datetime.fromisoformat(value["created"]),
        format=str(value["format"]),
        size=value["size"],
        removing=bool(value.get("removing")),
    )
