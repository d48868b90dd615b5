"""Snapshots: take, list, put back, remove, let expire; each change an operation that a crash can't leave half-done."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from triune.domain.errors import Conflict, Invalid, NotFound, TriuneError, Unsupported
from triune.domain.instance import State
from triune.domain.names import single_line, snapshot_name
from triune.domain.operation import Operation, Silent
from triune.domain.snapshot import Consistency, Snapshot
from triune.engines import base
from triune.services.instances import Inventory, require_facet
from triune.services.instances.inventory import nearest
from triune.services.operations import Events, Operations, Task
from triune.services.snapshots.expiry import Expiring
from triune.store import Store

log = logging.getLogger(__name__)

_SHUTDOWN = 10.0
_RETRY = timedelta(hours=1)
_LONGEST_COMMENT = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotRequest:
    """What to take. `name` None: snap-YYYYMMDD-HHMMSS (UTC). `keep` is how many of `schedule` stay, None: all."""

    instance: str
    name: str | None = None
    memory: bool = False
    expires: datetime | None = None
    comment: str = ""
    schedule: str = ""
    keep: int | None = None


class Snapshots:
    """The snapshots of all instances, read from their engines each time."""

    def __init__(
        self,
        engines: Mapping[str, base.Engine],
        inventory: Inventory,
        operations: Operations,
        events: Events,
        store: Store,
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._engines = engines
        self._inventory = inventory
        self._operations = operations
        self._events = events
        self._expiring = Expiring(store)
        self._clock = clock
        operations.handlers["snapshot"] = self._erase
        operations.handlers["snapshot-restore"] = self._finish_restore

    # Reading

    def list(self, instance: str) -> Sequence[Snapshot]:
        """All of one instance, the oldest first. Raises NotFound, Unsupported."""
        return self._facet(self._inventory.engine_of(instance)).list(instance)

    def get(self, instance: str, snapshot: str) -> Snapshot:
        """One of them. Raises NotFound."""
        return _find(instance, snapshot, self.list(instance))

    def check_schedule(self, instance: str, *, memory: bool) -> None:
        """Raise what every run of a schedule would: NotFound, Unsupported."""
        engine = self._inventory.engine_of(instance)
        facet = self._facet(engine)
        if memory and not facet.memory:
            raise _no_memory(engine, instance)

    # Changing

    def create(self, request: SnapshotRequest) -> Operation:
        """Take one. Raises Invalid, NotFound, Conflict("snapshot_exists"), Unsupported at once."""
        name = request.instance
        engine = self._inventory.engine_of(name)
        facet = self._facet(engine)
        self._check(request)
        _require_memory(engine, facet, request)
        chosen = _chosen(request, facet.list(name), self._clock())

        def work(task: Task) -> dict[str, Any]:
            taken = self._take(engine, facet, request, chosen, task)
            task.keep()
            self._publish("snapshot.created", name, chosen)
            if request.keep is not None:
                self._thin(name, facet, request.schedule, request.keep, task)
            return {"name": chosen, "instance": name, "consistency": taken.consistency.value, "memory": taken.memory}

        return self._submit("snapshot", name, chosen, work, schedule=request.schedule)

    def restore(self, instance: str, snapshot: str, *, force: bool) -> Operation:
        """Put an instance back. One that runs needs `force`: it is stopped, put back and started again."""
        engine = self._inventory.engine_of(instance)
        facet = self._facet(engine)
        _find(instance, snapshot, facet.list(instance))
        _require_stopped(engine, instance, force=force)

        def work(task: Task) -> dict[str, Any]:
            # Once more: another client may have started it before this operation had the lock.
            running = _require_stopped(engine, instance, force=force)
            if running:
                task.intend("start", engine=engine.name, name=instance)
                task.step("stop", f"stopping {instance}")
                engine.stop(instance, timeout=_SHUTDOWN, force=True, progress=task)
            task.intend("snapshot-restore", redo=True, engine=engine.name, name=instance, snapshot=snapshot)
            task.shield()
            task.step("restore", f"putting {instance} back to {snapshot}")
            facet.restore(instance, snapshot, task)
            self._publish("snapshot.restored", instance, snapshot)
            if running:
                task.step("start", f"starting {instance}")
                engine.start(instance, task)
            return {"name": snapshot, "instance": instance, "state": engine.row(instance).state.value}

        return self._submit("snapshot-restore", instance, snapshot, work)

    def delete(self, instance: str, snapshot: str) -> Operation:
        """Remove one. Raises NotFound; the operation fails with Conflict("snapshot_in_use") where others need it."""
        engine = self._inventory.engine_of(instance)
        facet = self._facet(engine)
        _find(instance, snapshot, facet.list(instance))

        def work(task: Task) -> None:
            self._remove(engine, facet, instance, snapshot, task)
            self._publish("snapshot.deleted", instance, snapshot)

        return self._submit("snapshot-delete", instance, snapshot, work)

    def expire(self) -> None:
        """Begin to remove all whose time has come. Never raises: what can't be removed now is tried again."""
        for instance, snapshot in self._expiring.due(self._clock()):
            try:
                self._expire(instance, snapshot)
            except NotFound:
                self._expiring.drop(instance, snapshot)
            except TriuneError as error:
                log.debug("snapshot %s of %s stays for now: %s", snapshot, instance, error)

    def _expire(self, instance: str, snapshot: str) -> None:
        engine = self._inventory.engine_of(instance)
        facet = self._facet(engine)

        def work(task: Task) -> None:
            try:
                self._remove(engine, facet, instance, snapshot, task)
            except TriuneError:
                self._expiring.put(instance, snapshot, self._clock() + _RETRY)
                raise
            self._publish("snapshot.expired", instance, snapshot)

        self._submit("snapshot-expire", instance, snapshot, work)

    # Followers of instances' names

    def renamed(self, name: str, new: str) -> None:
        """An instance has another name; its engine has moved its snapshots along."""
        self._expiring.renamed(name, new)

    def forgotten(self, name: str) -> None:
        """An instance is gone, and its snapshots with it."""
        self._expiring.forgotten(name)

    # Parts

    def _take(
        self, engine: base.Engine, facet: base.Snapshots, request: SnapshotRequest, chosen: str, task: Task
    ) -> Snapshot:
        name = request.instance
        _require_new(name, chosen, facet.list(name))  # once more, now that nobody else of ours can make one
        task.intend("snapshot", engine=engine.name, name=name, snapshot=chosen)
        task.step("snapshot", f"taking the snapshot {chosen} of {name}")
        wanted = Snapshot(
            name=chosen,
            created=self._clock(),
            consistency=Consistency.CRASH,
            memory=request.memory,
            expires=request.expires,
            schedule=request.schedule,
            comment=request.comment,
        )
        try:
            taken = facet.create(name, wanted, task)
        except Conflict as error:
            if error.code == "snapshot_exists":
                # Another tool was quicker: undoing must not remove what is not ours.
                task.withdraw("snapshot")
            raise
        if request.expires is not None:
            self._expiring.put(name, chosen, request.expires)
        return taken

    def _thin(self, name: str, facet: base.Snapshots, schedule: str, keep: int, task: Task) -> None:
        """Of what a schedule made, remove the oldest beyond `keep`; what others need stays for now."""
        of_it = [one.name for one in facet.list(name) if one.schedule == schedule]
        for old in of_it[: max(len(of_it) - keep, 0)]:
            task.step("expire", f"removing {old} of {name}")
            try:
                facet.delete(name, old, task)
            except Conflict as error:
                log.info("snapshot %s of %s stays: %s", old, name, error)
                continue
            self._expiring.drop(name, old)
            self._publish("snapshot.expired", name, old)

    def _remove(self, engine: base.Engine, facet: base.Snapshots, name: str, snapshot: str, task: Task) -> None:
        task.intend("snapshot", redo=True, engine=engine.name, name=name, snapshot=snapshot)
        task.shield()
        task.step("delete", f"removing {snapshot} of {name}")
        facet.delete(name, snapshot, task)
        self._expiring.drop(name, snapshot)

    def _erase(self, data: Mapping[str, Any]) -> None:
        """The undo of `create`, and after a crash the end of a removal."""
        facet = self._facet(self._engines[data["engine"]])
        try:
            facet.delete(data["name"], data["snapshot"], Silent())
        except NotFound:
            pass  # the instance is gone, and all that was its own
        except Conflict as error:
            if error.code != "snapshot_in_use":
                raise
            log.info("snapshot %s of %s stays: %s", data["snapshot"], data["name"], error)
            return
        self._expiring.drop(data["name"], data["snapshot"])

    def _finish_restore(self, data: Mapping[str, Any]) -> None:
        """After a crash: what it had before may be half gone, so it is put back wholly."""
        try:
            self._facet(self._engines[data["engine"]]).restore(data["name"], data["snapshot"], Silent())
        except NotFound as error:
            log.warning("%s was to be put back to %s: %s", data["name"], data["snapshot"], error)

    @staticmethod
    def _facet(engine: base.Engine) -> base.Snapshots:
        return require_facet(engine, "snapshots", engine.snapshots)

    def _check(self, request: SnapshotRequest) -> None:
        if request.name is not None:
            snapshot_name(request.name)
        single_line(request.comment, "the comment")
        if len(request.comment) > _LONGEST_COMMENT:
            raise Invalid(
                "comment_too_long",
                f"the comment is longer than {_LONGEST_COMMENT} characters",
                hint="Say it in fewer words.",
            )
        if request.expires is not None and request.expires <= self._clock():
            raise Invalid(
                "expires_in_the_past",
                f"{request.expires.isoformat()} has passed already",
                hint="Give a time to come, like 7d.",
            )

    def _publish(self, kind: str, instance: str, snapshot: str) -> None:
        self._events.publish(kind, f"instances/{instance}", {"snapshot": snapshot})

    def _submit(
        self, kind: str, instance: str, snapshot: str, work: Callable[[Task], Any], *, schedule: str = ""
    ) -> Operation:
        resource = f"instances/{instance}"
        data = {"snapshot": snapshot, **({"schedule": schedule} if schedule else {})}
        return self._operations.submit(kind, resource, work, locks=[resource], data=data)


def _find(instance: str, snapshot: str, among: Sequence[Snapshot]) -> Snapshot:
    found = next((one for one in among if one.name == snapshot), None)
    if found is None:
        near = nearest(snapshot, (one.name for one in among))
        raise NotFound(
            "snapshot_not_found",
            f"{instance} has no snapshot {snapshot!r}",
            hint=f"Did you mean {near!r}?" if near else f"See all: triune snapshot list {instance}",
        )
    return found


def _require_new(instance: str, snapshot: str, among: Sequence[Snapshot]) -> None:
    if any(one.name == snapshot for one in among):
        raise Conflict(
            "snapshot_exists",
            f"{instance} has a snapshot {snapshot!r} already",
            hint=f"Choose another name, or remove it: triune snapshot rm {instance} {snapshot}",
        )


def _chosen(request: SnapshotRequest, among: Sequence[Snapshot], now: datetime) -> str:
    """The name asked for, or one of the time; two within a second differ by a number."""
    if request.name is not None:
        _require_new(request.instance, request.name, among)
        return request.name
    taken = {one.name for one in among}
    stem = f"snap-{now.astimezone(UTC):%Y%m%d-%H%M%S}"
    return next(name for number in range(1, len(taken) + 2) if (name := _numbered(stem, number)) not in taken)


def _numbered(stem: str, number: int) -> str:
    return stem if number == 1 else f"{stem}-{number}"


def _require_memory(engine: base.Engine, facet: base.Snapshots, request: SnapshotRequest) -> None:
    if not request.memory:
        return
    name = request.instance
    if not facet.memory:
        raise _no_memory(engine, name)
    if engine.row(name).state is State.STOPPED:
        raise Conflict(
            "instance_not_running",
            f"{name} is stopped, so there is no running state to keep",
            hint=f"Start it (triune start {name}), or leave out --memory.",
        )


def _no_memory(engine: base.Engine, name: str) -> Unsupported:
    reason = engine.probe().missing.get("snapshots.memory", "this engine can't")
    return Unsupported(
        "memory_unsupported",
        f"the running state of {name} can't be kept: {reason}",
        hint=f"Take one of its disk alone: triune snapshot create {name}",
    )


def _require_stopped(engine: base.Engine, name: str, *, force: bool) -> bool:
    """Whether it runs. Raises Conflict("instance_running") if so, unless `force`."""
    state = engine.row(name).state
    if state is State.STOPPED:
        return False
    if not force:
        raise Conflict(
            "instance_running",
            f"{name} is {state.value}, and would lose what it has done since the snapshot",
            hint=f"Stop it first (triune stop {name}), or let it be stopped and started again: --force",
        )
    return True
