"""The pools' volumes of an instance: with it in its backup, and new ones of their own after a restore."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from triune.domain.errors import Conflict, TriuneError
from triune.domain.instance import InstanceSpec
from triune.domain.pool import VolumeKind
from triune.engines.archiving import Part, PartKind
from triune.host.filling import put
from triune.services.operations import Task
from triune.services.storage import Storage, VolumeOptions
from triune.services.storage.pools import DEFAULT
from triune.services.storage.records import VOLUMES
from triune.store import Put, Store

_PREFIX = "pool-volume-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Included:
    """The volumes in a backup: their parts, what the manifest says of them, and the names of those left out."""

    parts: tuple[Part, ...] = ()
    told: tuple[Mapping[str, Any], ...] = ()
    left_out: tuple[str, ...] = ()


def included(spec: Mapping[str, Any], storage: Storage) -> Included:
    """The folders among the named volumes of a spec. Disks are not read while a machine may write to them."""
    parts: list[Part] = []
    told: list[Mapping[str, Any]] = []
    left_out: list[str] = []
    for mount in spec.get("volumes") or ():
        name = str(mount.get("source", ""))
        if not name or "/" in name:
            continue
        try:
            volume = storage.volumes.resolve(name)
        except TriuneError:
            left_out.append(name)
            continue
        if volume.kind is not VolumeKind.TREE:
            left_out.append(name)
            continue
        part = f"{_PREFIX}{name}"
        parts.append(Part(kind=PartKind.TREE, name=part, path=volume.path))
        told.append(
            {"part": part, "name": name, "pool": volume.pool, "size": volume.size, "target": str(mount.get("target"))}
        )
    return Included(parts=tuple(parts), told=tuple(told), left_out=tuple(left_out))


class Volumes:
    """Making the volumes of a backup anew. A name that is taken gets the new instance's name before it."""

    def __init__(self, storage: Storage, store: Store, task: Task) -> None:
        self._storage = storage
        self._store = store
        self._task = task

    def names(self, told: Sequence[Mapping[str, Any]], instance: str) -> dict[str, str]:
        """The new names by the old ones. Raises Conflict where both are taken."""
        there = {record.name for record in self._storage.volumes.records()}
        names = {}
        for one in told:
            old = str(one["name"])
            free = [name for name in (old, f"{instance}-{old}"[:63].rstrip("-")) if name not in there]
            if not free:
                raise Conflict(
                    "volume_exists",
                    f"there are volumes {old!r} and {instance}-{old} already",
                    hint=f"Remove one (triune volume rm {old}), or restore under another name.",
                )
            names[old] = free[0]
        return names

    def make(self, one: Mapping[str, Any], name: str, tree: Path) -> None:
        """One volume, with a tree's content."""
        volumes, pools = self._storage.volumes, self._storage.pools
        pool = str(one.get("pool"))
        wanted = pool if pool in {record.name for record in pools.records()} else DEFAULT
        options = VolumeOptions(pool=wanted, kind=VolumeKind.TREE, size=one.get("size"))
        try:
            record = volumes.checked(name, options)
        except TriuneError:  # this pool has no quota
            record = volumes.checked(name, replace(options, size=None))
        self._task.step("volume", f"making the volume {name}")
        place = volumes.claim(self._task, record)
        volumes.make_empty(place, record)
        put(tree, record.place(place.path))
        self._store.commit([Put(VOLUMES + name, record.value())])


def renamed(spec: InstanceSpec, names: Mapping[str, str]) -> InstanceSpec:
    """The spec with the new names of its volumes, without those that the backup does not have."""
    kept = (mount for mount in spec.volumes if "/" in mount.source or mount.source in names)
    return replace(spec, volumes=tuple(replace(mount, source=names.get(mount.source, mount.source)) for mount in kept))
