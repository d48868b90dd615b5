"""Which snapshots are to go when: an index in the store, so that nobody has to ask the engines."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from triune.store import Delete, Put, Store

_PREFIX = "snapshots/expiring/"


class Expiring:
    """When each expiring snapshot is due, by (instance, snapshot)."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def put(self, instance: str, snapshot: str, when: datetime) -> None:
        """Note it, or when to try again."""
        self._store.commit([Put(f"{_PREFIX}{instance}/{snapshot}", {"when": when.isoformat()})])

    def drop(self, instance: str, snapshot: str) -> None:
        """It is gone."""
        self._store.commit([Delete(f"{_PREFIX}{instance}/{snapshot}")], durable=False)

    def due(self, now: datetime) -> Sequence[tuple[str, str]]:
        """(instance, snapshot) of all whose time has come."""
        found = []
        for entry in self._store.scan(_PREFIX):
            if datetime.fromisoformat(entry.value["when"]) <= now:
                instance, _, snapshot = entry.key.removeprefix(_PREFIX).partition("/")
                found.append((instance, snapshot))
        return found

    def renamed(self, name: str, new: str) -> None:
        """An instance has another name."""
        entries = self._store.scan(f"{_PREFIX}{name}/")
        writes: list[Put | Delete] = [Delete(entry.key) for entry in entries]
        writes += [Put(f"{_PREFIX}{new}/{entry.key.rpartition('/')[2]}", entry.value) for entry in entries]
        if writes:
            self._store.commit(writes)

    def forgotten(self, name: str) -> None:
        """An instance is gone, and its snapshots with it."""
        entries = self._store.scan(f"{_PREFIX}{name}/")
        if entries:
            self._store.commit([Delete(entry.key) for entry in entries])
