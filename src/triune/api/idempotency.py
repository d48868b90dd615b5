"""Idempotency-Key: a launch repeated after a broken connection is the same launch."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from triune.domain.errors import Invalid, NotFound
from triune.domain.operation import Operation
from triune.services.operations import Operations
from triune.store import Delete, Put, Store

_PREFIX = "idempotency/"
_KEPT = timedelta(days=1)
_PRUNE_EVERY = timedelta(hours=1)


class Keys:
    """Keys of the last day, and the operations they led to. What was refused at once is not kept."""

    def __init__(self, store: Store, operations: Operations) -> None:
        self._store = store
        self._operations = operations
        # A launch with the same key waits for the other one; different keys hardly ever share a lock.
        self._locks = tuple(threading.Lock() for _ in range(64))
        self._pruned = datetime.min.replace(tzinfo=UTC)

    def once(self, key: str, request: str, action: Callable[[], Operation]) -> tuple[Operation, bool]:
        """The operation of this key, and whether it was there already.

        Raises Invalid("idempotency_key_reused") when the key came with another request before.
        """
        # The key is the client's text: hashed, it can't reach other keys of the store.
        entry_key = _PREFIX + hashlib.sha256(key.encode()).hexdigest()
        digest = hashlib.sha256(request.encode()).hexdigest()
        with self._locks[int(entry_key[-2:], 16) % len(self._locks)]:
            known = self._known(entry_key, digest)
            if known is not None:
                return known, True
            operation = action()
            value = {"operation": operation.id, "digest": digest, "created": datetime.now(UTC).isoformat()}
            self._store.commit([Put(entry_key, value), *self._old()])
        return operation, False

    def _known(self, entry_key: str, digest: str) -> Operation | None:
        entry = self._store.get(entry_key)
        if entry is None:
            return None
        if entry.value["digest"] != digest:
            raise Invalid(
                "idempotency_key_reused",
                "the Idempotency-Key was used for another request",
                hint="Make a new key for each launch.",
            )
        try:
            return self._operations.get(entry.value["operation"])
        except NotFound:
            return None

    def _old(self) -> list[Delete]:
        now = datetime.now(UTC)
        if now - self._pruned < _PRUNE_EVERY:
            return []
        self._pruned = now
        oldest = (now - _KEPT).isoformat()
        return [Delete(entry.key) for entry in self._store.scan(_PREFIX) if entry.value["created"] < oldest]
