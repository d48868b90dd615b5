"""Events: numbered, kept for a while, delivered to whoever listens. A laggard is dropped and told to read anew."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from triune.domain.errors import TriuneError
from triune.store import Delete, Put, Store

log = logging.getLogger(__name__)

_PREFIX = "events/"
_NUMBERS = "event-numbers"
_AHEAD = 1000
_KEPT = 5000
_QUEUE = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """`type` is like instance.started or operation.updated; `subject` names the thing; `sequence` grows by one."""

    sequence: int
    time: datetime
    type: str
    subject: str
    data: Mapping[str, Any] = field(default_factory=dict)


class Subscription:
    """A bounded queue of events. `lagged` is set once it overflowed: nothing more comes, list again."""

    def __init__(self, events: Events) -> None:
        self._events = events
        self._queue: queue.Queue[Event | None] = queue.Queue(_QUEUE)
        self.lagged = False

    def put(self, event: Event | None) -> None:
        """Called by the bus."""
        try:
            self._queue.put_nowait(event)
        except queue.Full:
            self.drop()

    def drop(self) -> None:
        """Called by the bus: it misses something."""
        self.lagged = True
        self._events.unsubscribe(self)
        with suppress(queue.Full):
            self._queue.put_nowait(None)

    def get(self, timeout: float) -> Event | None:
        """The next event, or None when none came in time (or the bus closed, or we lagged behind)."""
        try:
            return self._queue.get(timeout=timeout)
        except queue.Empty:
            return None

    def close(self) -> None:
        """Stop listening."""
        self._events.unsubscribe(self)


class Events:
    """The bus. Progress within a step is delivered but not kept (`keep=False`); all else survives a restart."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._subscriptions: list[Subscription] = []
        # Numbers of events that are not kept must not come again after a restart: they are taken in advance.
        taken = store.get(_NUMBERS)
        self._sequence = self._taken = int(taken.value["taken"]) if taken else 0
        first = store.scan(_PREFIX, limit=1)
        self._forgotten = int(first[0].key.removeprefix(_PREFIX)) - 1 if first else self._sequence

    @property
    def sequence(self) -> int:
        """Number of the newest event."""
        return self._sequence

    @property
    def forgotten(self) -> int:
        """Events up to this number may be gone: who has seen fewer must read everything anew."""
        return self._forgotten

    def publish(self, kind: str, subject: str, data: Mapping[str, Any] | None = None, *, keep: bool = True) -> Event:
        """Number it, keep it, deliver it.

        Where the store fails (full disk) it is delivered all the same. Raises when not even its number can be taken:
        then all who listen are dropped and read anew.
        """
        with self._lock:
            self._sequence += 1
            event = Event(
                sequence=self._sequence,
                time=datetime.now(UTC),
                type=kind,
                subject=subject,
                data=dict(data or {}),
            )
            self._take_numbers()
            try:
                if keep:
                    self._keep(event)
            except TriuneError as error:
                log.warning("event %s of %s could not be kept: %s", kind, subject, error)
                self._forgotten = self._sequence
            for subscription in list(self._subscriptions):
                subscription.put(event)
        return event

    def _take_numbers(self) -> None:
        if self._sequence > self._taken:
            taken = self._sequence + _AHEAD
            try:
                self._store.commit([Put(_NUMBERS, {"taken": taken})])
            except TriuneError:
                for subscription in list(self._subscriptions):
                    subscription.drop()
                raise
            self._taken = taken

    def _keep(self, event: Event) -> None:
        value = {
            "time": event.time.isoformat(),
            "type": event.type,
            "subject": event.subject,
            "data": event.data,
        }
        writes: list[Put | Delete] = [Put(_key(event.sequence), value)]
        if event.sequence % 100 == 0 and event.sequence > _KEPT:
            limit = _key(event.sequence - _KEPT)
            old = [entry.key for entry in self._store.scan(_PREFIX, limit=500) if entry.key < limit]
            writes += [Delete(key) for key in old]
            self._forgotten = max([self._forgotten, *(int(key.removeprefix(_PREFIX)) for key in old)])
        self._store.commit(writes, durable=False, vital=False)

    def since(self, sequence: int, limit: int = 1000) -> list[Event]:
        """Kept events after that number, oldest first."""
        return [
            Event(
                sequence=int(entry.key.removeprefix(_PREFIX)),
                time=datetime.fromisoformat(entry.value["time"]),
                type=entry.value["type"],
                subject=entry.value["subject"],
                data=entry.value["data"],
            )
            for entry in self._store.scan(_PREFIX, after=_key(sequence), limit=limit)
        ]

    def subscribe(self) -> Subscription:
        """Listen from now on."""
        subscription = Subscription(self)
        with self._lock:
            self._subscriptions.append(subscription)
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        """Stop delivering to it."""
        # Not under the lock: `publish` holds it when a laggard is dropped. list.remove is atomic under the GIL.
        if subscription in self._subscriptions:
            self._subscriptions.remove(subscription)


def _key(sequence: int) -> str:
    return f"{_PREFIX}{sequence:016d}"
