"""The promises of `engines/base.py`, asked of every engine: the facets it has."""

from __future__ import annotations

import io
import os
import tarfile
import threading
import time
from collections.abc import Callable

import pytest

from tests.contract.adapters import Adapter
from tests.contract.conftest import Ended
from tests.patience import PATIENCE, until
from triune.domain.errors import Conflict, Failed, Invalid, NotFound
from triune.domain.instance import State
from triune.domain.operation import Silent
from triune.engines.base import Command, Engine, Terminal

Run = Callable[..., Ended]


def state(engine: Engine, name: str) -> State:
    return next(one.state for one in engine.list() if one.name == name)


class TestCommands:
    @pytest.mark.parametrize("code", [0, 1, 7, 125, 255])
    def test_exit_codes_pass(self, run: Run, code: int) -> None:
        assert run("sh", "-c", f"exit {code}").code == code

    def test_a_signal_is_128_and_its_number(self, run: Run) -> None:
        assert run("sh", "-c", "kill -9 $$").code == 137
        assert run("sh", "-c", "kill -15 $$").code == 143

    def test_what_is_not_there_is_127(self, run: Run) -> None:
        assert run("no-such-program").code == 127
        assert run("/no/such/program").code == 127

    def test_what_cannot_be_run_is_126(self, run: Run) -> None:
        assert run("/etc/passwd").code == 126

    def test_stdout_and_stderr_stay_apart(self, run: Run) -> None:
        ended = run("sh", "-c", "echo out; echo err >&2")
        assert (ended.out, ended.err) == (b"out\n", b"err\n")

    def test_ten_megabytes_of_binary_pass_unchanged(self, run: Run) -> None:
        data = os.urandom(10 << 20)
        ended = run("cat", stdin=data)
        assert ended.code == 0
        assert ended.out == data

    def test_every_byte_value_passes(self, run: Run) -> None:
        data = bytes(range(256)) * 3
        assert run("cat", stdin=data).out == data

    def test_a_command_that_does_not_read_ends(self, run: Run) -> None:
        assert run("true", stdin=b"x" * (1 << 20)).code == 0

    def test_much_output_without_input(self, run: Run) -> None:
        assert len(run("sh", "-c", "head -c 3000000 /dev/zero").out) == 3_000_000

    def test_environment_and_folder(self, run: Run) -> None:
        ended = run("sh", "-c", 'echo "$A|$B"; pwd', env={"A": "x y", "B": "$HOME 'q'"}, cwd="/tmp")
        assert ended.out == b"x y|$HOME 'q'\n/tmp\n"

    def test_an_empty_command_is_a_shell(self, run: Run) -> None:
        assert run(stdin=b"echo from the shell; exit 3\n").code == 3

    def test_a_terminal_has_its_size_and_one_stream(self, run: Run) -> None:
        terminal = Terminal(term="vt100", columns=101, rows=33)
        script = "sleep 0.5; stty size; echo $TERM; echo err >&2"
        ended = run("sh", "-c", script, terminal=terminal, close=False)
        assert ended.out.split() == [b"33", b"101", b"vt100", b"err"]
        assert ended.err == b""

    def test_a_terminal_can_be_resized(self, engine: Engine, running: str) -> None:
        assert engine.commands is not None
        script = "echo ready; read x; stty size"
        session = engine.commands.open(running, Command(argv=("sh", "-c", script), terminal=Terminal()))
        output = b""
        while (part := session.read()) is not None:
            if b"ready" not in output and b"ready" in output + part[1]:
                session.resize(132, 43)
                session.write(b"go\n")
            output += part[1]
        assert b"43 132" in output
        assert session.wait() == 0

    def test_closing_ends_the_command_inside(self, engine: Engine, running: str, run: Run) -> None:
        assert engine.commands is not None
        session = engine.commands.open(running, Command(argv=("sleep", "98765")))
        ended: list[object] = []
        reader = threading.Thread(target=lambda: ended.append(session.read()), daemon=True)
        reader.start()
        time.sleep(0.3)
        session.close()
        reader.join(PATIENCE)
        assert ended == [None]
        assert session.wait() > 128
        listing = run("sh", "-c", "for f in /proc/[0-9]*/cmdline; do cat $f 2>/dev/null; echo; done")
        assert b"sleep\x0098765" not in listing.out

    def test_needs_a_running_instance(self, engine: Engine, created: str) -> None:
        assert engine.commands is not None
        with pytest.raises(Conflict) as caught:
            engine.commands.open(created, Command(argv=("true",)))
        assert caught.value.code == "instance_not_running"
        assert caught.value.hint

    def test_many_at_once(self, run: Run) -> None:
        codes: list[int] = []
        threads = [
            threading.Thread(
                target=lambda code=code: codes.append(run("sh", "-c", f"cat >/dev/null; exit {code}").code)
            )
            for code in range(6)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(240)  # emulated guests share the host's cores with other tests
        assert sorted(codes) == list(range(6))


class TestPausing:
    def test_pause_and_resume(self, engine: Engine, created: str) -> None:
        if engine.pausing is None:
            pytest.skip("no pausing facet")
        with pytest.raises(Conflict) as caught:
            engine.pausing.pause(created)
        assert caught.value.code == "instance_not_running"
        engine.start(created, Silent())
        engine.pausing.pause(created)
        assert state(engine, created) is State.PAUSED
        engine.pausing.resume(created)
        assert state(engine, created) is State.RUNNING

    def test_a_paused_one_can_be_stopped_and_deleted(self, engine: Engine, created: str) -> None:
        if engine.pausing is None:
            pytest.skip("no pausing facet")
        engine.start(created, Silent())
        engine.pausing.pause(created)
        engine.stop(created, timeout=0, force=True, progress=Silent())
        assert state(engine, created) is State.STOPPED
        engine.start(created, Silent())
        engine.pausing.pause(created)
        engine.delete(created)
        assert created not in {one.name for one in engine.list()}


class TestRenaming:
    def test_keeps_everything_else(self, engine: Engine, created: str) -> None:
        if engine.renaming is None:
            pytest.skip("no renaming facet")
        new = f"{created}-new"
        before = next(one for one in engine.list() if one.name == created)
        try:
            engine.renaming.rename(created, new)
            rows = {one.name: one for one in engine.list()}
            assert created not in rows
            assert (rows[new].image, rows[new].created, rows[new].origin) == (
                before.image,
                before.created,
                before.origin,
            )
            engine.start(new, Silent())
            assert state(engine, new) is State.RUNNING
        finally:
            engine.delete(new)

    def test_refuses_taken_and_bad_names(self, engine: Engine, created: str, running: str) -> None:
        if engine.renaming is None:
            pytest.skip("no renaming facet")
        with pytest.raises(Conflict) as caught:
            engine.renaming.rename(created, running)
        assert caught.value.code == "instance_exists"
        for bad in ("Bad", "a\nb", ""):
            with pytest.raises(Invalid):
                engine.renaming.rename(created, bad)
        assert state(engine, created) is State.STOPPED

    def test_a_running_one_when_live(self, engine: Engine, created: str) -> None:
        if engine.renaming is None or not engine.renaming.live:
            pytest.skip("by design: renames only what is stopped")
        new = f"{created}-live"
        engine.start(created, Silent())
        try:
            engine.renaming.rename(created, new)
            assert state(engine, new) is State.RUNNING
        finally:
            engine.delete(new)


class TestLogs:
    @pytest.fixture
    def chatty(self, adapter: Adapter, engine: Engine, name: str) -> str:
        if adapter.chatty_command is None and adapter.chatty_settings is None:
            pytest.skip("by design: shown with a real guest in tests/live")
        changes = {"command": adapter.chatty_command or (), "settings": adapter.chatty_settings or {}}
        engine.create(adapter.plan(engine, name, **changes), Silent())
        engine.start(name, Silent())
        return name

    def read(self, engine: Engine, name: str, tail: int | None) -> bytes:
        assert engine.logs is not None
        return b"".join(engine.logs.read(name, tail=tail, follow=False, stop=lambda: False))

    def test_all_and_the_last_lines(self, engine: Engine, chatty: str) -> None:
        until(lambda: b"line 3" in self.read(engine, chatty, None))
        assert self.read(engine, chatty, None).splitlines() == [b"line 1", b"line 2", b"line 3"]
        assert self.read(engine, chatty, 2).splitlines() == [b"line 2", b"line 3"]
        assert self.read(engine, chatty, 0) == b""

    def test_survive_a_stop(self, engine: Engine, chatty: str) -> None:
        until(lambda: b"line 3" in self.read(engine, chatty, None))
        engine.stop(chatty, timeout=0, force=True, progress=Silent())
        assert b"line 3" in self.read(engine, chatty, None)

    def test_following_ends_when_told(self, engine: Engine, running: str) -> None:
        if engine.logs is None:
            pytest.skip("no logs facet")
        over = threading.Event()
        done = threading.Event()

        def follow() -> None:
            assert engine.logs is not None
            for _ in engine.logs.read(running, tail=5, follow=True, stop=over.is_set):
                pass
            done.set()

        threading.Thread(target=follow, daemon=True).start()
        time.sleep(0.3)
        assert not done.is_set()
        over.set()
        assert done.wait(PATIENCE)


class TestConsole:
    def test_closing_detaches_and_leaves_the_instance_alone(self, engine: Engine, running: str) -> None:
        if engine.console is None:
            pytest.skip("no console facet")
        session = engine.console.open(running, Terminal())
        ended = threading.Event()

        def drain() -> None:
            while session.read() is not None:
                pass
            ended.set()

        threading.Thread(target=drain, daemon=True).start()
        session.write(b"\r")
        session.resize(100, 30)
        time.sleep(0.3)
        session.close()
        assert ended.wait(PATIENCE)
        assert state(engine, running) is State.RUNNING

    def test_needs_a_running_instance(self, engine: Engine, created: str) -> None:
        if engine.console is None:
            pytest.skip("no console facet")
        with pytest.raises(Conflict) as caught:
            engine.console.open(created, Terminal())
        assert caught.value.code == "instance_not_running"


class TestOciStore:
    def test_load_inspect_remove(self, engine: Engine) -> None:
        if engine.oci is None:
            pytest.skip("by design: no store of OCI images")
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            archive.addfile(tarfile.TarInfo("etc/hello"))
        reference = "tdoc-store:7"
        assert engine.oci.inspect(reference) is None
        form = engine.oci.load_tree(
            iter((buffer.getvalue(),)), reference, command=("sh", "-c", 'echo "$A"'), labels={"tdoc.a": "x"}
        )
        found = engine.oci.inspect(reference)
        assert found is not None
        assert found["id"] == form.id
        assert found["command"] == ["sh", "-c", 'echo "$A"']
        engine.oci.remove(reference)
        engine.oci.remove(reference)
        assert engine.oci.inspect(reference) is None


class TestTemplates:
    def test_a_life(self, adapter: Adapter, engine: Engine, name: str) -> None:
        if engine.templates is None:
            pytest.skip("by design: nothing to be kept warm")
        templates = engine.templates
        plan = adapter.plan(engine, name, memory=256 << 20)
        templates.remove(plan.image)
        try:
            assert templates.why_not(plan) == ""
            assert not templates.ready(plan)
            with pytest.raises(Failed) as caught:
                templates.launch(plan, Silent())
            assert caught.value.code == "warm_failed"
            assert name not in {one.name for one in engine.list()}
            templates.make(plan, Silent())
            templates.make(plan, Silent())
            templates.sweep()
            assert templates.ready(plan)
            assert not templates.ready(adapter.plan(engine, name, memory=128 << 20))
            (row,) = [row for row in templates.list() if row["image"] == plan.image]
            assert row["ready"] is True
            assert int(str(row["size"])) > 0
            templates.launch(plan, Silent())
            assert state(engine, name) is State.RUNNING
            engine.wait_ready(name, 30, Silent())
            templates.remove(plan.image)
            templates.remove(plan.image)
            assert not templates.ready(plan)
            assert state(engine, name) is State.RUNNING, "what started from it needs it no more"
        finally:
            templates.remove(plan.image)


class TestAuditing:
    def test_facts_of_a_running_one(self, engine: Engine, running: str) -> None:
        if engine.auditing is None:
            pytest.skip(f"no auditing facet: {engine.probe().missing.get('auditing')}")
        found = engine.auditing.isolation(running)
        assert found.running
        assert found.boundary
        assert found.privileged is False
        assert found.own_kernel == (engine.get(running).isolation["kernel"] == "own")
        if not found.own_kernel:
            assert found.capabilities is not None
            assert "sys_module" not in found.capabilities or found.user_namespace
            assert found.filtered is True
            assert found.calls_blocked is not None
            assert "init_module" in found.calls_blocked
            assert found.proc_guarded is True
        assert found.mounts == ()
        assert found.shared_namespaces in ((), ("cgroup",))
        assert found.secrets == ()

    def test_facts_of_a_stopped_one_are_those_of_its_configuration(self, engine: Engine, created: str) -> None:
        if engine.auditing is None:
            pytest.skip("no auditing facet")
        found = engine.auditing.isolation(created)
        assert not found.running
        assert found.privileged is False
        assert (found.capabilities is None) == found.own_kernel

    def test_what_is_not_there(self, engine: Engine) -> None:
        if engine.auditing is None:
            pytest.skip("no auditing facet")
        with pytest.raises(NotFound) as caught:
            engine.auditing.isolation("tdoc-none-such")
        assert caught.value.code == "instance_not_found"

    def test_programs_have_versions(self, engine: Engine) -> None:
        if engine.auditing is None:
            pytest.skip("no auditing facet")
        found = engine.auditing.exposure()
        assert found.components
        assert all(part.version[0].isdigit() for part in found.components)
        assert all(bool(part.package) == bool(part.package_version) for part in found.components)

    def test_the_hardened_settings_are_taken(self, adapter: Adapter, engine: Engine, name: str) -> None:
        if engine.auditing is None:
            pytest.skip("no auditing facet")
        plan = adapter.plan(engine, name, settings=dict(engine.auditing.hardened))
        engine.check(plan)
        engine.create(plan, Silent())
        before, after = engine.auditing.isolation(name), engine.get(name)
        assert dict(after.settings) == dict(engine.auditing.hardened)
        assert before.displays == ()
        if not before.own_kernel:
            assert before.no_new_privileges is True
