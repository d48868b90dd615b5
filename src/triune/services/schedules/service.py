"""Schedules: kept in the store, run by one thread; each run is an ordinary operation."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from triune.domain.errors import Conflict, Invalid, NotFound, TriuneError
from triune.domain.names import single_line
from triune.domain.operation import Operation, OperationState
from triune.services.operations import Events, Operations
from triune.services.schedules.schedule import Schedule, check_times, first_run, from_value, schedule_name
from triune.store import Delete, Put, Store

log = logging.getLogger(__name__)

_PREFIX = "schedules/"
# The clock may be set while we sleep, so nobody sleeps longer than this.
_LONGEST_SLEEP = 30.0
_LOOK = 1.0
_BUSY = timedelta(minutes=1)
_MOST_KEPT = 100_000

Action = Callable[[Schedule], Operation]


@dataclass(slots=True)
class _Chore:
    every: timedelta
    work: Callable[[], None]
    due: datetime


class Schedules:
    """All schedules. `actions` maps the word of an action to what begins it and returns its operation.

    A run that was missed (the daemon was down, the host slept) is made up for once. One that is still under way is not
    begun again. What fails is an event `schedule.failed`. `chore` adds small work of the daemon's own.
    """

    def __init__(
        self,
        store: Store,
        operations: Operations,
        events: Events,
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._store = store
        self._operations = operations
        self._events = events
        self._clock = clock
        self._changing = threading.RLock()
        self._wake = threading.Event()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        self._chores: list[_Chore] = []
        self.actions: dict[str, Action] = {}

    # Reading

    def list(self, action: str | None = None) -> list[Schedule]:
        """All by name, or those of one action."""
        found = [from_value(entry.key.removeprefix(_PREFIX), entry.value) for entry in self._store.scan(_PREFIX)]
        return [one for one in found if action in (None, one.action)]

    def get(self, name: str) -> Schedule:
        """One of them. Raises NotFound."""
        entry = self._store.get(_PREFIX + name)
        if entry is None:
            raise NotFound(
                "schedule_not_found",
                f"there is no schedule {name!r}",
                hint="See all: triune snapshot schedule list, and triune backup schedule list",
            )
        return from_value(name, entry.value)

    # Changing

    def create(
        self,
        name: str,
        action: str,
        subject: str,
        *,
        every: float | None = None,
        at: str | None = None,
        keep: Mapping[str, int] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> Schedule:
        """Add one; `every` in seconds, or daily `at` HH:MM. Raises Invalid, Conflict("schedule_exists")."""
        schedule_name(name)
        single_line(subject, "the subject")
        check_times(every, at)
        if action not in self.actions:
            known = ", ".join(sorted(self.actions))
            raise Invalid("unknown_action", f"nothing called {action!r} can be scheduled", hint=f"There is: {known}.")
        for word, number in (keep or {}).items():
            if not 1 <= number <= _MOST_KEPT:
                raise Invalid("bad_keep", f"{number} is no number of things to keep ({word})", hint="Keep at least 1.")
        now = self._clock()
        made = Schedule(
            name=name,
            action=action,
            subject=subject,
            created=now,
            next_run=first_run(every, at, now),
            every=every,
            at=at,
            keep=dict(keep or {}),
            options=dict(options or {}),
        )
        self._add(made)
        self._wake.set()
        return made

    def _add(self, made: Schedule) -> None:
        key = _PREFIX + made.name
        try:
            self._store.commit([Put(key, made.to_value())], expect={key: 0})
        except Conflict:
            raise Conflict(
                "schedule_exists",
                f"there is a schedule {made.name!r} already",
                hint="Choose another name with --name, or remove it: triune snapshot schedule rm " + made.name,
            ) from None

    def delete(self, name: str) -> None:
        """Remove one; what it made stays. Raises NotFound."""
        with self._changing:
            self.get(name)
            self._store.commit([Delete(_PREFIX + name)])

    def renamed(self, name: str, new: str) -> None:
        """An instance has another name: its schedules go with it."""
        with self._changing:
            for one in self.list():
                if one.subject == name:
                    self._put(replace(one, subject=new))

    def forgotten(self, name: str) -> None:
        """An instance is gone: so are its schedules."""
        with self._changing:
            gone = [Delete(_PREFIX + one.name) for one in self.list() if one.subject == name]
            if gone:
                self._store.commit(gone)

    # Running

    def chore(self, every: float, work: Callable[[], None]) -> None:
        """Call `work` every so many seconds, and once at the start. It must be short."""
        self._chores.append(_Chore(timedelta(seconds=every), work, self._clock()))

    def start(self) -> None:
        """Begin to run what is due."""
        self._thread = threading.Thread(target=self._run, name="schedules", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread; what runs goes on as any operation."""
        self._closed.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(10)

    def _run(self) -> None:
        while not self._closed.is_set():
            try:
                sleep = self.tick()
            except Exception:
                log.exception("the schedules could not be looked through")
                sleep = _LONGEST_SLEEP
            self._wake.wait(sleep)
            self._wake.clear()

    def tick(self) -> float:
        """Note what has ended, begin what is due, do the chores; returns for how many seconds nothing is due."""
        now = self._clock()
        self._do_chores(now)
        sleep = _LONGEST_SLEEP
        for one in self.list():
            current = self._settled(one)
            if current.last_result != "running" and (current.next_run <= now or current.next_run > current.after(now)):
                current = self._begin(current, now)
            if current.last_result == "running":
                sleep = _LOOK
            sleep = min(sleep, max((current.next_run - now).total_seconds(), _LOOK))
        return sleep

    def _do_chores(self, now: datetime) -> None:
        for chore in self._chores:
            if chore.due <= now or chore.due > now + chore.every:
                chore.due = now + chore.every
                try:
                    chore.work()
                except Exception:
                    log.exception("a chore of the daemon failed")

    def _settled(self, one: Schedule) -> Schedule:
        """The schedule, with the result of its run where that has ended."""
        if one.last_result != "running":
            return one
        try:
            operation = self._operations.get(one.last_operation)
        except NotFound:
            return self._ended(one, "its operation is no longer known")
        if not operation.state.ended:
            return one
        if operation.state is OperationState.DONE:
            return self._ended(one, "done")
        said = (operation.error or {}).get("message") or operation.state.value
        return self._ended(one, str(said))

    def _ended(self, one: Schedule, result: str) -> Schedule:
        if result != "done":
            data = {"action": one.action, "subject": one.subject, "message": result, "operation": one.last_operation}
            self._events.publish("schedule.failed", f"schedules/{one.name}", data)
        return self._change(one, last_result=result)

    def _begin(self, one: Schedule, now: datetime) -> Schedule:
        following = one.after(now)
        if one.next_run > now:  # the clock was set back
            return self._change(one, next_run=following)
        try:
            operation = self.actions[one.action](one)
        except TriuneError as error:
            if error.code == "busy":
                return self._change(one, next_run=min(now + _BUSY, following))
            failed = self._change(one, next_run=following, last_run=now, last_operation="")
            return self._ended(failed, error.message)
        except KeyError:
            return self._ended(one, f"this daemon can't do {one.action}")
        return self._change(one, next_run=following, last_run=now, last_operation=operation.id, last_result="running")

    def _change(self, one: Schedule, **changes: Any) -> Schedule:
        """Write changes down, unless it was removed meanwhile."""
        with self._changing:
            entry = self._store.get(_PREFIX + one.name)
            if entry is None:
                return one
            changed = replace(from_value(one.name, entry.value), **changes)
            self._put(changed)
            return changed

    def _put(self, one: Schedule) -> None:
        self._store.commit([Put(_PREFIX + one.name, one.to_value())])
