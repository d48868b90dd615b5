"""Snapshots and clones of the fake engine. What they keep is the instance's log and settings.

A clone of a snapshot needs it for as long as the clone is there, as a copy-on-write one does.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from triune.domain.errors import Conflict, NotFound
from triune.domain.names import instance_name, single_line, snapshot_name
from triune.domain.operation import Progress
from triune.domain.snapshot import Consistency, Snapshot
from triune.engines.base import ClonePlan
from triune.engines.fake.state import FakeInstance

if TYPE_CHECKING:
    from triune.engines.fake.engine import FakeEngine

_KEPT = ("log", "settings")


class FakeSnapshots:
    """`memory` True: restoring one with memory leaves the instance running."""

    def __init__(self, engine: FakeEngine, *, memory: bool) -> None:
        self._engine = engine
        self.memory = memory

    def create(self, name: str, snapshot: Snapshot, progress: Progress) -> Snapshot:
        """In two steps, so that a failure of the second has something to undo."""
        snapshot_name(snapshot.name)
        single_line(snapshot.comment, "the comment")
        with self._engine.changing():
            one = self._engine.find(name)
            if snapshot.name in one.snapshots:
                raise Conflict("snapshot_exists", f"{name} has {snapshot.name!r} already", hint="Choose another name.")
            held = Consistency.STOPPED if one.state == "stopped" else Consistency.FROZEN
            taken = replace(snapshot, size=0, consistency=Consistency.MEMORY if snapshot.memory else held)
            one.snapshots[snapshot.name] = {"half": True}
        try:
            self._engine.pass_step("snapshot", progress, name)
        except BaseException:
            with self._engine.changing():
                one.snapshots.pop(snapshot.name, None)
            raise
        with self._engine.changing():
            one.snapshots[snapshot.name] = _to_value(taken) | {key: copy.deepcopy(getattr(one, key)) for key in _KEPT}
        return taken

    def list(self, name: str) -> Sequence[Snapshot]:
        """The oldest first."""
        with self._engine.reading():
            values = self._engine.find(name).snapshots
            found = [_from_value(key, value) for key, value in values.items() if not value.get("half")]
        return sorted(found, key=lambda one: one.created)

    def restore(self, name: str, snapshot: str, progress: Progress) -> None:
        """Log and settings as they were."""
        with self._engine.reading():
            value = self._value(name, snapshot)
        self._engine.pass_step("restore", progress, name)
        with self._engine.changing():
            one = self._engine.find(name)
            for key in _KEPT:
                setattr(one, key, copy.deepcopy(value[key]))
            one.state = "running" if value["memory"] else "stopped"

    def delete(self, name: str, snapshot: str, progress: Progress) -> None:
        """Refused while a clone stands on it."""
        with self._engine.reading():
            single_line(snapshot, "the snapshot")
            one = self._engine.find(name)
            users = self._engine.clones_of(name, snapshot)
        if users:
            raise Conflict(
                "snapshot_in_use",
                f"snapshot {snapshot} of {name} is needed by {', '.join(users)}",
                hint=f"Remove what stands on it first: triune rm {users[0]}",
            )
        if snapshot in one.snapshots:
            self._engine.pass_step("snapshot-delete", progress, name)
        with self._engine.changing():
            one.snapshots.pop(snapshot, None)

    def _value(self, name: str, snapshot: str) -> dict[str, Any]:
        value = self._engine.find(name).snapshots.get(single_line(snapshot, "the snapshot"))
        if value is None or value.get("half"):
            raise NotFound(
                "snapshot_not_found", f"{name} has no {snapshot!r}", hint=f"See: triune snapshot list {name}"
            )
        return value


class FakeCloning:
    """Copies, of running ones too."""

    live = True

    def __init__(self, engine: FakeEngine) -> None:
        self._engine = engine

    def clone(self, plan: ClonePlan, progress: Progress) -> None:
        """The same image and settings, another name and card."""
        instance_name(plan.new)
        nic = plan.nics[0] if plan.nics else None
        with self._engine.reading():
            source = self._engine.find(plan.name)
            kept = source.snapshots.get(plan.snapshot) if plan.snapshot else None
            if plan.snapshot and kept is None:
                raise NotFound(
                    "snapshot_not_found", f"{plan.name} has no {plan.snapshot!r}", hint="See: triune snapshot list"
                )
            data = {key: copy.deepcopy(kept[key] if kept else getattr(source, key)) for key in _KEPT}
            made = FakeInstance(
                name=plan.new,
                image=source.image,
                created=plan.created.isoformat(),
                cpus=source.cpus,
                memory=source.memory,
                network=nic.network.name if nic else None,
                mac=nic.mac if nic else None,
                address=nic.address if nic else None,
                command=[*source.command],
                limits=dict(source.limits),
                base=f"{plan.name}/{plan.snapshot}" if plan.snapshot else "",
                **data,
            )
        self._engine.add(made, "clone", progress)


def _to_value(snapshot: Snapshot) -> dict[str, Any]:
    return {
        "created": snapshot.created.isoformat(),
        "consistency": snapshot.consistency.value,
        "memory": snapshot.memory,
        "size": snapshot.size,
        "expires": snapshot.expires.isoformat() if snapshot.expires else None,
        "schedule": snapshot.schedule,
        "comment": snapshot.comment,
    }


def _from_value(name: str, value: dict[str, Any]) -> Snapshot:
    return Snapshot(
        name=name,
        created=datetime.fromisoformat(value["created"]),
        consistency=Consistency(value["consistency"]),
        memory=value["memory"],
        size=value["size"],
        expires=datetime.fromisoformat(value["expires"]) if value["expires"] else None,
        schedule=value["schedule"],
        comment=value["comment"],
    )
