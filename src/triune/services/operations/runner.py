"""The runner: a bounded pool of threads, records that outlive the daemon, undo after failure or crash."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from triune.domain.errors import Cancelled, Conflict, Failed, NotFound, TriuneError
from triune.domain.operation import Operation, OperationState
from triune.services.operations.events import Events
from triune.services.operations.locks import Holder, Locks
from triune.services.operations.record import PREFIX, from_value, new_id
from triune.services.operations.task import Task
from triune.store import Delete, Put, Store

log = logging.getLogger(__name__)

Handler = Callable[[Mapping[str, Any]], None]
Work = Callable[[Task], Any]

_LEFTOVERS = "leftovers/"
_HISTORY = 2000
_WORKERS = 32


class Operations:
    """Runs, lists, cancels and recovers operations. `handlers` undo (or finish) journal entries by their kind."""

    def __init__(self, store: Store, events: Events, *, workers: int = _WORKERS) -> None:
        self._store = store
        self._events = events
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="operation")
        self._live: dict[str, Task] = {}
        self._settling = threading.Lock()
        self.locks = Locks()
        self.handlers: dict[str, Handler] = {}

    def submit(
        self,
        kind: str,
        resource: str,
        work: Work,
        *,
        locks: Sequence[str] = (),
        data: Mapping[str, Any] | None = None,
        may_cancel: bool = True,
    ) -> Operation:
        """Take the locks, record the operation and run `work` in the pool. Raises Conflict("busy")."""
        operation = Operation(
            id=new_id(),
            kind=kind,
            resource=resource,
            state=OperationState.PENDING,
            created=datetime.now(UTC),
            may_cancel=may_cancel,
            data=dict(data or {}),
        )
        task = Task(operation, self._store, self._events)
        holder = Holder(operation.id, kind)
        self.locks.acquire(locks, holder)
        try:
            task.save(durable=False)
            self._live[operation.id] = task
            self._pool.submit(self._run, task, work, holder)
        except BaseException:
            self._live.pop(operation.id, None)
            self.locks.release(holder)
            raise
        return operation

    def _run(self, task: Task, work: Work, holder: Holder) -> None:
        try:
            task.check()
            task.update(lambda op: replace(op, state=OperationState.RUNNING, started=datetime.now(UTC)), durable=False)
            result = work(task)
            task.journal.clear()
            self._end(task, OperationState.DONE, result=result)
        except BaseException as error:
            self._fail(task, error)
        finally:
            self.locks.release(holder)
            self._live.pop(task.operation.id, None)
            task.ended.set()

    def _fail(self, task: Task, error: BaseException) -> None:
        if not isinstance(error, TriuneError):
            log.exception("operation %s failed", task.operation.id, exc_info=error)
            error = Failed(
                "internal",
                f"unexpected {type(error).__name__}: {error}",
                hint="See the daemon's log; please report it.",
            )
        task.shield()
        told = error.as_dict()
        left = self._undo([entry for entry in task.journal if not entry["redo"]])
        if left:
            told.setdefault("details", {})["leftovers"] = left
        state = OperationState.CANCELLED if isinstance(error, Cancelled) else OperationState.FAILED
        try:
            if left:
                self._remember(task.operation.id, left)
            task.journal.clear()
            self._end(task, state, error=told)
        except TriuneError:  # the store itself failed (full disk): the journal on disk stands, a restart undoes
            log.exception("operation %s could not be recorded", task.operation.id)
            task.operation = replace(task.operation, state=state, error=told, ended=datetime.now(UTC))

    def _end(
        self, task: Task, state: OperationState, *, result: Any = None, error: dict[str, Any] | None = None
    ) -> None:
        def change(operation: Operation) -> Operation:
            return replace(
                operation,
                state=state,
                ended=datetime.now(UTC),
                fraction=None,
                may_cancel=False,
                result=result,
                error=error,
            )

        task.update(change, durable=state is not OperationState.DONE)

    def _undo(self, journal: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Run the handlers, last intent first; returns the entries that could not be undone, with the reason."""
        left: list[dict[str, Any]] = []
        for entry in reversed(journal):
            try:
                self.handlers[entry["kind"]](entry["data"])
            except Exception as error:
                log.warning("could not undo %s: %s", entry, error)
                left.append({**entry, "reason": str(error)})
        return left

    def _remember(self, operation_id: str, left: list[dict[str, Any]]) -> None:
        self._store.commit([Put(_LEFTOVERS + operation_id, {"journal": left[::-1]})])

    def recover(self) -> list[Operation]:
        """After a restart: undo or finish what was under way, mark it interrupted, and return it."""
        interrupted = []
        for entry in self._store.scan(PREFIX):
            operation = from_value(entry.key.removeprefix(PREFIX), entry.value)
            if operation.state.ended:
                continue
            left = self._undo(entry.value["journal"])
            if left:
                self._remember(operation.id, left)
            task = Task(operation, self._store, self._events)
            text = "the daemon ended meanwhile"
            if entry.value["journal"]:
                text += "; what it had begun was " + ("left over" if left else "cleaned up")
            error = Failed("interrupted", text, hint="Repeat the command.").as_dict()
            if left:
                error["details"] = {"leftovers": left}
            self._end(task, OperationState.INTERRUPTED, error=error)
            interrupted.append(task.operation)
        self._prune()
        self.settle()
        return interrupted

    def settle(self) -> None:
        """Try once more to undo what could not be undone before (an engine was away)."""
        with self._settling:
            for entry in self._store.scan(_LEFTOVERS):
                left = self._undo(entry.value["journal"])
                if left:
                    self._store.commit([Put(entry.key, {"journal": left[::-1]})])
                else:
                    self._store.commit([Delete(entry.key)])

    def _prune(self) -> None:
        old = self._store.scan(PREFIX, reverse=True)[_HISTORY:]
        if old:
            self._store.commit([Delete(entry.key) for entry in old], durable=False)

    def get(self, operation_id: str) -> Operation:
        """One operation, running or ended. Raises NotFound."""
        task = self._live.get(operation_id)
        if task:
            return task.operation
        entry = self._store.get(PREFIX + operation_id)
        if entry is None:
            raise NotFound(
                "operation_not_found", f"there is no operation {operation_id!r}", hint="See: triune ops list"
            )
        return from_value(operation_id, entry.value)

    def list(self, *, limit: int = 100, before: str | None = None, running: bool = False) -> list[Operation]:
        """Newest first; `before` is the id to go on from; `running` leaves the ended ones out."""
        if running:
            return sorted((task.operation for task in list(self._live.values())), key=lambda op: op.id, reverse=True)
        after = PREFIX + before if before else None
        entries = self._store.scan(PREFIX, after=after, limit=limit, reverse=True)
        return [self.get(entry.key.removeprefix(PREFIX)) for entry in entries]

    def wait(self, operation_id: str, timeout: float | None = None) -> Operation:
        """Wait until it has ended, or until `timeout` seconds passed; returns it as it then is."""
        task = self._live.get(operation_id)
        if task:
            task.ended.wait(timeout)
        return task.operation if task else self.get(operation_id)

    def cancel(self, operation_id: str) -> Operation:
        """Ask it to stop; it undoes what it had made. Raises Conflict when it has ended or can't be cancelled."""
        operation = self.get(operation_id)
        task = self._live.get(operation_id)
        if task is None or not operation.may_cancel:
            state = operation.state.value if task is None else "past the point of cancelling"
            raise Conflict(
                "not_cancellable",
                f"operation {operation_id} is {state}",
                hint="See: triune ops show " + operation_id,
            )
        task.cancelled.set()
        return operation

    def close(self) -> None:
        """Take no more work and wait for what runs; a cancel is asked of whatever may be cancelled."""
        for task in list(self._live.values()):
            if task.operation.may_cancel:
                task.cancelled.set()
        self._pool.shutdown(wait=True, cancel_futures=True)
