"""A running operation, as the work inside it sees it: progress, cancellation, and the journal of intents."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from triune.domain.errors import Cancelled, Failed
from triune.domain.operation import Operation
from triune.host.faults import crash_point
from triune.services.operations.events import Events
from triune.services.operations.record import LEFTOVERS, PREFIX, to_value
from triune.store import Delete, Put, Store

_REPORT_INTERVAL = 0.1


class Task:
    """Implements `domain.operation.Progress`; one per operation.

    What an operation is about to create is written down first (`intend`), so that a failure or a crash can be
    undone; `keep` says that what was made stays, whatever happens afterwards.
    """

    def __init__(self, operation: Operation, store: Store, events: Events) -> None:
        self.operation = operation
        self.journal: list[dict[str, Any]] = []
        self.ended = threading.Event()
        self.cancelled = threading.Event()
        self.closing = threading.Event()
        self._store = store
        self._events = events
        self._reported = 0.0
        self._shielded = False
        self._kept = False

    def step(self, name: str, text: str) -> None:
        """Begin a step; recorded before its work begins."""
        self.check()
        now = datetime.now(UTC)
        steps = (*self.operation.steps, (name, text, now))
        self.operation = replace(self.operation, steps=steps, text=text, fraction=None)
        self.save(durable=False)
        self.tell()
        crash_point(f"{self.operation.kind}:{name}")

    def report(self, fraction: float | None, text: str = "") -> None:
        """Tell progress within the step; not recorded, at most ten times a second."""
        self.check()
        self.operation = replace(self.operation, fraction=fraction, text=text or self.operation.text)
        if time.monotonic() - self._reported >= _REPORT_INTERVAL:
            self._reported = time.monotonic()
            self.tell(keep=False)

    def check(self) -> None:
        """Raise Cancelled if asked to stop, Failed("interrupted") where the daemon ends and only waiting is left."""
        name = self.operation.resource.partition("/")[2]
        if self.cancelled.is_set() and not self._shielded:
            raise Cancelled(
                "cancelled",
                f"{self.operation.kind} of {name} was cancelled",
                hint="What it had made was removed again." if self.journal else "Look at it before you repeat it.",
            )
        if self.closing.is_set() and self._kept:
            raise Failed(
                "interrupted",
                f"the daemon ended while it waited for {name}, which stays",
                hint=f"See what it does: triune show {name}",
            )

    def intend(self, kind: str, *, redo: bool = False, **data: Any) -> None:
        """Write down durably what is about to be made, so that the handler `kind` can undo it.

        With `redo` the handler runs only after a crash: it finishes the work instead of undoing it.
        """
        self.journal.append({"kind": kind, "redo": redo, "data": data})
        self.save()
        crash_point(f"{self.operation.kind}:intend-{kind}")

    def withdraw(self, kind: str) -> None:
        """Forget the intents of this kind: what they meant was not begun, and what is there is not ours."""
        self.journal = [entry for entry in self.journal if entry["kind"] != kind]
        self.save()

    def keep(self) -> None:
        """What was made so far stays: forget the intents, and be past cancelling."""
        crash_point(f"{self.operation.kind}:before-keep")
        key, made = PREFIX + self.operation.id, self.journal
        operation = replace(self.operation, may_cancel=False)
        # What an earlier operation left of the same thing is this thing now. Only once all of it is written down
        # may the intents be forgotten: else a restart would remove what the user was told is kept.
        self._store.commit([Put(key, to_value(operation, [])), *self._superseded(made)])
        self.operation, self.journal = operation, []
        self._shielded = self._kept = True
        crash_point(f"{self.operation.kind}:after-keep")

    def _superseded(self, made: list[dict[str, Any]]) -> list[Put | Delete]:
        intents = [(entry["kind"], entry["data"]) for entry in made]
        writes: list[Put | Delete] = []
        for entry in self._store.scan(LEFTOVERS):
            left = [item for item in entry.value["journal"] if (item["kind"], item["data"]) not in intents]
            if not left:
                writes.append(Delete(entry.key))
            elif len(left) < len(entry.value["journal"]):
                writes.append(Put(entry.key, {**entry.value, "journal": left}))
        return writes

    def shield(self) -> None:
        """From here on cancelling has no effect (undoing, or finishing what can't be left half-done)."""
        self._shielded = True
        self.operation = replace(self.operation, may_cancel=False)

    def update(self, change: Callable[[Operation], Operation], *, durable: bool = True) -> None:
        """Change the record, keep it and tell it."""
        self.operation = change(self.operation)
        self.save(durable=durable)
        self.tell()

    def save(self, *, durable: bool = True) -> None:
        """Write the record."""
        key = PREFIX + self.operation.id
        self._store.commit([Put(key, to_value(self.operation, self.journal))], durable=durable)

    def tell(self, *, keep: bool = True) -> None:
        """Tell whoever listens how it stands."""
        operation = self.operation
        data = {
            "id": operation.id,
            "kind": operation.kind,
            "state": operation.state.value,
            "text": operation.text,
            "fraction": operation.fraction,
            "step": operation.steps[-1][0] if operation.steps else None,
        }
        kind = f"operation.{operation.state.value if operation.state.ended else 'progress'}"
        self._events.publish(kind, operation.resource, data, keep=keep)
