"""What can be done with instances, whatever engine runs them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from triune.domain.errors import Conflict, NotFound, Unsupported
from triune.domain.instance import InstanceDetail, Origin, State, Stats
from triune.domain.names import instance_name
from triune.domain.operation import Operation
from triune.engines.base import Command, Engine, EngineEvent, Session, Terminal
from triune.services.images import Images
from triune.services.instances.inventory import INTENT, Inventory, Listing
from triune.services.instances.launch import Launcher, LaunchRequest
from triune.services.networks import Networks
from triune.services.operations import Events, Operations, Task
from triune.store import Delete, Put, Store

F = TypeVar("F")


class Instances:
    """All instances of all engines."""

    def __init__(
        self,
        engines: Mapping[str, Engine],
        images: Images,
        networks: Networks,
        operations: Operations,
        events: Events,
        store: Store,
    ) -> None:
        self._engines = engines
        self._networks = networks
        self._operations = operations
        self._events = events
        self._store = store
        self._inventory = Inventory(engines, store)
        self._launcher = Launcher(engines, self._inventory, images, networks, store)
        operations.handlers["instance"] = self._erase_recorded
        operations.handlers["rename"] = self._finish_rename

    # Reading

    def list(self) -> Listing:
        """Every instance, and the engines that could not be read."""
        return self._inventory.list()

    def get(self, name: str) -> InstanceDetail:
        """Everything known of one instance. Raises NotFound."""
        found = self._inventory.get(name)
        entry = self._store.get(INTENT + name)
        if entry is not None and not found.command:  # a system's command: its engine does not know of it
            return replace(found, command=tuple(entry.value["spec"]["command"]))
        return found

    def stats(self) -> Mapping[str, Stats]:
        """Counters of every running instance."""
        return self._inventory.stats()

    def restarts(self, name: str) -> int:
        """How often Triune started it again; for engines that don't count themselves."""
        entry = self._store.get(INTENT + name)
        return int(entry.value.get("restarts", 0)) if entry else 0

    def intents(self) -> Mapping[str, Mapping[str, Any]]:
        """What was asked for, by instance name: `{engine, created, spec}`."""
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
            data={"engine": checked.spec.engine, "image": checked.spec.image},
        )

    def start(self, name: str) -> Operation:
        """Start it."""
        engine = self._engine(name)

        def work(task: Task) -> None:
            task.step("start", f"starting {name}")
            engine.start(name, task)

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
            task.step("stop", f"stopping {name}")
            engine.stop(name, timeout=timeout, force=force, progress=task)
            task.shield()
            task.step("start", f"starting {name}")
            engine.start(name, task)
            self._count_restart(name)

        return self._submit("restart", name, work)

    def pause(self, name: str) -> Operation:
        """Freeze it."""
        engine = self._engine(name)
        pausing = _facet(engine, "pausing", engine.pausing)
        return self._submit("pause", name, lambda task: pausing.pause(name))

    def resume(self, name: str) -> Operation:
        """Thaw it."""
        engine = self._engine(name)
        pausing = _facet(engine, "pausing", engine.pausing)
        return self._submit("resume", name, lambda task: pausing.resume(name))

    def rename(self, name: str, new: str) -> Operation:
        """Give it another name, in its engine and on the network."""
        engine = self._engine(name)
        renaming = _facet(engine, "renaming", engine.renaming)
        instance_name(new)
        taken = self._inventory.find(new)
        if taken is not None:
            raise Conflict(
                "instance_exists", f"there is an instance {new!r} already", hint="Choose another name: triune list"
            )
        if not renaming.live and engine.get(name).instance.state is not State.STOPPED:
            raise Conflict(
                "instance_running",
                f"{name} is running, and {engine.title} renames only what is stopped",
                hint=f"Stop it first: triune stop {name}",
            )

        def work(task: Task) -> None:
            task.intend("rename", redo=True, engine=engine.name, name=name, new=new)
            task.shield()
            task.step("rename", f"renaming {name} to {new}")
            renaming.rename(name, new)
            self._rename_records(name, new)

        return self._submit("rename", name, work, also=(_resource(new),))

    def remove(self, name: str, *, force: bool, adopted: bool) -> Operation:
        """Remove it with its disks. Running ones need `force`, those Triune did not make need `adopted`."""
        engine = self._engine(name)
        instance = engine.get(name).instance
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

        def work(task: Task) -> None:
            task.intend("instance", redo=True, engine=engine.name, name=name)
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
        return _facet(engine, "commands", engine.commands).open(name, command)

    def open_console(self, name: str, terminal: Terminal) -> Session:
        """Attach to its console."""
        engine = self._engine(name)
        return _facet(engine, "console", engine.console).open(name, terminal)

    def logs(self, name: str, *, tail: int | None, follow: bool, stop: Callable[[], bool]) -> Iterator[bytes]:
        """What it wrote."""
        engine = self._engine(name)
        return _facet(engine, "logs", engine.logs).read(name, tail=tail, follow=follow, stop=stop)

    # Engines' own events

    def heard(self, event: EngineEvent) -> None:
        """An engine told of something; what others removed natively gives its address and name back."""
        if event.action == "engine-up":
            threading.Thread(target=self._engine_up, name=f"{event.engine}-up", daemon=True).start()
        if event.action == "deleted" and self._operations.locks.holder(_resource(event.name)) is None:
            entry = self._store.get(INTENT + event.name)
            if entry is not None and entry.value["engine"] == event.engine:
                self._forget(event.name)
        subject = _resource(event.name) if event.name else f"engines/{event.engine}"
        kind = f"instance.{event.action}" if event.name else event.action.replace("engine-", "engine.")
        self._events.publish(kind, subject, {"engine": event.engine, **event.data})

    def _engine_up(self) -> None:
        self._networks.engine_up()
        self._operations.settle()

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
        self._store.commit([Delete(INTENT + name)])

    def _erase_recorded(self, data: Mapping[str, Any]) -> None:
        self._engines[data["engine"]].delete(data["name"])
        self._forget(data["name"])

    def _rename_records(self, name: str, new: str) -> None:
        self._networks.rename(name, new)
        entry = self._store.get(INTENT + name)
        if entry is not None:
            value = {**entry.value, "spec": {**entry.value["spec"], "name": new}}
            self._store.commit([Delete(INTENT + name), Put(INTENT + new, value)])

    def _finish_rename(self, data: Mapping[str, Any]) -> None:
        """After a crash: where the engine has the new name, everything else follows; else nothing happened."""
        engine = self._engines[data["engine"]]
        try:
            engine.get(data["name"])
        except NotFound:
            engine.get(data["new"])
            self._rename_records(data["name"], data["new"])

    def _count_restart(self, name: str) -> None:
        entry = self._store.get(INTENT + name)
        if entry is not None:
            value = {**entry.value, "restarts": int(entry.value.get("restarts", 0)) + 1}
            self._store.commit([Put(INTENT + name, value)], durable=False)


def _resource(name: str) -> str:
    return f"instances/{name}"


def _facet(engine: Engine, facet: str, value: F | None) -> F:
    if value is None:
        reason = engine.probe().missing.get(facet, "this engine has no such ability")
        raise Unsupported("facet_missing", f"{engine.title} can't do that here: {reason}", hint="See: triune doctor")
    return value
