from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.patience import PATIENCE, until

from triune.domain.errors import Conflict, Failed, Invalid, NotFound
from triune.domain.operation import Operation
from triune.services.operations import Events, Operations
from triune.services.schedules import Schedule, Schedules
from triune.services.schedules.schedule import from_value
from triune.store import SqliteStore

START = datetime(2026, 3, 1, 12, 0, 30, tzinfo=UTC)


class Rig:
    """Schedules with a clock that tests set; `runs` are the schedules whose action ran."""

    def __init__(self, folder: Path) -> None:
        self.now = START
        self.store = SqliteStore(folder / "triune.db")
        self.events = Events(self.store)
        self.operations = Operations(self.store, self.events)
        self.runs: list[str] = []
        self.error: Exception | None = None
        self.schedules = self.fresh()

    def fresh(self) -> Schedules:
        """As after a restart of the daemon."""
        self.schedules = Schedules(self.store, self.operations, self.events, clock=lambda: self.now)
        self.schedules.actions["snapshot"] = self.act
        return self.schedules

    def act(self, schedule: Schedule) -> Operation:
        if isinstance(self.error, Conflict):
            raise self.error
        self.runs.append(schedule.subject)

        def work(_: object) -> None:
            if self.error is not None:
                raise self.error

        return self.operations.submit("snapshot", f"instances/{schedule.subject}", work)

    def tick(self, **later: float) -> float:
        self.now += timedelta(**later)
        sleep = self.schedules.tick()
        for operation in self.operations.list(running=True):
            self.operations.wait(operation.id, PATIENCE)
        return sleep

    def failures(self) -> list[str]:
        return [str(event.data["message"]) for event in self.events.since(0) if event.type == "schedule.failed"]

    def close(self) -> None:
        self.operations.close()
        self.store.close()


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path)
    yield made
    made.schedules.close()
    made.close()


def test_it_runs_each_period_and_not_in_between(rig: Rig) -> None:
    made = rig.schedules.create("web-1h", "snapshot", "web", every=3600, keep={"last": 24})
    assert made.next_run == START + timedelta(hours=1)
    rig.tick()
    rig.tick(minutes=59)
    assert rig.runs == []
    rig.tick(minutes=1)
    rig.tick(seconds=1)
    assert rig.runs == ["web"]
    found = rig.schedules.get("web-1h")
    assert (found.last_result, found.last_run) == ("done", START + timedelta(hours=1))
    assert found.next_run == START + timedelta(hours=2)
    assert rig.operations.get(found.last_operation).kind == "snapshot"


def test_it_looks_soon_how_a_run_went(rig: Rig) -> None:
    rig.schedules.create("web-1h", "snapshot", "web", every=3600)
    assert rig.tick() > 10
    assert rig.tick(hours=1) <= 1
    assert rig.tick(seconds=1) > 10
    assert rig.schedules.get("web-1h").last_result == "done"


def test_missed_runs_are_made_up_for_once(rig: Rig) -> None:
    rig.schedules.create("web-1h", "snapshot", "web", every=3600)
    rig.now += timedelta(hours=9, minutes=10)
    rig.fresh()
    for _ in range(5):
        rig.tick(seconds=1)
    assert rig.runs == ["web"]
    assert rig.schedules.get("web-1h").next_run == START + timedelta(hours=10)


def test_a_clock_set_back_does_not_stop_it_for_long(rig: Rig) -> None:
    rig.schedules.create("web-1h", "snapshot", "web", every=3600)
    rig.tick(days=-300)
    rig.tick(hours=1, seconds=1)
    assert rig.runs == ["web"]


def test_daily_at_a_time_of_the_host(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    try:
        made = rig.schedules.create("nightly", "snapshot", "web", at="03:00")
        assert made.next_run == datetime(2026, 3, 2, 2, 0, tzinfo=UTC)
        rig.tick(hours=14)
        rig.tick(seconds=1)
        assert rig.runs == ["web"]
        # In summer time, an hour earlier in UTC.
        rig.now = datetime(2026, 3, 29, 12, 0, tzinfo=UTC)
        rig.tick()
        rig.tick(seconds=1)
        assert rig.schedules.get("nightly").next_run == datetime(2026, 3, 30, 1, 0, tzinfo=UTC)
    finally:
        monkeypatch.undo()
        time.tzset()


def test_what_fails_is_told_and_goes_on(rig: Rig) -> None:
    rig.schedules.create("web-1h", "snapshot", "web", every=3600)
    rig.error = Failed("full", "the pool is full", hint="Make room.")
    rig.tick(hours=1)
    rig.tick(seconds=1)
    assert rig.failures() == ["the pool is full"]
    assert rig.schedules.get("web-1h").last_result == "the pool is full"
    rig.error = None
    rig.tick(hours=1)
    rig.tick(seconds=1)
    assert rig.schedules.get("web-1h").last_result == "done"


def test_a_busy_instance_is_tried_again_in_a_minute(rig: Rig) -> None:
    rig.schedules.create("web-1h", "snapshot", "web", every=3600)
    rig.error = Conflict("busy", "web is busy", hint="Wait.")
    rig.tick(hours=1)
    assert (rig.runs, rig.failures()) == ([], [])
    rig.error = None
    rig.tick(seconds=61)
    assert rig.runs == ["web"]


def test_an_action_that_cannot_begin_is_a_failure(rig: Rig) -> None:
    rig.schedules.create("web-1h", "snapshot", "web", every=3600)
    rig.error = Conflict("snapshot_exists", "there is one", hint="Wait.")
    rig.tick(hours=1)
    rig.tick(seconds=1)
    assert rig.failures() == ["there is one"]


def test_a_run_that_a_restart_interrupted_is_a_failure(rig: Rig) -> None:
    rig.schedules.create("web-1h", "snapshot", "web", every=3600)
    rig.now += timedelta(hours=1)
    rig.schedules.tick()
    (operation,) = rig.operations.list()
    rig.operations.wait(operation.id, PATIENCE)
    entry = rig.store.get(f"operations/{operation.id}")
    assert entry is not None
    from triune.store import Put

    rig.store.commit([Put(entry.key, {**entry.value, "state": "running", "ended": None})])
    rig.operations.recover()
    rig.fresh()
    rig.tick(seconds=1)
    assert rig.failures() == ["the daemon ended meanwhile"]


def test_they_follow_names_and_go_with_the_instance(rig: Rig) -> None:
    rig.schedules.create("one", "snapshot", "web", every=3600)
    rig.schedules.create("two", "snapshot", "db", every=3600)
    rig.schedules.renamed("web", "www")
    rig.schedules.forgotten("db")
    assert [(one.name, one.subject) for one in rig.schedules.list()] == [("one", "www")]


def test_bad_ones_are_refused(rig: Rig) -> None:
    rig.schedules.create("one", "snapshot", "web", every=3600)
    with pytest.raises(Conflict):
        rig.schedules.create("one", "snapshot", "web", every=3600)
    with pytest.raises(NotFound):
        rig.schedules.delete("none")
    for times in (
        {},
        {"every": 3600.0, "at": "03:00"},
        {"every": 1.0},
        {"every": 1e12},
        {"at": "24:00"},
        {"at": "3:00"},
        {"at": "03:00\n"},
    ):
        with pytest.raises(Invalid):
            rig.schedules.create("two", "snapshot", "web", **times)  # type: ignore[arg-type]
    with pytest.raises(Invalid):
        rig.schedules.create("two", "dance", "web", every=3600)
    with pytest.raises(Invalid):
        rig.schedules.create("two", "snapshot", "web", every=3600, keep={"last": 0})
    with pytest.raises(Invalid):
        rig.schedules.create("Two/", "snapshot", "web", every=3600)
    rig.schedules.delete("one")
    assert rig.schedules.list() == []


def test_the_thread_does_it_by_itself(rig: Rig) -> None:
    done: list[int] = []
    rig.schedules.chore(60, lambda: done.append(1))
    rig.schedules.create("web-1m", "snapshot", "web", every=60)
    rig.now += timedelta(minutes=1)
    rig.schedules.start()
    until(lambda: rig.runs and done)
    assert (rig.runs, done) == (["web"], [1])


@given(
    every=st.floats(60, 366 * 86400),
    passed=st.timedeltas(timedelta(days=-2000), timedelta(days=2000)),
)
def test_the_next_run_is_always_ahead_and_within_a_period(every: float, passed: timedelta) -> None:
    one = Schedule(
        name="x",
        action="snapshot",
        subject="web",
        created=START,
        next_run=START + timedelta(seconds=every),
        every=every,
    )
    now = START + passed
    following = one.after(now)
    assert now < following <= now + timedelta(seconds=every) or following == one.next_run
    assert following > now
    assert from_value("x", one.to_value()) == one
