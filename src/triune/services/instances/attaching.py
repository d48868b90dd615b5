"""Volumes of existing instances: attached and taken away, in the engine and on record."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from triune.domain.errors import Conflict, NotFound, Unsupported
from triune.domain.instance import State, VolumeMount
from triune.domain.names import single_line
from triune.domain.operation import Operation, Silent
from triune.engines.base import Attaching, Engine
from triune.services.instances import policy
from triune.services.instances.inventory import INTENT, Inventory
from triune.services.operations import Operations, Task
from triune.services.storage import Storage
from triune.store import Put, Store


class Attachments:
    """What an instance uses is part of its intent: `spec.volumes`, by the volumes' names."""

    def __init__(
        self,
        engines: Mapping[str, Engine],
        inventory: Inventory,
        storage: Storage,
        operations: Operations,
        store: Store,
    ) -> None:
        self._engines = engines
        self._inventory = inventory
        self._storage = storage
        self._operations = operations
        self._store = store
        operations.handlers["attach"] = self._take_away

    def attach(self, name: str, volume: str, target: str, *, read_only: bool) -> Operation:
        """Give an instance a volume, now and for every start. Raises what can be told at once."""
        engine, facet = self._facet(name)
        asked = VolumeMount(source=single_line(volume, "the volume's name"), target=target, read_only=read_only)
        policy.check_volume(asked)
        self._storage.volumes.resolve(volume)
        self._storage.volumes.mount(asked, name)
        self._require_possible(engine, facet, name, asked)

        def work(task: Task) -> dict[str, Any]:
            mount = self._storage.volumes.mount(asked, name)
            self._require_possible(engine, facet, name, asked)
            task.intend("attach", engine=engine.name, name=name, volume=volume)
            task.step("attach", f"attaching {volume} to {name}")
            facet.attach(name, self._storage.volumes.resolve(volume), mount, task)
            self._record(name, lambda volumes: [*volumes, _as_value(asked)])
            task.keep()
            return {"name": name, "volume": volume, "target": target}

        return self._submit("attach", name, volume, work)

    def detach(self, name: str, volume: str) -> Operation:
        """Take it away. Raises NotFound("volume_not_attached"), Conflict("volume_busy")."""
        engine, facet = self._facet(name)
        self._storage.volumes.resolve(volume)
        if volume not in (one["source"] for one in self._volumes(name)):
            raise NotFound(
                "volume_not_attached",
                f"{name} does not use the volume {volume}",
                hint=f"See who does: triune volume show {volume}",
            )
        self._require_stopped(engine, facet, name)

        def work(task: Task) -> dict[str, Any]:
            found = self._storage.volumes.resolve(volume)
            self._require_stopped(engine, facet, name)
            task.intend("attach", redo=True, engine=engine.name, name=name, volume=volume)
            task.shield()
            task.step("detach", f"taking {volume} away from {name}")
            facet.detach(name, found, task)
            self._forget(name, volume)
            return {"name": name, "volume": volume}

        return self._submit("detach", name, volume, work)

    def _take_away(self, data: Mapping[str, Any]) -> None:
        """The undo of attaching, and after a crash the end of detaching."""
        name, volume = data["name"], data["volume"]
        facet = self._engines[data["engine"]].attaching
        try:
            found = self._storage.volumes.resolve(volume)
            if facet is not None:
                facet.detach(name, found, Silent())
        except NotFound:
            pass  # the instance or the volume is gone, and with it what was to be undone
        self._forget(name, volume)

    def _submit(self, kind: str, name: str, volume: str, work: Callable[[Task], Any]) -> Operation:
        resource = f"instances/{name}"
        return self._operations.submit(kind, resource, work, locks=[resource], data={"volumes": [volume]})

    # Checks

    def _facet(self, name: str) -> tuple[Engine, Attaching]:
        engine = self._inventory.engine_of(name)
        if engine.attaching is None:
            reason = engine.probe().missing.get("attaching", "this engine has no such ability")
            raise Unsupported(
                "facet_missing",
                f"{engine.title} can't attach volumes to what exists: {reason}",
                hint="Launch it with --volume.",
            )
        if self._store.get(INTENT + name) is None:
            raise Unsupported(
                "instance_adopted",
                f"{name} was not launched by Triune, which would not know that it uses the volume",
                hint="Attach it with the technology's own tool.",
            )
        return engine, engine.attaching

    def _require_possible(self, engine: Engine, facet: Attaching, name: str, asked: VolumeMount) -> None:
        for one in self._volumes(name):
            if one["source"] == asked.source:
                raise Conflict(
                    "volume_attached",
                    f"{name} uses the volume {asked.source} already",
                    hint=f"Take it away first: triune volume detach {name} {asked.source}",
                )
            if asked.target and one["target"].rstrip("/") == asked.target.rstrip("/"):
                raise Conflict(
                    "target_taken", f"{name} has {one['source']} at {asked.target}", hint="Choose another place."
                )
        self._require_stopped(engine, facet, name)

    @staticmethod
    def _require_stopped(engine: Engine, facet: Attaching, name: str) -> None:
        if not facet.live and engine.row(name).state is not State.STOPPED:
            raise Conflict("instance_running", f"{name} runs", hint=f"Stop it first: triune stop {name}")

    # Records

    def _volumes(self, name: str) -> list[dict[str, Any]]:
        entry = self._store.get(INTENT + name)
        return list(entry.value["spec"].get("volumes") or ()) if entry else []

    def _forget(self, name: str, volume: str) -> None:
        self._record(name, lambda volumes: [one for one in volumes if one["source"] != volume])

    def _record(self, name: str, change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]) -> None:
        entry = self._store.get(INTENT + name)
        if entry is not None:
            spec = {**entry.value["spec"], "volumes": change(self._volumes(name))}
            self._store.commit([Put(entry.key, {**entry.value, "spec": spec})])


def _as_value(mount: VolumeMount) -> dict[str, Any]:
    return {"source": mount.source, "target": mount.target, "read_only": mount.read_only, "volume": "", "format": ""}
