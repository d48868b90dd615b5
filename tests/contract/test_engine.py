"""The promises of `engines/base.py`, asked of every engine: the required methods."""

from __future__ import annotations

import time

import pytest

from tests.contract.adapters import Adapter
from tests.patience import Awake, threads, until
from triune.domain.errors import Conflict, Failed, Invalid, NotFound, TriuneError, Unreachable
from triune.domain.instance import Instance, Origin, State
from triune.domain.operation import Silent
from triune.engines.base import Command, Engine, EngineEvent

ABSENT = "tdoc-absent"


def row(engine: Engine, name: str) -> Instance:
    return next(one for one in engine.list() if one.name == name)


class TestProbe:
    def test_is_available_and_explains_every_missing_facet(self, engine: Engine) -> None:
        probe = engine.probe()
        assert probe.available
        assert probe.version
        for facet in ("commands", "pausing", "renaming", "logs", "console", "bridging", "oci", "ports"):
            if getattr(engine, facet) is None and facet not in ("bridging", "oci", "ports"):
                assert probe.missing[facet], facet


class TestCreateAndDelete:
    def test_makes_it_stopped_and_managed(self, adapter: Adapter, engine: Engine, created: str) -> None:
        found = row(engine, created)
        assert found.state is State.STOPPED
        assert found.origin is Origin.MANAGED
        assert found.engine == adapter.name
        assert found.image == "tdoc/1"
        assert found.addresses == ()

    def test_remembers_when_it_was_made(self, adapter: Adapter, engine: Engine, name: str) -> None:
        plan = adapter.plan(engine, name)
        engine.create(plan, Silent())
        assert row(engine, name).created == plan.created

    def test_limits_are_told(self, adapter: Adapter, engine: Engine, name: str) -> None:
        engine.create(adapter.plan(engine, name, cpus=1.0, memory=256 << 20), Silent())
        assert row(engine, name).cpus == 1.0
        assert row(engine, name).memory_bytes == 256 << 20
        assert engine.get(name).instance.memory_bytes == 256 << 20

    def test_a_taken_name_is_a_conflict_and_keeps_the_first(
        self, adapter: Adapter, engine: Engine, created: str
    ) -> None:
        with pytest.raises(Conflict) as caught:
            engine.create(adapter.plan(engine, created), Silent())
        assert caught.value.code == "instance_exists"
        assert row(engine, created).state is State.STOPPED

    def test_one_is_told_as_in_the_list(self, engine: Engine, created: str) -> None:
        assert engine.row(created) == row(engine, created)
        for other in (ABSENT, created[:-1], created[:-1] + ".", created.upper(), ".*"):
            with pytest.raises(NotFound):
                engine.row(other)

    def test_delete_is_idempotent(self, engine: Engine, created: str) -> None:
        engine.delete(created)
        engine.delete(created)
        engine.delete(ABSENT)
        assert created not in {one.name for one in engine.list()}

    def test_delete_kills_a_running_one(self, engine: Engine, created: str) -> None:
        engine.start(created, Silent())
        engine.delete(created)
        assert created not in {one.name for one in engine.list()}

    def test_can_be_made_again_after_delete(self, adapter: Adapter, engine: Engine, created: str) -> None:
        engine.delete(created)
        engine.create(adapter.plan(engine, created), Silent())
        assert row(engine, created).state is State.STOPPED

    def test_delete_removes_a_half_made_one(self, adapter: Adapter, engine: Engine, name: str) -> None:
        """After a crash at each step: delete succeeds, nothing is listed, and the name is free again."""
        step = 0
        while adapter.leave_half_made(engine, name, step):
            engine.delete(name)
            assert name not in {one.name for one in engine.list()}
            engine.create(adapter.plan(engine, name), Silent())
            assert row(engine, name).state is State.STOPPED
            engine.delete(name)
            step += 1
        assert step > 0

    def test_failing_between_its_steps_leaves_nothing(self, adapter: Adapter, engine: Engine, name: str) -> None:
        steps: list[str] = []

        class Counting(Silent):
            def step(self, name: str, text: str) -> None:
                del text
                steps.append(name)

        engine.create(adapter.plan(engine, name), Counting())
        engine.delete(name)
        assert steps
        assert all(step.startswith(f"{adapter.name}-") for step in steps)

        class Failing(Silent):
            def __init__(self, at: int) -> None:
                self.left = at

            def step(self, name: str, text: str) -> None:
                del text
                if self.left == 0:
                    raise Failed("test", name)
                self.left -= 1

        for at in range(len(steps)):
            with pytest.raises(Failed, match=steps[at]):
                engine.create(adapter.plan(engine, name), Failing(at))
            assert name not in {one.name for one in engine.list()}
        engine.create(adapter.plan(engine, name), Silent())


class TestNames:
    @pytest.mark.parametrize("bad", ["tdoc\nx", "tdoc-\x00", "Tdoc", "-tdoc", "tdoc/../x", "", "a" * 64])
    def test_create_refuses_bad_ones(self, adapter: Adapter, engine: Engine, bad: str) -> None:
        plan = adapter.plan(engine, bad)
        with pytest.raises(Invalid):
            engine.check(plan)
        with pytest.raises(Invalid):
            engine.create(plan, Silent())

    @pytest.mark.parametrize("bad", ["tdoc\nx", "tdoc/../x"])
    def test_others_refuse_or_find_nothing(self, engine: Engine, bad: str) -> None:
        for call in (engine.get, lambda name: engine.start(name, Silent())):
            with pytest.raises((Invalid, NotFound)):
                call(bad)

    def test_line_breaks_in_values_are_refused(self, adapter: Adapter, engine: Engine, name: str) -> None:
        changes = ({"env": {"A": "x\ny"}}, {"env": {"A\nB": "x"}})
        for change in changes:
            with pytest.raises(TriuneError) as caught:
                engine.create(adapter.plan(engine, name, **change), Silent())
            assert caught.value.code in ("control_character", "bad_variable")
        assert name not in {one.name for one in engine.list()}

    def test_an_unknown_setting_is_refused(self, adapter: Adapter, engine: Engine, name: str) -> None:
        with pytest.raises(Invalid) as caught:
            engine.check(adapter.plan(engine, name, settings={"no-such-thing": "1"}))
        assert caught.value.code == "unknown_setting"
        assert caught.value.hint


class TestMissing:
    def test_everything_says_not_found(self, engine: Engine) -> None:
        silent = Silent()
        calls = [
            lambda: engine.get(ABSENT),
            lambda: engine.start(ABSENT, silent),
            lambda: engine.stop(ABSENT, timeout=1, force=True, progress=silent),
            lambda: engine.wait_ready(ABSENT, 1, silent),
        ]
        if engine.pausing:
            calls += [lambda: engine.pausing.pause(ABSENT), lambda: engine.pausing.resume(ABSENT)]
        if engine.renaming:
            calls += [lambda: engine.renaming.rename(ABSENT, "tdoc-other")]
        if engine.commands:
            calls += [lambda: engine.commands.open(ABSENT, Command(argv=("true",)))]
        if engine.logs:
            calls += [lambda: list(engine.logs.read(ABSENT, tail=1, follow=False, stop=lambda: True))]
        for call in calls:
            with pytest.raises(NotFound) as caught:
                call()
            assert caught.value.code == "instance_not_found"
            assert caught.value.hint


class TestStartAndStop:
    def test_start_twice_and_stop_twice(self, adapter: Adapter, engine: Engine, created: str) -> None:
        engine.start(created, Silent())
        engine.start(created, Silent())
        assert row(engine, created).state is State.RUNNING
        engine.wait_ready(created, adapter.patience, Silent())
        engine.stop(created, timeout=adapter.patience, force=False, progress=Silent())
        assert row(engine, created).state is State.STOPPED
        engine.stop(created, timeout=1, force=False, progress=Silent())
        engine.start(created, Silent())
        assert row(engine, created).state is State.RUNNING

    def test_timeout_nought_with_force_kills_at_once(self, engine: Engine, created: str) -> None:
        engine.start(created, Silent())
        with Awake() as awake:
            engine.stop(created, timeout=0, force=True, progress=Silent())
        assert awake.seconds < 10
        assert row(engine, created).state is State.STOPPED

    def test_a_stubborn_guest_keeps_running_unless_forced(self, adapter: Adapter, engine: Engine, name: str) -> None:
        if adapter.stubborn_command is None and adapter.stubborn_settings is None:
            pytest.skip("by design: shown with a real guest in tests/live")
        changes = {"command": adapter.stubborn_command or (), "settings": adapter.stubborn_settings or {}}
        engine.create(adapter.plan(engine, name, **changes), Silent())
        engine.start(name, Silent())
        with pytest.raises(Failed) as caught:
            engine.stop(name, timeout=1, force=False, progress=Silent())
        assert caught.value.code == "stop_timeout"
        assert caught.value.hint
        assert row(engine, name).state is State.RUNNING
        engine.stop(name, timeout=0.5, force=True, progress=Silent())
        assert row(engine, name).state is State.STOPPED

    def test_waiting_for_a_stopped_one_fails_at_once(self, engine: Engine, created: str) -> None:
        with Awake() as awake, pytest.raises(Failed) as caught:
            engine.wait_ready(created, 30, Silent())
        assert caught.value.code == "not_ready"
        assert awake.seconds < 5


class TestDetail:
    def test_of_a_running_one(self, engine: Engine, running: str) -> None:
        detail = engine.get(running)
        assert detail.instance.state is State.RUNNING
        assert detail.uptime_s is not None
        assert 0 <= detail.uptime_s < 3600
        assert detail.memory_used_bytes is not None
        assert detail.memory_used_bytes > 0
        assert detail.isolation["kernel"] in ("own", "shared")
        assert detail.isolation["boundary"]
        assert isinstance(detail.isolation["privileged"], bool)

    def test_of_a_stopped_one(self, engine: Engine, created: str) -> None:
        detail = engine.get(created)
        assert detail.instance.state is State.STOPPED
        assert detail.uptime_s is None
        assert detail.memory_used_bytes is None


class TestStats:
    def test_running_ones_have_plausible_counters(self, engine: Engine, running: str) -> None:
        stats = engine.stats()[running]
        assert 0 <= stats.cpu_time_s < 600
        assert 0 < stats.memory_bytes < 8 << 30
        # What a VM costs the host may pass its memory by what QEMU itself needs.
        assert stats.memory_limit_bytes is None or stats.memory_limit_bytes > stats.memory_bytes / 4
        assert stats.disk_read_bytes >= 0
        assert stats.net_rx_bytes >= 0

    def test_stopped_ones_have_none(self, engine: Engine, created: str) -> None:
        assert created not in engine.stats()


class TestWatch:
    def test_tells_the_life_of_an_instance(self, adapter: Adapter, engine: Engine, name: str) -> None:
        events: list[EngineEvent] = []

        def heard(name: str) -> bool:
            deadline = time.monotonic() + 1
            while time.monotonic() < deadline and not any(event.name == name for event in events):
                time.sleep(0.05)
            return any(event.name == name for event in events)

        watch = engine.watch(events.append)
        try:
            engine.create(adapter.plan(engine, name), Silent())
            while not heard(name):  # it listens a moment after it was begun
                engine.delete(name)
                engine.create(adapter.plan(engine, name), Silent())
            engine.start(name, Silent())
            engine.stop(name, timeout=0, force=True, progress=Silent())
            engine.delete(name)
            expected = {"created", "started", "stopped", "deleted"}
            until(lambda: expected <= {event.action for event in events if event.name == name})
            assert {event.engine for event in events} == {adapter.name}
        finally:
            watch.close()
        count = len(events)
        engine.create(adapter.plan(engine, name), Silent())
        time.sleep(0.2)
        assert len(events) == count

    def test_close_frees_its_thread(self, engine: Engine) -> None:
        before = threads()
        for _ in range(3):
            watch = engine.watch(lambda _: None)
            time.sleep(0.05)
            watch.close()
        until(lambda: threads() <= before)


class TestUnreachable:
    def test_every_call_says_so_within_two_seconds(self, adapter: Adapter) -> None:
        engine = adapter.unreachable()
        if engine is None:
            pytest.skip("by design: this engine has no daemon")
        assert not engine.probe().available
        assert engine.probe().reason
        for call in (engine.list, engine.stats, lambda: engine.get("x"), lambda: engine.start("x", Silent())):
            with Awake() as awake, pytest.raises(Unreachable) as caught:
                call()
            assert awake.seconds < 2
            assert caught.value.code == "engine_unreachable"
            assert caught.value.hint
