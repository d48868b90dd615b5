"""The runner: a bounded pool of threads, records that outlive the daemon, undo after failure or crash."""

from __future__ import annotations

import errno
import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from itertools import islice
from typing import Any

from triune.domain.errors import Cancelled, Conflict, Failed, NotFound, TriuneError
from triune.domain.operation import Operation, OperationState
from triune.services.operations.events import Events
from triune.services.operations.locks import Holder, Locks
from triune.services.operations.record import LEFTOVERS, PREFIX, from_value, new_id
from triune.services.operations.task import Task
from triune.store import Delete, Entry, Put, Store

log = logging.getLogger(__name__)

Handler = Callable[[Mapping[str, Any]], None]
Work = Callable[[Task], Any]

_HISTORY = 2000
_PRUNE_EVERY = 200
_PIECE = 100
_WORKERS = 32
_LETTING_GO = 5.0


class Operations:
    """Runs, lists, cancels and recovers operations. `handlers` undo (or finish) journal entries by their kind."""

    def __init__(self, store: Store, events: Events, *, workers: int = _WORKERS) -> None:
        self._store = store
        self._events = events
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="operation")
        self._live: dict[str, Task] = {}
        # Ended operations whose end the store refused, with what could not be undone. They stay in `_live` meanwhile.
        self._unwritten: list[tuple[Task, list[dict[str, Any]]]] = []
        self._writing = threading.Lock()
        self._settling = threading.Lock()
        self._ended = 0
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
        self._write_ends()
        self._acquire(locks, holder)
        try:
            task.save(durable=False)
            self._live[operation.id] = task
            self._pool.submit(self._run, task, work, holder)
        except BaseException:
            self._live.pop(operation.id, None)
            self.locks.release(holder)
            raise
        return operation

    def _acquire(self, locks: Sequence[str], holder: Holder) -> None:
        """Take the locks. An operation whose end was told is about to let go of them: whoever heard of that must not
        find it busy."""
        try:
            self.locks.acquire(locks, holder)
        except Conflict as busy:
            task = self._live.get(str(busy.details["operation"]))
            if task is not None and not task.operation.state.ended:
                raise
            if task is not None:
                task.ended.wait(_LETTING_GO)
            self.locks.acquire(locks, holder)

    def _run(self, task: Task, work: Work, holder: Holder) -> None:
        try:
            task.check()
            task.update(lambda op: replace(op, state=OperationState.RUNNING, started=datetime.now(UTC)), durable=False)
            self._settle_resource(task.operation.resource)
            result = work(task)
            task.journal.clear()
            self._end(task, OperationState.DONE, result=result)
        except BaseException as error:
            self._fail(task, error)
        finally:
            self.locks.release(holder)
            task.ended.set()
            if not any(task is waiting for waiting, _ in self._unwritten):
                self._live.pop(task.operation.id, None)
        self._count()

    def _count(self) -> None:
        """Prune the history now and then; a daemon may run for years."""
        self._ended += 1
        if self._ended % _PRUNE_EVERY == 0:
            try:
                self._prune()
            except TriuneError as error:
                log.warning("old operations could not be forgotten: %s", error)

    def _fail(self, task: Task, error: BaseException) -> None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            error = Failed(
                "no_space",
                f"no space is left on the disk{f' of {error.filename}' if error.filename else ''}",
                hint="Make room and repeat; see: df -h",
            )
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
        if error.code == "interrupted":
            state = OperationState.INTERRUPTED
        task.journal.clear()
        task.operation = _ended(task.operation, state, error=told)
        with self._writing:
            self._unwritten.append((task, left))
        try:
            self._write_ends()
        except TriuneError:
            log.exception("operation %s could not be recorded", task.operation.id)
            with suppress(TriuneError):
                task.tell()

    def _write_ends(self) -> None:
        """Record the ends of failed operations.

        Where the store fails (full disk) the journal on disk stands, and a restart undoes it again. Nothing new may
        begin before it is written: the restart would undo that too, if it has the same name.
        """
        with self._writing:
            while self._unwritten:
                task, left = self._unwritten[0]
                if left:
                    self._remember(task.operation, left)
                task.update(lambda operation: operation)
                del self._unwritten[0]
                if task.ended.is_set():
                    self._live.pop(task.operation.id, None)

    def _end(
        self, task: Task, state: OperationState, *, result: Any = None, error: dict[str, Any] | None = None
    ) -> None:
        task.update(
            lambda operation: _ended(operation, state, result=result, error=error),
            durable=state is not OperationState.DONE,
        )

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

    def _remember(self, operation: Operation, left: list[dict[str, Any]]) -> None:
        value = {"resource": operation.resource, "journal": left[::-1]}
        self._store.commit([Put(LEFTOVERS + operation.id, value)])

    def recover(self) -> list[Operation]:
        """After a restart: undo or finish what was under way, mark it interrupted, and return it."""
        interrupted = []
        for entry in self._history():
            operation = from_value(entry.key.removeprefix(PREFIX), entry.value)
            if operation.state.ended:
                continue
            left = self._undo(entry.value["journal"])
            if left:
                self._remember(operation, left)
            task = Task(operation, self._store, self._events)
            text = "the daemon ended meanwhile"
            if entry.value["journal"]:
                finished = all(intent["redo"] for intent in entry.value["journal"])
                text += "; what it had begun was " + ("left over" if left else "finished" if finished else "undone")
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
        for entry in self._store.scan(LEFTOVERS):
            resource = str(entry.value.get("resource", ""))
            holder = Holder(entry.key, "removal of leftovers")
            try:
                self.locks.acquire([resource], holder)
            except Conflict:  # the operation that has it settles it itself
                continue
            try:
                self._settle(entry.key)
            finally:
                self.locks.release(holder)

    def _settle_resource(self, resource: str) -> None:
        """Before anything is done with a thing, what is left over of it goes. The caller holds its lock."""
        for entry in self._store.scan(LEFTOVERS):
            if entry.value.get("resource") == resource:
                self._settle(entry.key)

    def _settle(self, key: str) -> None:
        with self._settling:
            entry = self._store.get(key)
            if entry is None:
                return
            left = self._undo(entry.value["journal"])
            self._store.commit([Put(key, {**entry.value, "journal": left[::-1]}) if left else Delete(key)])

    def _prune(self) -> None:
        old = [entry.key for entry in islice(self._history(reverse=True), _HISTORY, None)]
        gone = [Delete(key) for key in old if key.removeprefix(PREFIX) not in self._live]
        if gone:
            self._store.commit(gone, durable=False)

    def _history(self, *, reverse: bool = False) -> Iterator[Entry]:
        """All that is recorded, read in pieces: the memory that thousands at once take is never given back."""
        after = None
        while entries := self._store.scan(PREFIX, after=after, limit=_PIECE, reverse=reverse):
            yield from entries
            after = entries[-1].key

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
            found = [task.operation for task in list(self._live.values())]
            return sorted((one for one in found if not one.state.ended), key=lambda one: one.id, reverse=True)
        after = PREFIX + before if before else None
        entries = self._store.scan(PREFIX, after=after, limit=limit, reverse=True)
        return [self._read(entry) for entry in entries]

    def _read(self, entry: Entry) -> Operation:
        """What runs is newer than its record: progress within a step is not written down."""
        operation_id = entry.key.removeprefix(PREFIX)
        task = self._live.get(operation_id)
        return task.operation if task else from_value(operation_id, entry.value)

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
            state = operation.state.value if operation.state.ended else "past the point of cancelling"
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
            task.closing.set()
            if task.operation.may_cancel:
                task.cancelled.set()
        self._pool.shutdown(wait=True, cancel_futures=True)


def _ended(
    operation: Operation, state: OperationState, *, result: Any = None, error: dict[str, Any] | None = None
) -> Operation:
    return replace(
        operation,
        state=state,
        ended=datetime.now(UTC),
        fraction=None,
        may_cancel=False,
        result=result,
        error=error,
    )
