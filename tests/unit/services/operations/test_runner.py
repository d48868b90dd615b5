"""Operations: progress, locks, cancellation, undo after failure, recovery after a crash."""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.patience import PATIENCE, until

from triune.domain.errors import Conflict, Failed, NotFound
from triune.domain.operation import OperationState
from triune.services.operations import Events, Operations, Task
from triune.services.operations.record import PREFIX
from triune.store import Entry, SqliteStore


class House:
    """A store and a runner that can be torn down and opened again, as by a restart."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.undone: list[Mapping[str, Any]] = []
        self.open()

    def open(self) -> None:
        self.store = SqliteStore(self.path)
        self.events = Events(self.store)
        self.operations = Operations(self.store, self.events, workers=4)
        self.operations.handlers["thing"] = self.undo

    def undo(self, data: Mapping[str, Any]) -> None:
        if data.get("stubborn"):
            raise Failed("stubborn", "it will not go")
        self.undone.append(data)

    def close(self) -> None:
        self.operations.close()
        self.store.close()


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    house = House(tmp_path / "db")
    yield house
    house.close()


def test_a_finished_operation_keeps_its_steps_and_result_over_a_restart(house: House) -> None:
    def work(task: Task) -> dict[str, int]:
        task.step("one", "first")
        task.step("two", "second")
        task.report(0.5, "half-way")
        return {"answer": 42}

    operation = house.operations.submit("launch", "instances/a", work)
    done = house.operations.wait(operation.id, PATIENCE)
    assert (done.state, done.result) == (OperationState.DONE, {"answer": 42})
    house.close()
    house.open()
    again = house.operations.get(operation.id)
    assert [name for name, _, _ in again.steps] == ["one", "two"]
    assert again.result == {"answer": 42}


def test_failure_undoes_intents_in_reverse_order(house: House) -> None:
    def work(task: Task) -> None:
        task.intend("thing", n=1)
        task.intend("thing", n=2)
        task.intend("thing", redo=True, n=3)
        raise Failed("broken", "it broke", hint="mend it")

    done = house.operations.wait(house.operations.submit("launch", "instances/a", work).id, PATIENCE)
    assert done.state is OperationState.FAILED
    assert done.error is not None
    assert (done.error["code"], done.error["hint"]) == ("broken", "mend it")
    assert [data["n"] for data in house.undone] == [2, 1]


def test_what_is_kept_is_not_undone(house: House) -> None:
    def work(task: Task) -> None:
        task.intend("thing", n=1)
        task.keep()
        raise Failed("late", "too late to undo")

    done = house.operations.wait(house.operations.submit("launch", "instances/a", work).id, PATIENCE)
    assert done.state is OperationState.FAILED
    assert house.undone == []


def test_an_unexpected_exception_is_told_and_undone(house: House) -> None:
    def work(task: Task) -> None:
        task.intend("thing", n=1)
        raise ZeroDivisionError("oops")

    done = house.operations.wait(house.operations.submit("launch", "instances/a", work).id, PATIENCE)
    assert done.error is not None
    assert done.error["code"] == "internal"
    assert "ZeroDivisionError" in done.error["message"]
    assert len(house.undone) == 1


def test_what_cannot_be_undone_is_told_and_tried_again_later(house: House) -> None:
    def work(task: Task) -> None:
        task.intend("thing", stubborn=True)
        raise Failed("broken", "it broke")

    done = house.operations.wait(house.operations.submit("launch", "instances/a", work).id, PATIENCE)
    assert done.error is not None
    assert done.error["details"]["leftovers"][0]["reason"] == "it will not go"
    handled = []
    house.operations.handlers["thing"] = handled.append
    house.operations.settle()
    house.operations.settle()
    assert handled == [{"stubborn": True}]


def test_a_busy_resource_names_the_action_that_holds_it(house: House) -> None:
    gate = threading.Event()
    first = house.operations.submit("stop", "instances/a", lambda task: gate.wait(PATIENCE), locks=["instances/a"])
    with pytest.raises(Conflict) as caught:
        house.operations.submit("delete", "instances/a", lambda task: None, locks=["instances/b", "instances/a"])
    assert "stop" in caught.value.message
    assert first.id in caught.value.hint
    gate.set()
    house.operations.wait(first.id, PATIENCE)
    again = house.operations.submit("delete", "instances/a", lambda task: None, locks=["instances/b", "instances/a"])
    assert house.operations.wait(again.id, PATIENCE).state is OperationState.DONE


def test_who_hears_of_an_end_does_not_find_it_busy(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    release = house.operations.locks.release
    monkeypatch.setattr(house.operations.locks, "release", lambda holder: (time.sleep(0.3), release(holder)))
    heard = house.events.subscribe()
    house.operations.submit("stop", "instances/a", lambda task: None, locks=["instances/a"])
    told = ""
    while told != "operation.done":
        event = heard.get(PATIENCE)
        assert event is not None
        told = event.type
    again = house.operations.submit("start", "instances/a", lambda task: None, locks=["instances/a"])
    assert house.operations.wait(again.id, PATIENCE).state is OperationState.DONE


def test_cancelling_undoes_and_releases(house: House) -> None:
    started = threading.Event()

    def work(task: Task) -> None:
        task.intend("thing", n=1)
        started.set()
        while True:
            task.report(None)
            threading.Event().wait(0.01)

    operation = house.operations.submit("image-build", "images/x", work, locks=["images/x"])
    assert started.wait(PATIENCE)
    house.operations.cancel(operation.id)
    done = house.operations.wait(operation.id, PATIENCE)
    assert done.state is OperationState.CANCELLED
    assert house.undone == [{"n": 1}]
    with pytest.raises(Conflict):
        house.operations.cancel(operation.id)
    assert house.operations.locks.holder("images/x") is None


class FullDisk(SqliteStore):
    """A store that refuses every write while `full`."""

    full = False

    def commit(self, writes: Any, *, expect: Any = None, durable: bool = True, vital: bool = True) -> int:
        if self.full:
            raise Failed("store_failed", "the disk is full")
        return super().commit(writes, expect=expect, durable=durable)


def on_full_disk(house: House) -> FullDisk:
    """The house again, its store one that can be made to refuse writes."""
    house.close()
    house.store = store = FullDisk(house.path)
    house.events = Events(store)
    house.operations = Operations(store, house.events, workers=4)
    house.operations.handlers["thing"] = house.undo
    return store


def test_what_could_not_be_recorded_as_kept_is_undone(house: House) -> None:
    store = on_full_disk(house)

    def work(task: Task) -> None:
        task.intend("thing", n=1)
        store.full = True
        task.keep()

    done = house.operations.wait(house.operations.submit("launch", "instances/a", work).id, PATIENCE)
    assert (done.state, house.undone) == (OperationState.FAILED, [{"n": 1}])


def test_an_end_that_the_full_disk_refused_is_recorded_before_anything_new_begins(house: House) -> None:
    store = on_full_disk(house)

    def fails(task: Task) -> None:
        task.intend("thing", n=1)
        store.full = True
        raise Failed("broken", "it broke")

    def works(task: Task) -> None:
        task.intend("thing", n=1)
        task.keep()

    first = house.operations.submit("launch", "instances/a", fails, locks=["instances/a"])
    assert house.operations.wait(first.id, PATIENCE).state is OperationState.FAILED
    assert house.operations.get(first.id).state is OperationState.FAILED
    assert house.operations.list(running=True) == []
    with pytest.raises(Failed):
        house.operations.submit("launch", "instances/a", works, locks=["instances/a"])
    store.full = False
    second = house.operations.submit("launch", "instances/a", works, locks=["instances/a"])
    assert house.operations.wait(second.id, PATIENCE).state is OperationState.DONE
    house.undone.clear()
    house.close()
    house.open()
    assert house.operations.recover() == []
    assert house.undone == [], "a restart must not undo what was made after it"
    assert house.operations.get(first.id).state is OperationState.FAILED


def test_an_end_that_the_full_disk_refused_is_told_all_the_same(house: House) -> None:
    store = on_full_disk(house)
    house.events.publish("daemon.started", "daemon")  # takes numbers ahead
    heard = house.events.subscribe()

    def fails(task: Task) -> None:
        store.full = True
        raise Failed("broken", "it broke")

    operation = house.operations.submit("launch", "instances/a", fails)
    told: list[str] = []
    while not told or told[-1] != "operation.failed":
        event = heard.get(PATIENCE)
        assert event is not None
        told.append(event.type)
    assert house.operations.get(operation.id).state is OperationState.FAILED
    # Who reads on from there has missed what was not kept.
    assert house.events.forgotten == house.events.sequence


def test_without_numbers_for_events_all_who_listen_read_anew(house: House) -> None:
    store = on_full_disk(house)
    heard = house.events.subscribe()
    store.full = True
    with pytest.raises(Failed):
        house.events.publish("instance.changed", "instances/a")
    assert heard.get(1) is None
    assert heard.lagged


def leave(house: House, resource: str) -> None:
    """An operation that could not undo the thing it had begun."""

    def work(task: Task) -> None:
        task.intend("thing", stubborn=True)
        raise Failed("broken", "it broke")

    house.operations.wait(house.operations.submit("launch", resource, work, locks=[resource]).id, PATIENCE)


def test_leftovers_go_before_the_next_operation_begins(house: House) -> None:
    leave(house, "instances/a")
    order: list[str] = []
    house.operations.handlers["thing"] = lambda data: order.append("undone")
    for resource in ("instances/b", "instances/a"):
        operation = house.operations.submit("launch", resource, lambda task: order.append(task.operation.resource))
        house.operations.wait(operation.id, PATIENCE)
    assert order == ["instances/b", "undone", "instances/a"]


def test_leftovers_are_not_removed_under_a_running_operation(house: House) -> None:
    leave(house, "instances/a")
    started, gate = threading.Event(), threading.Event()

    def work(task: Task) -> None:
        started.set()
        gate.wait(PATIENCE)

    operation = house.operations.submit("start", "instances/a", work, locks=["instances/a"])
    assert started.wait(PATIENCE)  # it has tried to undo them itself, in vain
    house.operations.handlers["thing"] = house.undone.append
    house.operations.settle()
    assert house.undone == []
    gate.set()
    house.operations.wait(operation.id, PATIENCE)
    house.operations.settle()
    assert house.undone == [{"stubborn": True}]


def test_leftovers_of_what_was_made_again_are_forgotten(house: House) -> None:
    leave(house, "instances/a")

    def again(task: Task) -> None:
        task.intend("thing", stubborn=True)
        task.keep()

    house.operations.wait(house.operations.submit("launch", "instances/a", again, locks=["instances/a"]).id, PATIENCE)
    house.operations.handlers["thing"] = house.undone.append
    house.operations.settle()
    assert house.undone == []


def test_what_finishes_in_any_case_says_that_it_cannot_be_cancelled(house: House) -> None:
    shielded, gate = threading.Event(), threading.Event()

    def work(task: Task) -> None:
        task.shield()
        shielded.set()
        gate.wait(PATIENCE)

    operation = house.operations.submit("delete", "instances/a", work)
    assert shielded.wait(PATIENCE)
    assert not house.operations.get(operation.id).may_cancel
    with pytest.raises(Conflict) as caught:
        house.operations.cancel(operation.id)
    gate.set()
    assert caught.value.code == "not_cancellable"


def test_a_daemon_that_ends_does_not_wait_until_what_was_kept_is_ready(house: House) -> None:
    kept = threading.Event()

    def work(task: Task) -> None:
        task.keep()
        kept.set()
        while True:
            task.check()
            threading.Event().wait(0.01)

    operation = house.operations.submit("launch", "instances/a", work)
    assert kept.wait(PATIENCE)
    house.operations.close()
    assert house.operations.get(operation.id).state is OperationState.INTERRUPTED


def test_the_history_of_a_daemon_that_runs_for_long_is_pruned(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("triune.services.operations.runner._HISTORY", 5)
    monkeypatch.setattr("triune.services.operations.runner._PRUNE_EVERY", 10)
    for number in range(10):
        house.operations.wait(house.operations.submit("start", f"instances/{number}", lambda task: None).id, PATIENCE)
    until(lambda: len(house.operations.list()) == 5)


def test_a_long_history_is_read_in_pieces(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("triune.services.operations.runner._PIECE", 3)
    monkeypatch.setattr("triune.services.operations.runner._HISTORY", 4)
    for number in range(8):
        house.operations.wait(house.operations.submit("start", f"instances/{number}", lambda task: None).id, PATIENCE)
    pieces: list[int] = []
    scan = house.store.scan

    def counted(prefix: str, **how: Any) -> list[Entry]:
        found = scan(prefix, **how)
        if prefix == PREFIX:
            pieces.append(len(found))
        return found

    monkeypatch.setattr(house.store, "scan", counted)
    assert house.operations.recover() == []
    assert pieces == [3, 3, 2, 0] * 2  # what is to be finished, and what is to be forgotten
    assert len(house.operations.list()) == 4


def test_numbers_of_events_that_the_full_disk_refused_do_not_come_again(house: House) -> None:
    store = on_full_disk(house)
    store.full = True
    with pytest.raises(Failed):
        house.events.publish("instance.changed", "instances/a", keep=False)
    store.full = False
    last = house.events.publish("instance.changed", "instances/a", keep=False).sequence
    house.close()
    house.open()
    assert house.events.publish("instance.changed", "instances/a").sequence > last


def test_an_unknown_operation_is_not_found(house: House) -> None:
    with pytest.raises(NotFound):
        house.operations.get("nope")


def crash(house: House, *, redo: bool = False, keep: bool = False) -> str:
    """Leave an operation as a killed daemon does: in the store, running, with its journal."""
    reached, forever = threading.Event(), threading.Event()

    def work(task: Task) -> None:
        task.intend("thing", redo=redo, n=7)
        if keep:
            task.keep()
        reached.set()
        forever.wait(PATIENCE)

    operation = house.operations.submit("launch", "instances/a", work, locks=["instances/a"])
    assert reached.wait(PATIENCE)
    snapshot = [(entry.key, entry.value) for entry in house.store.scan("operations/")]
    forever.set()
    house.operations.wait(operation.id, PATIENCE)
    house.close()
    house.open()
    from triune.store import Put

    house.store.commit([Put(key, value) for key, value in snapshot])
    return operation.id


@pytest.mark.parametrize("redo", [False, True])
def test_after_a_crash_intents_are_handled_and_the_operation_is_marked(house: House, redo: bool) -> None:
    operation_id = crash(house, redo=redo)
    house.undone.clear()
    interrupted = house.operations.recover()
    assert [operation.id for operation in interrupted] == [operation_id]
    assert house.operations.get(operation_id).state is OperationState.INTERRUPTED
    assert [data["n"] for data in house.undone] == [7]
    assert interrupted[0].error is not None
    assert interrupted[0].error["message"].endswith("finished" if redo else "undone")
    assert house.operations.recover() == []


def test_after_a_crash_what_was_kept_stays(house: House) -> None:
    operation_id = crash(house, keep=True)
    house.undone.clear()
    house.operations.recover()
    assert house.operations.get(operation_id).state is OperationState.INTERRUPTED
    assert house.undone == []


def test_history_pages_newest_first(house: House) -> None:
    ids = []
    for number in range(5):
        operation = house.operations.submit("start", f"instances/{number}", lambda task: None)
        house.operations.wait(operation.id, PATIENCE)
        ids.append(operation.id)
        threading.Event().wait(0.002)
    first = house.operations.list(limit=3)
    rest = house.operations.list(limit=3, before=first[-1].id)
    assert [operation.id for operation in [*first, *rest]] == ids[::-1]


def test_events_are_numbered_kept_and_a_laggard_is_dropped(house: House) -> None:
    slow = house.events.subscribe()
    for number in range(1100):
        house.events.publish("instance.changed", f"instances/{number}", keep=number < 10)
    assert slow.lagged
    kept = house.events.since(0)
    assert [event.sequence for event in kept] == sorted(event.sequence for event in kept)
    assert len(kept) == 10
    last = house.events.sequence
    house.close()
    house.open()
    assert house.events.publish("daemon.started", "daemon").sequence > 10
    assert last >= 1100


def test_a_full_disk_is_told_as_one(house: House) -> None:
    def fails(task: Task) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "/srv/instances/a")

    done = house.operations.wait(house.operations.submit("launch", "instances/a", fails).id, PATIENCE)
    assert done.error is not None
    assert (done.error["code"], done.error["kind"]) == ("no_space", "Failed")
    assert "/srv/instances/a" in done.error["message"] and done.error["hint"]
