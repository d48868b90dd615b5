"""Pools: making them, opening them at the daemon's start, looking at them, removing them."""

from __future__ import annotations

import difflib
import json
import logging
import os
import secrets
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from triune.domain.errors import Conflict, Failed, Invalid, NotFound, TriuneError
from triune.domain.names import single_line, storage_name
from triune.domain.operation import Operation
from triune.domain.pool import Pool, PoolDriver, PoolPlace
from triune.domain.units import format_size
from triune.host import overlay
from triune.host.beneath import remove_tree
from triune.host.copytree import clones
from triune.services.operations import Operations, Task
from triune.services.storage.backends import BACKENDS, Backend
from triune.services.storage.records import MARKER, POOLS, VOLUMES, PoolRecord, Use, pool_record
from triune.services.storage.space import filling
from triune.store import Delete, Put, Store

log = logging.getLogger(__name__)

DEFAULT = "default"
_SPARE = 64 << 20  # stays free on the disk that a loop file is made on
_FOLDERS = (("trees", 0o700), ("disks", 0o711), ("instances", 0o711), ("tmp", 0o700))


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolOptions:
    """What a pool is asked to be. `path` None: a place of ours; `size` (bytes) makes a loop file; `dataset` for zfs."""

    driver: PoolDriver = PoolDriver.DIR
    path: Path | None = None
    size: int | None = None
    dataset: str = ""


class Pools:
    """All pools. `uses` tells what instances were launched with."""

    def __init__(self, data: Path, store: Store, operations: Operations, uses: Callable[[], Sequence[Use]]) -> None:
        self._data = data
        self._folder = data / "pools"
        self._store = store
        self._operations = operations
        self._uses = uses
        self._opening = threading.RLock()
        operations.handlers["pool"] = self._erase_recorded

    # Reading

    def start(self) -> None:
        """Make the default pool where there is none, and mount all others; what fails is told by `list`."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o711)
        if self._store.get(POOLS + DEFAULT) is None:
            record = self._record(DEFAULT, PoolOptions())
            record.path.mkdir(exist_ok=True)
            self._lay_out(record)
            self._store.commit([Put(POOLS + DEFAULT, record.value())])
        for record in self.records():
            try:
                self.open(record)
                _empty(record.path / "tmp")
            except (TriuneError, OSError) as error:
                log.warning("the pool %s is unavailable: %s", record.name, error)

    def records(self) -> list[PoolRecord]:
        """All of them by name."""
        return [pool_record(entry.key.removeprefix(POOLS), entry.value) for entry in self._store.scan(POOLS)]

    def record(self, name: str) -> PoolRecord:
        """One of them. Raises NotFound("pool_not_found") with the nearest name."""
        entry = self._store.get(POOLS + single_line(name, "the pool's name"))
        if entry is None:
            near = difflib.get_close_matches(name, [record.name for record in self.records()], 1)
            raise NotFound(
                "pool_not_found",
                f"there is no pool {name!r}",
                hint=f"Did you mean {near[0]!r}?" if near else "See all: triune pool list",
                name=name,
            )
        return pool_record(name, entry.value)

    def list(self) -> list[Pool]:
        """All of them by name."""
        return [self._seen(record) for record in self.records()]

    def get(self, name: str) -> Pool:
        """One of them. Raises NotFound."""
        return self._seen(self.record(name))

    def place(self, name: str) -> PoolPlace:
        """A pool for an engine, mounted. Raises NotFound, Conflict("pool_unavailable")."""
        record = self.record(name)
        self.require_open(record)
        return PoolPlace(name=record.name, driver=record.driver, path=record.path)

    def require_open(self, record: PoolRecord) -> Backend:
        """The backend of a pool that can be used now. Raises Conflict("pool_unavailable")."""
        try:
            self.open(record)
        except (TriuneError, OSError) as error:
            raise Conflict(
                "pool_unavailable",
                f"the pool {record.name} is unavailable: {_why(error)}",
                hint=f"See: triune pool show {record.name}",
            ) from error
        return BACKENDS[record.driver]

    def open(self, record: PoolRecord) -> None:
        """Mount it and see that it is what it was. Raises Failed."""
        with self._opening:
            BACKENDS[record.driver].open(record)
            self._require_marker(record)

    def _require_marker(self, record: PoolRecord) -> None:
        marker = record.path / MARKER
        try:
            found = json.loads(marker.read_bytes())["id"]
        except FileNotFoundError:
            raise Failed(
                "pool_unavailable",
                f"{marker} is missing: what the pool is on may not be mounted",
                hint="Mount it, and look again.",
            ) from None
        except (OSError, ValueError, KeyError, TypeError):
            found = None
        if found != record.id:
            raise Failed(
                "pool_unavailable",
                f"{record.path} is not this pool any more: its mark is another's",
                hint="Mount the right file system there.",
            )

    def _seen(self, record: PoolRecord) -> Pool:
        facts: dict[str, Any] = {
            "name": record.name, "driver": record.driver, "path": record.path, "created": record.created,
            "loop": record.loop, "dataset": record.dataset, "used_by": self.used_by(record.name),
        }  # fmt: skip
        try:
            self.open(record)
            room = shutil.disk_usage(record.path)
            reason = BACKENDS[record.driver].quota(record)
        except (TriuneError, OSError) as error:
            return Pool(**facts, available=False, reason=_why(error))
        reflink = record.driver is not PoolDriver.ZFS and clones(record.path / "tmp")
        return Pool(**facts, size=room.total, free=room.free, reflink=reflink, quota=not reason, quota_reason=reason)

    def used_by(self, name: str) -> tuple[str, ...]:
        """Its volumes, as `volume NAME`, and the instances whose roots are in it."""
        volumes = [
            entry.key.removeprefix(VOLUMES) for entry in self._store.scan(VOLUMES) if entry.value["pool"] == name
        ]
        instances = sorted(use.instance for use in self._uses() if use.pool == name)
        return (*(f"volume {volume}" for volume in volumes), *instances)

    # Changing

    def create(self, name: str, options: PoolOptions) -> Operation:
        """Make one. Raises Invalid, Conflict, Unsupported at once."""
        storage_name(name, "pool")
        record = self._checked(name, options)
        resource = f"pools/{name}"

        def work(task: Task) -> dict[str, Any]:
            with self._opening:
                # Once more: another pool may have been made there meanwhile.
                self._checked(name, options)
                task.intend("pool", name=name, record=record.value())
                task.step("make", f"making the pool {name}")
                with filling(name):
                    self._make(record, options.size)
                self._store.commit([Put(POOLS + name, record.value())])
            task.keep()
            return {"name": name, "path": str(record.path)}

        return self._operations.submit("pool-create", resource, work, locks=[resource])

    def remove(self, name: str) -> Operation:
        """Remove one that nothing uses. Raises NotFound, Conflict("pool_in_use")."""
        record = self.record(name)
        self._require_unused(record)
        resource = f"pools/{name}"

        def work(task: Task) -> None:
            self._require_unused(self.record(name))
            task.intend("pool", redo=True, name=name, record=record.value())
            task.shield()
            task.step("remove", f"removing the pool {name}")
            self._erase(record)
            self._store.commit([Delete(POOLS + name)])

        return self._operations.submit("pool-remove", resource, work, locks=[resource])

    def _require_unused(self, record: PoolRecord) -> None:
        users = self.used_by(record.name)
        launching = [
            operation.resource.partition("/")[2]
            for operation in self._operations.list(running=True)
            if operation.data.get("pool") == record.name
        ]
        if users or launching:
            shown = ", ".join([*users, *launching][:5])
            raise Conflict(
                "pool_in_use",
                f"the pool {record.name} is used by {shown}",
                hint="Remove those first.",
                used_by=[*users, *launching],
            )
        if record.name == DEFAULT:
            raise Conflict(
                "pool_is_default", "the pool default is always there", hint="Remove the volumes you do not need in it."
            )

    # Making

    def _checked(self, name: str, options: PoolOptions) -> PoolRecord:
        if self._store.get(POOLS + name) is not None:
            raise Conflict("pool_exists", f"there is a pool {name!r} already", hint=f"See it: triune pool show {name}")
        if options.dataset and options.driver is not PoolDriver.ZFS:
            raise Invalid("bad_pool", "only a zfs pool has a dataset", hint="Leave --dataset out, or say --driver zfs.")
        record = self._record(name, options)
        self._check_path(record, given=options.path is not None)
        BACKENDS[options.driver].check(record, options.size)
        if record.loop is not None and options.size is not None:
            _require_room(record.loop.parent, options.size)
        return record

    def _record(self, name: str, options: PoolOptions) -> PoolRecord:
        path = options.path or self._folder / name
        on_loop = options.driver is PoolDriver.BTRFS and options.path is None
        return PoolRecord(
            name=name,
            id=secrets.token_hex(16),
            driver=options.driver,
            path=path,
            created=datetime.now(UTC).replace(microsecond=0),
            loop=self._folder / f"{name}.btrfs" if on_loop else None,
            dataset=options.dataset,
            made=not path.exists(),
        )

    def _check_path(self, record: PoolRecord, *, given: bool) -> None:
        path = record.path
        single_line(str(path), "the pool's path")
        if not path.is_absolute() or ".." in path.parts:
            raise Invalid("bad_path", f"{str(path)!r} is not an absolute path", hint="Write it like /srv/pool.")
        real = path.resolve()
        if real != path:
            raise Invalid("bad_path", f"{path} leads through a link to {real}", hint=f"Write it as {real}.")
        for other in self.records():
            if path == other.path or path in other.path.parents or other.path in path.parents:
                raise Conflict(
                    "pool_path_taken",
                    f"{path} overlaps with the pool {other.name} at {other.path}",
                    hint="Choose another folder.",
                )
        if given and (path in (self._data, *self._data.parents) or self._data in path.parents):
            raise Invalid("bad_path", f"{path} belongs to Triune's own data", hint="Leave --path out, or name another.")
        _require_empty(path)

    def _make(self, record: PoolRecord, size: int | None) -> None:
        record.path.mkdir(parents=True, exist_ok=True)
        BACKENDS[record.driver].make(record, size)
        self._lay_out(record)

    def _lay_out(self, record: PoolRecord) -> None:
        if record.made:
            record.path.chmod(0o711)
        # The mark first: it says that what is found here is ours to remove.
        marker = record.path / MARKER
        with marker.open("wb") as file:
            file.write(record.marker)
            file.flush()
            os.fsync(file.fileno())
        for name, mode in _FOLDERS:
            folder = record.path / name
            folder.mkdir(exist_ok=True)
            folder.chmod(mode)

    # Erasing

    def _erase_recorded(self, data: Mapping[str, Any]) -> None:
        """The undo of `create`, and after a crash the end of `remove`."""
        record = pool_record(data["name"], data["record"])
        self._erase(record)
        self._store.commit([Delete(POOLS + record.name)])

    def erase_all(self) -> None:
        """Every pool with everything in it, the default one too: for when Triune's data goes."""
        for record in self.records():
            self._erase(record)
            self._store.commit([Delete(POOLS + record.name)])

    def _erase(self, record: PoolRecord) -> None:
        """Everything of it, however far it had come. A folder that was there before stays, empty."""
        with self._opening:
            try:
                self.open(record)
            except (TriuneError, OSError):
                ours = record.made and record.loop is None and not overlay.is_mounted(record.path)
            else:
                ours = True
            BACKENDS[record.driver].erase(record)
            if ours and record.path.is_dir():
                for name, _ in _FOLDERS:
                    remove_tree(record.path / name)
                (record.path / MARKER).unlink(missing_ok=True)
            if record.made:
                with suppress(FileNotFoundError, OSError):
                    record.path.rmdir()


def _require_empty(path: Path) -> None:
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise Invalid("bad_path", f"{path} is not a folder", hint="Name a folder that is empty or not there yet.")
    if not path.is_dir():
        return
    if (path / MARKER).exists():
        raise Conflict("pool_path_taken", f"{path} holds a pool already", hint="Choose another folder.")
    if any(entry.name != "lost+found" for entry in path.iterdir()):
        raise Conflict("path_not_empty", f"{path} is not empty", hint=f"Name a new folder in it: {path}/triune")
    info = path.stat()
    if info.st_uid != 0 or info.st_mode & 0o022:
        raise Invalid(
            "unsafe_path",
            f"users other than root can write {path}",
            hint=f"Take that away: chown root: {path}; chmod 755 {path}",
        )


def _require_room(folder: Path, size: int) -> None:
    free = shutil.disk_usage(folder).free
    if size + _SPARE > free:
        raise Failed(
            "no_space",
            f"a pool of {format_size(size)} does not fit: {format_size(free)} are free at {folder}",
            hint="Make it smaller, or make room.",
        )


def _empty(folder: Path) -> None:
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            with suppress(OSError):
                remove_tree(entry)
        else:
            entry.unlink(missing_ok=True)


def _why(error: TriuneError | OSError) -> str:
    return error.message if isinstance(error, TriuneError) else f"{error.filename}: {error.strerror}"
