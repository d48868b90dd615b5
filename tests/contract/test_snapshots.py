"""The promises of `Snapshots` and `Cloning`, asked of every engine that has them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from tests.contract.adapters import PREFIX, Adapter
from tests.contract.conftest import finish
from triune.domain.errors import Conflict, Invalid, NotFound
from triune.domain.instance import Origin, State
from triune.domain.operation import Silent
from triune.domain.snapshot import Consistency, Snapshot
from triune.engines.base import ClonePlan, Cloning, Command, Engine, Snapshots

SILENT = Silent()
NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def snapshot(name: str, **more: object) -> Snapshot:
    return Snapshot(name=name, created=datetime.now(UTC), consistency=Consistency.CRASH, **more)  # type: ignore[arg-type]


def state(engine: Engine, name: str) -> State:
    return next(one.state for one in engine.list() if one.name == name)


@pytest.fixture(scope="module")
def facet(engine: Engine) -> Snapshots:
    if engine.snapshots is None:
        pytest.skip(f"{engine.name} has no snapshots: {engine.probe().missing.get('snapshots')}")
    return engine.snapshots


@pytest.fixture(scope="module")
def shared(adapter: Adapter, engine: Engine) -> Iterator[str]:
    """One instance for all tests of this module: they leave it without snapshots."""
    name = f"{PREFIX}snap-{adapter.name}"
    engine.create(adapter.plan(engine, name), SILENT)
    yield name
    engine.delete(name)


@pytest.fixture
def one(facet: Snapshots, shared: str) -> Iterator[str]:
    """It, stopped or running, without snapshots."""
    yield shared
    for left in reversed(facet.list(shared)):
        facet.delete(shared, left.name, SILENT)


def up(adapter: Adapter, engine: Engine, name: str) -> None:
    engine.start(name, SILENT)
    engine.wait_ready(name, adapter.patience, SILENT)


def down(engine: Engine, name: str) -> None:
    engine.stop(name, timeout=20, force=True, progress=SILENT)


def run(engine: Engine, name: str, script: str) -> str:
    assert engine.commands is not None
    return finish(engine.commands.open(name, Command(argv=("sh", "-c", script)))).out.decode()


def is_real(engine: Engine) -> bool:
    """Whether commands see the instance's own files."""
    return not engine.probe().facts.get("simulated")


class TestSnapshots:
    def test_a_restore_puts_back_what_was(self, adapter: Adapter, engine: Engine, facet: Snapshots, one: str) -> None:
        up(adapter, engine, one)
        run(engine, one, "echo before > /root-what; sync")
        taken = facet.create(one, snapshot("one", comment="c"), SILENT)
        assert (taken.name, taken.comment) == ("one", "c")
        assert taken.consistency in (Consistency.AGENT, Consistency.FROZEN, Consistency.CRASH)
        assert state(engine, one) is State.RUNNING
        run(engine, one, "echo after > /root-what; echo new > /root-new; sync")
        down(engine, one)
        facet.restore(one, "one", SILENT)
        assert state(engine, one) is State.STOPPED
        if is_real(engine):
            up(adapter, engine, one)
            assert run(engine, one, "cat /root-what; ls /root-new 2>/dev/null") == "before\n"

    def test_of_a_stopped_one(self, engine: Engine, facet: Snapshots, one: str) -> None:
        down(engine, one)
        assert facet.create(one, snapshot("off"), SILENT).consistency is Consistency.STOPPED
        facet.restore(one, "off", SILENT)
        assert state(engine, one) is State.STOPPED

    def test_the_list_tells_all_the_oldest_first(self, engine: Engine, facet: Snapshots, one: str) -> None:
        down(engine, one)
        later = datetime.now(UTC).replace(microsecond=0) + timedelta(days=1)
        facet.create(one, snapshot("b", expires=later, schedule="hourly", comment="quotes '\"\\ <&> ü"), SILENT)
        facet.create(one, snapshot("a"), SILENT)
        first, second = facet.list(one)
        assert (first.name, second.name) == ("b", "a")
        assert (first.expires, first.schedule, first.comment) == (later, "hourly", "quotes '\"\\ <&> ü")
        assert (second.expires, second.schedule, second.comment, second.memory) == (None, "", "", False)

    def test_what_is_there_or_not(self, engine: Engine, facet: Snapshots, one: str) -> None:
        down(engine, one)
        facet.create(one, snapshot("one"), SILENT)
        with pytest.raises(Conflict) as exists:
            facet.create(one, snapshot("one"), SILENT)
        assert exists.value.code == "snapshot_exists"
        with pytest.raises(NotFound) as missing:
            facet.restore(one, "two", SILENT)
        assert missing.value.code == "snapshot_not_found"
        facet.delete(one, "two", SILENT)
        for call in (lambda: facet.list("tdoc-nobody"), lambda: facet.create("tdoc-nobody", snapshot("x"), SILENT)):
            with pytest.raises(NotFound) as nobody:
                call()
            assert nobody.value.code == "instance_not_found"

    @pytest.mark.parametrize("bad", ["a\nb", "../x", "a/b", "", "A B"])
    def test_bad_names_reach_nothing(self, engine: Engine, facet: Snapshots, one: str, bad: str) -> None:
        with pytest.raises(Invalid):
            facet.create(one, snapshot(bad), SILENT)
        assert facet.list(one) == [] or list(facet.list(one)) == []

    def test_the_middle_one_goes_and_the_others_stay(
        self, adapter: Adapter, engine: Engine, facet: Snapshots, one: str
    ) -> None:
        up(adapter, engine, one)
        for name in ("one", "two", "three"):
            run(engine, one, f"echo {name} > /root-what; sync")
            facet.create(one, snapshot(name), SILENT)
        down(engine, one)
        facet.delete(one, "two", SILENT)
        assert [left.name for left in facet.list(one)] == ["one", "three"]
        for name in ("one", "three"):
            facet.restore(one, name, SILENT)
            if is_real(engine):
                up(adapter, engine, one)
                assert run(engine, one, "cat /root-what") == f"{name}\n"
                down(engine, one)

    def test_they_go_along_with_a_new_name_and_with_the_instance(
        self, adapter: Adapter, engine: Engine, facet: Snapshots, created: str
    ) -> None:
        if engine.renaming is None:
            pytest.skip("no renaming")
        facet.create(created, snapshot("one"), SILENT)
        new = f"{created}-new"
        engine.renaming.rename(created, new)
        try:
            assert [left.name for left in facet.list(new)] == ["one"]
            facet.restore(new, "one", SILENT)
            engine.delete(new)
            engine.create(adapter.plan(engine, new), SILENT)
            assert list(facet.list(new)) == []
        finally:
            engine.delete(new)


class TestCloning:
    @pytest.fixture
    def cloning(self, engine: Engine) -> Cloning:
        if engine.cloning is None:
            pytest.skip(f"{engine.name} has no cloning: {engine.probe().missing.get('cloning')}")
        return engine.cloning

    @staticmethod
    def plan(name: str, new: str, snapshot: str | None = None) -> ClonePlan:
        return ClonePlan(name=name, new=new, created=NOW, machine_id="0123456789abcdef" * 2, snapshot=snapshot)

    def test_a_copy_is_stopped_managed_and_its_own(
        self, adapter: Adapter, engine: Engine, cloning: Cloning, created: str
    ) -> None:
        new = f"{created}-copy"
        try:
            cloning.clone(self.plan(created, new), SILENT)
            rows = {row.name: row for row in engine.list()}
            assert rows[new].state is State.STOPPED
            assert rows[new].origin is Origin.MANAGED
            assert rows[new].image == rows[created].image
            assert rows[new].created == NOW
            engine.delete(created)
            up(adapter, engine, new)
            if is_real(engine):
                assert run(engine, new, "cat /proc/sys/kernel/hostname") == f"{new}\n"
        finally:
            engine.delete(new)

    def test_a_name_that_is_taken(self, engine: Engine, cloning: Cloning, created: str, shared: str) -> None:
        with pytest.raises(Conflict) as caught:
            cloning.clone(self.plan(created, shared), SILENT)
        assert caught.value.code == "instance_exists"
        assert shared in [row.name for row in engine.list()]

    def test_of_what_is_not_there(self, cloning: Cloning, created: str) -> None:
        with pytest.raises(NotFound):
            cloning.clone(self.plan("tdoc-nobody", f"{created}-copy"), SILENT)
        with pytest.raises(NotFound) as caught:
            cloning.clone(self.plan(created, f"{created}-copy", "none"), SILENT)
        assert caught.value.code == "snapshot_not_found"
