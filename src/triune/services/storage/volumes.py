"""Volumes: disks and folders of pools with a life of their own."""

from __future__ import annotations

import difflib
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from triune.domain.errors import Conflict, Invalid, NotFound, TriuneError, Unsupported
from triune.domain.instance import VolumeMount
from triune.domain.names import single_line, storage_name
from triune.domain.operation import Operation
from triune.domain.pool import Volume, VolumeKind
from triune.domain.units import format_size
from triune.services.operations import Operations, Task
from triune.services.storage import diskfiles
from triune.services.storage.pools import DEFAULT, Pools
from triune.services.storage.records import FORMATS, VOLUMES, PoolRecord, Use, VolumeRecord, disk_path, volume_record
from triune.services.storage.space import filling
from triune.store import Delete, Put, Store


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeOptions:
    """What a volume is asked to be. `kind` None: a disk where a `format` is given, else a tree. `size` in bytes."""

    pool: str = DEFAULT
    kind: VolumeKind | None = None
    size: int | None = None
    format: str = ""


class Volumes:
    """All volumes of all pools; their names are unique on the host. `running` tells whether an instance runs."""

    def __init__(
        self,
        store: Store,
        operations: Operations,
        pools: Pools,
        uses: Callable[[], Sequence[Use]],
        running: Callable[[str], bool],
    ) -> None:
        self._store = store
        self._operations = operations
        self._pools = pools
        self._uses = uses
        self._running = running
        self._claiming = threading.Lock()
        operations.handlers["volume"] = self._erase_recorded
        operations.handlers["volume-convert"] = self._settle_conversion
        operations.handlers["volume-work"] = self._remove_work
        operations.handlers["volume-size"] = self._settle_size

    # Reading

    def records(self) -> list[VolumeRecord]:
        """All of them by name."""
        return [volume_record(entry.key.removeprefix(VOLUMES), entry.value) for entry in self._store.scan(VOLUMES)]

    def record(self, name: str) -> VolumeRecord:
        """One of them. Raises NotFound("volume_not_found") with the nearest name."""
        entry = self._store.get(VOLUMES + single_line(name, "the volume's name"))
        if entry is None:
            near = difflib.get_close_matches(name, [record.name for record in self.records()], 1)
            raise NotFound(
                "volume_not_found",
                f"there is no volume {name!r}",
                hint=f"Did you mean {near[0]!r}?" if near else f"Make it: triune volume create {name}",
                name=name,
            )
        return volume_record(name, entry.value)

    def list(self) -> list[Volume]:
        """All of them by name."""
        users = self._users()
        return [self._seen(record, users) for record in self.records()]

    def get(self, name: str) -> Volume:
        """One of them. Raises NotFound."""
        return self._seen(self.record(name), self._users())

    def resolve(self, name: str) -> Volume:
        """One that is about to be used. Raises NotFound, Conflict("volume_removing", "pool_unavailable")."""
        record = self.record(name)
        if record.removing:
            raise Conflict(
                "volume_removing", f"the volume {name} is being removed", hint=f"Finish that: triune volume rm {name}"
            )
        pool = self._pools.record(record.pool)
        self._pools.require_open(pool)
        return self._known(record, pool)

    def mounts(self, asked: Sequence[VolumeMount], instance: str) -> tuple[VolumeMount, ...]:
        """What an instance's engine gets for what was asked: names become folders and disks.

        Raises as `resolve`, Invalid, and Conflict("volume_in_use") for a disk that another instance has.
        """
        return tuple(self.mount(mount, instance) for mount in asked)

    def mount(self, asked: VolumeMount, instance: str) -> VolumeMount:
        """The same for one; a host's folder stays as it is."""
        if "/" in asked.source:
            return asked
        volume = self.resolve(asked.source)
        if volume.kind is VolumeKind.TREE and not asked.target:
            raise Invalid(
                "bad_volume",
                f"the volume {volume.name} is a folder and needs a place inside",
                hint=f"Write it like {volume.name}:/srv",
            )
        if volume.kind is VolumeKind.DISK and asked.target:
            raise Invalid(
                "bad_volume",
                f"the volume {volume.name} is a disk: it is seen as a block device, not at {asked.target}",
                hint=f"Give its name alone, {volume.name}, and mount it inside.",
            )
        others = [name for name in self._users().get(volume.name, ()) if name != instance]
        if volume.kind is VolumeKind.DISK and others:
            raise Conflict(
                "volume_in_use",
                f"the disk {volume.name} is used by {others[0]}, and two systems on one disk would destroy its data",
                hint=f"Take it away from there first: triune volume detach {others[0]} {volume.name}",
            )
        return replace(asked, source=str(volume.path), volume=volume.name, format=volume.format)

    def _users(self) -> dict[str, tuple[str, ...]]:
        users: dict[str, tuple[str, ...]] = {}
        for use in self._uses():
            for name in dict.fromkeys(use.volumes):
                users[name] = (*users.get(name, ()), use.instance)
        return users

    def _known(self, record: VolumeRecord, pool: PoolRecord) -> Volume:
        return Volume(
            name=record.name,
            pool=record.pool,
            kind=record.kind,
            path=record.place(pool.path),
            created=record.created,
            size=record.size,
            format=record.format,
        )

    def _seen(self, record: VolumeRecord, users: Mapping[str, Sequence[str]]) -> Volume:
        pool = self._pools.record(record.pool)
        volume = replace(self._known(record, pool), used_by=tuple(sorted(users.get(record.name, ()))))
        try:
            backend = self._pools.require_open(pool)
            if record.kind is VolumeKind.TREE:
                used = backend.used(pool, volume.path)
            else:
                used = volume.path.stat().st_blocks * 512
        except TriuneError as error:
            return replace(volume, reason=error.message)
        except OSError as error:
            return replace(volume, reason=f"{volume.path}: {error.strerror}")
        return replace(volume, used=used)

    # Making

    def create(self, name: str, options: VolumeOptions) -> Operation:
        """Make an empty one. Raises Invalid, Conflict, NotFound, Unsupported at once."""
        record = self.checked(name, options)

        def work(task: Task) -> dict[str, Any]:
            pool = self.claim(task, record)
            task.step("make", f"making the volume {name}")
            with filling(pool.name):
                self.make_empty(pool, record)
            return self.keep(task, record)

        return self.submit("volume-create", name, work, pool=record.pool)

    def checked(self, name: str, options: VolumeOptions) -> VolumeRecord:
        """The record of a volume that may be made."""
        storage_name(name, "volume")
        self._require_free(name)
        pool = self._pools.record(options.pool)
        backend = self._pools.require_open(pool)
        kind = options.kind or (VolumeKind.DISK if options.format else VolumeKind.TREE)
        size = options.size
        if kind is VolumeKind.TREE:
            if options.format:
                raise Invalid("bad_volume", "a folder has no disk format", hint="Leave --format out, or --kind disk.")
            if size is not None and size < 1 << 20:
                raise Invalid("bad_size", f"a limit of {format_size(size)} is too small", hint="Ask for 1 MiB or more.")
            if size is not None and (reason := backend.quota(pool)):
                raise Unsupported("no_quota", reason, hint="Use a btrfs pool, or leave the size out.")
        elif size is not None:
            size = diskfiles.check_size(size)
        if kind is VolumeKind.DISK and (options.format or "qcow2") not in FORMATS:
            raise Invalid("bad_format", f"{options.format!r} is not a disk format", hint=f"Use {', '.join(FORMATS)}.")
        return VolumeRecord(
            name=name,
            pool=pool.name,
            kind=kind,
            created=datetime.now(UTC).replace(microsecond=0),
            format=(options.format or "qcow2") if kind is VolumeKind.DISK else "",
            size=size,
        )

    def _require_free(self, name: str) -> None:
        if self._store.get(VOLUMES + name) is not None:
            raise Conflict(
                "volume_exists", f"there is a volume {name!r} already", hint=f"See it: triune volume show {name}"
            )

    def claim(self, task: Task, record: VolumeRecord) -> PoolRecord:
        """Say durably what is about to be made; returns the opened pool. Raises Conflict("path_taken")."""
        self._require_free(record.name)
        pool = self._pools.record(record.pool)
        self._pools.require_open(pool)
        path = record.place(pool.path)
        if path.exists():
            raise Conflict(
                "path_taken",
                f"{path} exists, and is no volume of this host",
                hint="Import it under a name and remove it there, or choose another name.",
            )
        task.intend("volume", name=record.name, record=record.value())
        return pool

    def make_empty(self, pool: PoolRecord, record: VolumeRecord) -> None:
        """Its folder or disk."""
        path = record.place(pool.path)
        if record.kind is VolumeKind.DISK:
            if record.size is None:
                raise Invalid("size_needed", "a disk needs a size", hint="Say how large: --size 10GiB")
            diskfiles.make(path, record.format, record.size)
            return
        backend = self._pools.require_open(pool)
        backend.make_tree(pool, path)
        if record.size is not None:
            backend.limit(pool, path, record.size)

    def keep(self, task: Task, record: VolumeRecord) -> dict[str, Any]:
        """It is made: record it for good."""
        self._store.commit([Put(VOLUMES + record.name, record.value())])
        task.keep()
        return {"name": record.name, "pool": record.pool, "kind": record.kind.value, "size": record.size}

    def submit(
        self, kind: str, name: str, work: Callable[[Task], Any], *, pool: str | None = None, may_cancel: bool = True
    ) -> Operation:
        """Run an operation that has the volume for itself."""
        resource = f"volumes/{name}"
        data = {"volumes": [name], **({"pool": pool} if pool else {})}
        return self._operations.submit(kind, resource, work, locks=[resource], data=data, may_cancel=may_cancel)

    # Removing

    def remove(self, name: str) -> Operation:
        """Remove one that nothing uses. Raises NotFound, Conflict("volume_in_use")."""
        self._require_unused(self.record(name))

        def work(task: Task) -> None:
            with self._claiming:
                # Whoever launches with it says so before it looks for it: one of both sees the other.
                record = self.record(name)
                self._require_unused(record)
                pool = self._pools.record(record.pool)
                self._pools.require_open(pool)
                self._store.commit([Put(VOLUMES + name, replace(record, removing=True).value())])
            task.intend("volume", redo=True, name=name, record=record.value())
            task.shield()
            task.step("remove", f"removing the volume {name}")
            self._erase(record)

        return self.submit("volume-remove", name, work)

    def _require_unused(self, record: VolumeRecord, why: str = "Detach it, or remove those first.") -> None:
        users = [
            *self._users().get(record.name, ()),
            *self._launching(record.name),
        ]
        if users:
            raise Conflict(
                "volume_in_use",
                f"the volume {record.name} is used by {', '.join(users[:5])}",
                hint=why,
                used_by=users,
            )

    def _launching(self, name: str) -> Iterator[str]:
        """Instances that a running operation is about to give it to."""
        for operation in self._operations.list(running=True):
            if name in operation.data.get("volumes", ()) and not operation.resource.startswith(VOLUMES):
                yield operation.resource.partition("/")[2]

    def _erase_recorded(self, data: Mapping[str, Any]) -> None:
        """The undo of making one, and after a crash the end of removing it."""
        self._erase(volume_record(data["name"], data["record"]))

    def _erase(self, record: VolumeRecord) -> None:
        pool = self._pools.record(record.pool)
        backend = self._pools.require_open(pool)
        path = record.place(pool.path)
        if record.kind is VolumeKind.TREE:
            backend.drop_tree(pool, path)
        else:
            path.unlink(missing_ok=True)
        self._store.commit([Delete(VOLUMES + record.name)])

    # Changing

    def resize(self, name: str, size: int) -> Operation:
        """Grow or shrink it. A disk that a running instance has is left alone. Raises at once what can be told."""
        record = self.record(name)
        if record.kind is VolumeKind.DISK:
            size = diskfiles.check_size(size)
            self.require_still(record)
        elif size < 1 << 20:
            raise Invalid("bad_size", f"a limit of {format_size(size)} is too small", hint="Ask for 1 MiB or more.")

        def work(task: Task) -> dict[str, Any]:
            record = self.record(name)
            volume = self.resolve(name)
            pool = self._pools.record(record.pool)
            task.intend("volume-size", name=name)
            with filling(pool.name):
                if record.kind is VolumeKind.TREE:
                    self._limit(pool, volume, size, task)
                else:
                    self.require_still(record)
                    self._resize_disk(pool, volume, size, task)
            self._store.commit([Put(VOLUMES + name, replace(record, size=size).value())])
            return {"name": name, "size": size}

        return self.submit("volume-resize", name, work)

    def _limit(self, pool: PoolRecord, volume: Volume, size: int, task: Task) -> None:
        backend = self._pools.require_open(pool)
        if reason := backend.quota(pool):
            raise Unsupported("no_quota", reason, hint="Export it, and import it to a btrfs pool.")
        task.step("limit", f"limiting {volume.name} to {format_size(size)}")
        used = backend.used(pool, volume.path)
        if used is None or used > size:
            raise Conflict(
                "does_not_fit",
                f"the volume {volume.name} holds {format_size(used)}, more than {format_size(size)}",
                hint="Remove files from it, or ask for more.",
                used=used,
            )
        backend.limit(pool, volume.path, size)

    def _resize_disk(self, pool: PoolRecord, volume: Volume, size: int, task: Task) -> None:
        now = diskfiles.virtual_size(volume.path, volume.format)
        if size == now:
            return
        work = self._work(pool, volume.format)
        task.intend("volume-work", pool=pool.name, file=work.name)
        if size > now:
            task.step("grow", f"growing {volume.name} to {format_size(size)}")
            diskfiles.grow(volume.path, volume.format, size, work, _ticks(task))
        else:
            task.step("shrink", f"shrinking {volume.name} to {format_size(size)}")
            diskfiles.shrink(volume.path, volume.format, size, work, _ticks(task))

    def _settle_size(self, data: Mapping[str, Any]) -> None:
        """After a failure or a crash: a disk's size is what it has, a folder's limit is what is on record."""
        record = self.record(data["name"])
        pool = self._pools.record(record.pool)
        backend = self._pools.require_open(pool)
        path = record.place(pool.path)
        if record.kind is VolumeKind.TREE:
            backend.limit(pool, path, record.size)
            return
        now = replace(record, size=diskfiles.virtual_size(path, record.format))
        self._store.commit([Put(VOLUMES + record.name, now.value())])

    def require_still(self, record: VolumeRecord) -> None:
        """A disk is changed only while no running instance has it."""
        busy = [name for name in self._users().get(record.name, ()) if self._running(name)]
        if busy:
            raise Conflict(
                "volume_in_use",
                f"the disk {record.name} is in use by {', '.join(busy)}, which run",
                hint=f"Stop them, or detach it: triune volume detach {busy[0]} {record.name}",
                used_by=busy,
            )

    def convert(self, name: str, form: str) -> Operation:
        """Give a disk another format; what is on it is compared byte for byte before the old file goes."""
        record = self._convertible(name, form)

        def work(task: Task) -> dict[str, Any]:
            record = self._convertible(name, form)
            pool = self._pools.record(record.pool)
            self._pools.require_open(pool)
            old, new = record.place(pool.path), disk_path(pool.path, name, form)
            if form != record.format:
                work = self._work(pool, form)
                task.intend("volume-convert", name=name, old=record.format, new=form)
                task.intend("volume-work", pool=pool.name, file=work.name)
                with filling(pool.name):
                    task.step("convert", f"converting {name} from {record.format} to {form}")
                    diskfiles.convert(old, record.format, work, form, _ticks(task))
                    task.step("compare", "comparing the new disk with the old one")
                    diskfiles.same(old, record.format, work, form, _ticks(task))
                task.step("replace", "putting it in its place")
                work.replace(new)
                self._store.commit([Put(VOLUMES + name, replace(record, format=form).value())])
                task.shield()
                old.unlink()
            return {"name": name, "format": form, "size": record.size}

        return self.submit("volume-convert", record.name, work)

    def _convertible(self, name: str, form: str) -> VolumeRecord:
        record = self.record(name)
        if record.kind is not VolumeKind.DISK:
            raise Invalid("not_a_disk", f"the volume {name} is a folder and has no format", hint="Convert disks only.")
        if form not in FORMATS:
            raise Invalid("bad_format", f"{form!r} is not a disk format", hint=f"Use {', '.join(FORMATS)}.")
        # Instances know the file by its name, which the format is part of.
        self._require_unused(record, f"Detach it first: triune volume detach INSTANCE {name}")
        return record

    def _settle_conversion(self, data: Mapping[str, Any]) -> None:
        """After a failure or a crash: the format that is on record stays, the other file goes."""
        record = self.record(data["name"])
        pool = self._pools.record(record.pool)
        self._pools.require_open(pool)
        for form in {data["old"], data["new"]} - {record.format}:
            disk_path(pool.path, record.name, form).unlink(missing_ok=True)

    @staticmethod
    def _work(pool: PoolRecord, form: str) -> Path:
        return pool.path / "tmp" / f"{secrets.token_hex(8)}.{form}"

    def _remove_work(self, data: Mapping[str, Any]) -> None:
        """Work in progress of a disk that did not get its place."""
        pool = self._pools.record(data["pool"])
        self._pools.require_open(pool)
        for path in (pool.path / "tmp").glob(f"{Path(data['file']).stem}.*"):
            path.unlink(missing_ok=True)


def _ticks(task: Task) -> Callable[[float | None], None]:
    return task.report
