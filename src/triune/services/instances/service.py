"""What can be done with instances, whatever engine runs them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from triune.domain.errors import Conflict, NotFound, TriuneError, Unreachable
from triune.domain.files import FileStat
from triune.domain.instance import Instance, InstanceDetail, Origin, State, WaitFor
from triune.domain.limits import Limits, Value
from triune.domain.names import instance_name
from triune.domain.operation import Operation, Silent
from triune.engines.base import Command, Engine, EngineEvent, Session, Terminal
from triune.services.images import Images
from triune.services.instances.attaching import Attachments
from triune.services.instances.facets import require_facet
from triune.services.instances.inventory import INTENT, Counted, Inventory, Listing
from triune.services.instances.launch import Launcher, LaunchRequest, stored_in
from triune.services.instances.warming import Warming
from triune.services.limits import InstanceLimits
from triune.services.networks import Networks
from triune.services.operations import Events, Operations, Task
from triune.services.storage import Storage
from triune.store import Delete, Entry, Put, Store

if TYPE_CHECKING:
    from triune.services.advice.choosing import Figures

log = logging.getLogger(__name__)


class Follower(Protocol):
    """Keeps something of its own by the names of instances."""

    def renamed(self, name: str, new: str) -> None:
        """An instance has another name."""

    def forgotten(self, name: str) -> None:
        """An instance is gone."""


class Instances:
    """All instances of all engines. `followers` are told of changed names."""

    def __init__(
        self,
        engines: Mapping[str, Engine],
        images: Images,
        networks: Networks,
        storage: Storage,
        operations: Operations,
        events: Events,
        store: Store,
        limits: InstanceLimits,
        warming: Warming,
        measured: Figures | None = None,
    ) -> None:
        """`measured` tells the figures of this host that count where a launch names no engine."""
        self._engines = engines
        self._networks = networks
        self._limits = limits
        self._operations = operations
        self._events = events
        self._store = store
        self._inventory = Inventory(engines, store)
        self._launcher = Launcher(engines, self._inventory, images, networks, storage, store, limits, warming, measured)
        self.followers: list[Follower] = []
        self.attachments = Attachments(engines, self._inventory, storage, operations, store)
        operations.handlers["instance"] = self._erase_recorded
        operations.handlers["rename"] = self._finish_rename
        operations.handlers["start"] = self._finish_start

    # Reading

    @property
    def inventory(self) -> Inventory:
        """Which engine has which instance."""
        return self._inventory

    def forget(self, name: str) -> None:
        """Give its address, name and record back: it is gone."""
        self._forget(name)

    def list(self) -> Listing:
        """Every instance, and the engines that could not be read."""
        return self._inventory.list()

    def get(self, name: str) -> InstanceDetail:
        """Everything known of one instance. Raises NotFound."""
        found = self._inventory.get(name)
        intent = self.intent(name)
        if intent is not None and not found.command:  # a system's command: its engine does not know of it
            return replace(found, command=tuple(intent["spec"]["command"]))
        return found

    def limits(self, name: str) -> Limits:
        """What it may use. Raises NotFound."""
        return self._limits.read(self._engine(name), name)

    def stats(self) -> Sequence[Counted]:
        """Counters of every running instance, by name."""
        return self._inventory.stats()

    def intent(self, name: str) -> Mapping[str, Any] | None:
        """What was asked for: `{engine, created, spec, restarts?}`; `restarts` is how often we started it again."""
        entry = self._store.get(INTENT + name)
        return entry.value if entry else None

    def intents(self) -> Mapping[str, Mapping[str, Any]]:
        """All of them, by the instance's name."""
        return {entry.key.removeprefix(INTENT): entry.value for entry in self._store.scan(INTENT)}

    # Changing

    def launch(self, request: LaunchRequest) -> Operation:
        """Create, start and wait for an instance. Raises Invalid, Conflict, NotFound, Unsupported at once."""
        checked = self._launcher.checked(request)
        return self._operations.submit(
            "launch",
            _resource(checked.spec.name),
            lambda task: self._launcher.run(checked, task),
            locks=[_resource(checked.spec.name)],
            data={"engine": checked.spec.engine, "image": checked.spec.image, **stored_in(checked.spec)},
        )

    def start(self, name: str, *, wait: WaitFor = WaitFor.RUNNING, timeout: float = 180) -> Operation:
        """Start it; with READY wait as a launch does, `timeout` seconds at most, for one that runs already too."""
        engine = self._engine(name)

        def work(task: Task) -> None:
            task.step("start", f"starting {name}")
            engine.start(name, task)
            self._limits.enforce_started(engine, name)
            if wait is WaitFor.READY:
                task.step("ready", f"waiting until {name} is ready")
                engine.wait_ready(name, timeout, task)

        return self._submit("start", name, work)

    def stop(self, name: str, *, timeout: float, force: bool) -> Operation:
        """Shut it down; see `Engine.stop`."""
        engine = self._engine(name)

        def work(task: Task) -> None:
            task.step("stop", f"stopping {name}")
            engine.stop(name, timeout=timeout, force=force, progress=task)

        return self._submit("stop", name, work)

    def restart(self, name: str, *, timeout: float, force: bool) -> Operation:
        """Stop and start it."""
        engine = self._engine(name)

        def work(task: Task) -> None:
            task.intend("start", redo=True, engine=engine.name, name=name)
            task.step("stop", f"stopping {name}")
            engine.stop(name, timeout=timeout, force=force, progress=task)
            task.shield()
            task.step("start", f"starting {name}")
            engine.start(name, task)
            self._limits.enforce_started(engine, name)
            self._count_restart(name)

        return self._submit("restart", name, work)

    def pause(self, name: str) -> Operation:
        """Freeze it."""
        engine = self._engine(name)
        pausing = require_facet(engine, "pausing", engine.pausing)
        return self._submit("pause", name, lambda task: pausing.pause(name))

    def resume(self, name: str) -> Operation:
        """Thaw it."""
        engine = self._engine(name)
        pausing = require_facet(engine, "pausing", engine.pausing)
        return self._submit("resume", name, lambda task: pausing.resume(name))

    def set_limits(self, name: str, changes: Mapping[str, Value | None]) -> Operation:
        """Change what it may use; values as `domain.limits.parse` returns them, None lifts a limit.

        The result has `limits` (all, by key), `now` and `later`: the keys that act at once, or from the next start.
        """
        engine = self._engine(name)
        self._limits.require_change(engine, name, changes)
        return self._submit("set", name, lambda task: self._limits.change(engine, name, changes, task))

    def rename(self, name: str, new: str) -> Operation:
        """Give it another name, in its engine and on the network."""
        engine = self._engine(name)
        renaming = require_facet(engine, "renaming", engine.renaming)
        instance_name(new)
        self._inventory.require_free(new)
        if not renaming.live and engine.get(name).instance.state is not State.STOPPED:
            raise Conflict(
                "instance_running",
                f"{name} is running, and {engine.title} renames only what is stopped",
                hint=f"Stop it first: triune stop {name}",
            )

        def work(task: Task) -> None:
            task.intend("rename", engine=engine.name, name=name, new=new)
            task.shield()
            task.step("rename", f"renaming {name} to {new}")
            renaming.rename(name, new)
            self._rename_records(name, new)

        return self._submit("rename", name, work, also=(_resource(new),))

    def remove(self, name: str, *, force: bool, adopted: bool) -> Operation:
        """Remove it with its disks. Running ones need `force`, those Triune did not make need `adopted`."""
        engine = self._engine(name)
        _require_removable(engine.row(name), force=force, adopted=adopted)

        def work(task: Task) -> None:
            # Once more: another client may have started it before this operation had the lock.
            _require_removable(engine.row(name), force=force, adopted=adopted)
            task.intend("instance", redo=True, engine=engine.name, name=name, adopted=adopted)
            task.shield()
            task.step("delete", f"removing {name}")
            engine.delete(name)
            task.step("release", f"releasing the address and name of {name}")
            self._forget(name)

        return self._submit("delete", name, work)

    # Inside

    def open_command(self, name: str, command: Command) -> Session:
        """Run a command in it."""
        engine = self._engine(name)
        return require_facet(engine, "commands", engine.commands).open(name, command)

    def open_console(self, name: str, terminal: Terminal) -> Session:
        """Attach to its console."""
        engine = self._engine(name)
        return require_facet(engine, "console", engine.console).open(name, terminal)

    def logs(self, name: str, *, tail: int | None, follow: bool, stop: Callable[[], bool]) -> Iterator[bytes]:
        """What it wrote."""
        engine = self._engine(name)
        return require_facet(engine, "logs", engine.logs).read(name, tail=tail, follow=follow, stop=stop)

    def file_stat(self, name: str, path: str) -> FileStat:
        """What is at a path inside."""
        engine = self._engine(name)
        return require_facet(engine, "files", engine.files).stat(name, path)

    def read_files(self, name: str, path: str) -> Iterator[bytes]:
        """A tar stream of what is there."""
        engine = self._engine(name)
        return require_facet(engine, "files", engine.files).read(name, path)

    def write_files(self, name: str, path: str, tar: Iterator[bytes]) -> None:
        """Unpack a tar stream into the folder there."""
        engine = self._engine(name)
        require_facet(engine, "files", engine.files).write(name, path, tar)

    # Engines' own events

    def heard(self, event: EngineEvent) -> None:
        """An engine told of something; what others removed natively gives its address and name back."""
        if event.action == "engine-up":
            self._aside(f"{event.engine}-up", self._engine_up)
        if event.action == "started" and (engine := self._engines.get(event.engine)) is not None:
            self._aside(f"{event.name}-limits", lambda: self._limits.enforce_started(engine, event.name))
        if event.action in ("deleted", "stopped"):
            self._aside(f"{event.name}-traffic", self._limits.sweep)
        # What is undefined while it runs is gone only when it stops.
        if event.action in ("deleted", "stopped") and (entry := self._intent_of(event, event.name)):
            self._aside(f"{event.name}-gone", lambda: self._forget_if_gone(entry))
        if event.action == "renamed" and self._intent_of(event, event.data.get("old", "")):
            self._aside(f"{event.name}-renamed", lambda: self._rename_records(event.data["old"], event.name))
        subject = _resource(event.name) if event.name else f"engines/{event.engine}"
        kind = f"instance.{event.action}" if event.name else event.action.replace("engine-", "engine.")
        self._events.publish(kind, subject, {"engine": event.engine, **event.data})

    @staticmethod
    def _aside(name: str, work: Callable[[], None]) -> None:
        """Engines tell their events in threads that must not wait, and must not ask the engine."""
        threading.Thread(target=work, name=name, daemon=True).start()

    def _intent_of(self, event: EngineEvent, name: str) -> Entry | None:
        """What we know of an instance that no operation of ours is at work on."""
        if not name or self._operations.locks.holder(_resource(name)) is not None:
            return None
        entry = self._store.get(INTENT + name)
        return entry if entry is not None and entry.value["engine"] == event.engine else None

    def _forget_if_gone(self, entry: Entry) -> None:
        name = entry.key.removeprefix(INTENT)
        try:
            self._engines[entry.value["engine"]].get(name)
        except NotFound:
            self._forget_unchanged(entry)
        except TriuneError:
            return  # seen when the engine answers again

    def _forget_unchanged(self, entry: Entry) -> None:
        """Forget it unless an operation has it by now, or has made it anew."""
        name = entry.key.removeprefix(INTENT)
        now = self._store.get(entry.key)
        busy = self._operations.locks.holder(_resource(name)) is not None
        if now is not None and now.revision == entry.revision and not busy:
            self._forget(name)

    def _engine_up(self) -> None:
        self._networks.engine_up()
        self._operations.settle()
        self.forget_vanished()
        self._limits.enforce_all()

    def forget_vanished(self) -> None:
        """Give back what instances held that others removed while we did not hear of it."""
        # Intents first: whatever appears in between is in the listing, and not among them.
        entries = self._store.scan(INTENT)
        listing = self._inventory.list()
        away = {problem.engine for problem in listing.problems}
        there = {(instance.engine, instance.name) for instance in listing.instances}
        for engine in self._engines:
            ours = {entry.key.removeprefix(INTENT): entry for entry in entries if entry.value["engine"] == engine}
            vanished = [entry for name, entry in ours.items() if (engine, name) not in there]
            # Where none of ours is left, what they are on may not be mounted yet: then nothing is given back.
            if engine not in away and len(vanished) < len(ours):
                for entry in vanished:
                    self._forget_unchanged(entry)

    def close(self) -> None:
        """Free the threads."""
        self._inventory.close()

    # Parts

    def _engine(self, name: str) -> Engine:
        return self._inventory.engine_of(name)

    def _submit(self, kind: str, name: str, work: Callable[[Task], Any], *, also: tuple[str, ...] = ()) -> Operation:
        return self._operations.submit(kind, _resource(name), work, locks=[_resource(name), *also])

    def _forget(self, name: str) -> None:
        self._networks.release(name)
        self._limits.forget(name)
        self._store.commit([Delete(INTENT + name)])
        for follower in self.followers:
            follower.forgotten(name)

    def _erase_recorded(self, data: Mapping[str, Any]) -> None:
        engine = self._engines[data["engine"]]
        # What has no mark of ours, another tool made: before we got that far, or while we were not there.
        if data.get("adopted") or not _is_adopted(engine, data["name"]):
            engine.delete(data["name"])
        intent = self.intent(data["name"])
        if intent is None or intent["engine"] == data["engine"]:  # else another engine has the name by now
            self._forget(data["name"])

    def _rename_records(self, name: str, new: str) -> None:
        self._networks.rename(name, new)
        self._limits.rename(name, new)
        entry = self._store.get(INTENT + name)
        if entry is not None:
            value = {**entry.value, "spec": {**entry.value["spec"], "name": new}}
            self._store.commit([Delete(INTENT + name), Put(INTENT + new, value)])
        for follower in self.followers:
            follower.renamed(name, new)

    def _finish_rename(self, data: Mapping[str, Any]) -> None:
        """After a failure or a crash: where the engine has the new name, all else follows; else nothing happened."""
        names = {instance.name for instance in self._engines[data["engine"]].list()}
        if data["name"] not in names and data["new"] in names:
            self._rename_records(data["name"], data["new"])

    def _finish_start(self, data: Mapping[str, Any]) -> None:
        """After a crash in the middle of a restart: it ran before, and shall run."""
        try:
            self._engines[data["engine"]].start(data["name"], Silent())
        except Unreachable:
            raise
        except TriuneError as error:
            log.warning("%s was to be restarted and could not be started: %s", data["name"], error)

    def _count_restart(self, name: str) -> None:
        entry = self._store.get(INTENT + name)
        if entry is not None:
            value = {**entry.value, "restarts": int(entry.value.get("restarts", 0)) + 1}
            self._store.commit([Put(INTENT + name, value)], durable=False)


def _resource(name: str) -> str:
    return f"instances/{name}"


def _is_adopted(engine: Engine, name: str) -> bool:
    try:
        return engine.row(name).origin is Origin.ADOPTED
    except NotFound:
        return False


def _require_removable(instance: Instance, *, force: bool, adopted: bool) -> None:
    name = instance.name
    if instance.origin is Origin.ADOPTED and not adopted:
        raise Conflict(
            "instance_adopted",
            f"{name} was not made by Triune",
            hint=f"If it may go all the same: triune rm --adopted {name}",
        )
    if instance.state in (State.RUNNING, State.PAUSED) and not force:
        raise Conflict(
            "instance_running",
            f"{name} is {instance.state.value}",
            hint=f"Stop it first (triune stop {name}), or remove it running: triune rm --force {name}",
        )
