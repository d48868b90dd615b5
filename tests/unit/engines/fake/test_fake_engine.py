"""What the fake engine has beyond the contract: other names, faults, latency, persistence."""

from __future__ import annotations

import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from triune.domain.errors import Conflict, Failed, Unreachable, Unsupported
from triune.domain.image import DiskForm, Form, FormKind, OciForm, TreeForm
from triune.domain.instance import InstanceSpec, Origin, State
from triune.domain.network import Network, Nic, parse_publish
from triune.domain.operation import Silent
from triune.engines.base import Command, EngineEvent, LaunchPlan, Terminal
from triune.engines.fake import session
from triune.engines.fake.engine import FakeEngine

FORMS: dict[str, Form] = {
    "kvm": DiskForm(path=Path("/x")),
    "lxc": TreeForm(path=Path("/x")),
    "docker": OciForm(id="sha256:0", reference="x"),
    "fake": OciForm(id="sha256:0", reference="x"),
}
NETWORK = Network(name="n", bridge="n0", subnet="10.0.0.0/24", gateway="10.0.0.1", domain="d")
NIC = Nic(network=NETWORK, mac="02:00:00:00:00:01", address="10.0.0.7")


def plan(engine: FakeEngine, name: str = "web", **changes: object) -> LaunchPlan:
    return LaunchPlan(
        spec=InstanceSpec(name=name, image="i/1", engine=engine.name, **changes),  # type: ignore[arg-type]
        form=FORMS[engine.name],
        image="i/1",
        created=datetime(2030, 1, 1, tzinfo=UTC),
        nics=(NIC,),
    )


@pytest.mark.parametrize(
    ("name", "kind", "accelerated"),
    [("kvm", FormKind.DISK, False), ("lxc", FormKind.TREE, None), ("docker", FormKind.OCI, None)],
)
def test_carries_any_engines_name(name: str, kind: FormKind, accelerated: bool | None) -> None:
    engine = FakeEngine(name)
    engine.create(plan(engine), Silent())
    engine.start("web", Silent())
    (row,) = engine.list()
    assert engine.form_kind is kind
    assert (row.engine, row.accelerated, row.addresses) == (name, accelerated, ("10.0.0.7",))
    assert (engine.oci is not None) == (name == "docker")
    with pytest.raises(Unsupported):
        engine.check(LaunchPlan(spec=plan(engine).spec, form=_other(kind), image="i/1", created=datetime.now(UTC)))


def _other(kind: FormKind) -> Form:
    return FORMS["lxc"] if kind is FormKind.DISK else FORMS["kvm"]


def test_keeps_instances_over_restarts(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "fake.json"
    engine = FakeEngine(path=path)
    engine.create(plan(engine, settings={"log": "a|b"}, memory=5), Silent())
    engine.start("web", Silent())
    engine.adopt("theirs")
    again = FakeEngine(path=path)
    rows = {row.name: row for row in again.list()}
    assert rows["web"].state is State.RUNNING
    assert rows["web"].memory_bytes == 5
    assert rows["web"].created == datetime(2030, 1, 1, tzinfo=UTC)
    assert rows["theirs"].origin is Origin.ADOPTED
    assert list(again.logs.read("web", tail=None, follow=False, stop=lambda: False)) == [b"a\n", b"b\n"]  # type: ignore[union-attr]
    again.delete("web")
    assert [row.name for row in FakeEngine(path=path).list()] == ["theirs"]


@pytest.mark.parametrize("step", ["fake-disk", "fake-create"])
def test_a_failing_creation_leaves_nothing(step: str) -> None:
    engine = FakeEngine(failures={step: Failed("no_space", "the disk is full")})
    with pytest.raises(Failed, match="full"):
        engine.create(plan(engine), Silent())
    assert engine.list() == []
    engine.failures.clear()
    engine.create(plan(engine), Silent())


@pytest.mark.parametrize(("step", "state"), [("fake-start", State.STOPPED), ("fake-stop", State.RUNNING)])
def test_other_failures_change_nothing(step: str, state: State) -> None:
    engine = FakeEngine()
    engine.create(plan(engine), Silent())
    if state is State.RUNNING:
        engine.start("web", Silent())
    engine.failures[step] = Failed("x", "no")
    with pytest.raises(Failed, match="no"):
        engine.start("web", Silent()) if state is State.STOPPED else engine.stop(
            "web", timeout=0, force=True, progress=Silent()
        )
    assert engine.list()[0].state is state


def test_outages_are_told_and_end() -> None:
    engine = FakeEngine()
    events: list[EngineEvent] = []
    watch = engine.watch(events.append)
    engine.go_down()
    with pytest.raises(Unreachable):
        engine.list()
    assert not engine.probe().available
    engine.come_up()
    assert engine.list() == []
    watch.close()
    watch.close()
    engine.go_down()
    assert [event.action for event in events] == ["engine-down", "engine-up"]


def test_a_terminal_closed_at_once_leaves_no_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before setsid(1) has made its group, there is none to signal."""
    process = subprocess.Popen(["sleep", "60"])
    monkeypatch.setattr(session, "_popen", lambda *_: process)
    session.open_session(Command(argv=("sh",), terminal=Terminal())).close()
    try:
        assert process.poll() is not None
    finally:
        process.kill()


def test_missing_facets_have_their_reason() -> None:
    engine = FakeEngine(missing={"pausing": "this host has no freezer"})
    assert engine.pausing is None
    assert engine.probe().missing["pausing"] == "this host has no freezer"


def test_latency() -> None:
    begin = time.monotonic()
    FakeEngine(latency=0.1).list()
    assert time.monotonic() - begin >= 0.1


def test_guests_that_misbehave() -> None:
    engine = FakeEngine()
    engine.create(plan(engine, settings={"ready": "never"}), Silent())
    engine.start("web", Silent())
    with pytest.raises(Failed) as caught:
        engine.wait_ready("web", 0.1, Silent())
    assert caught.value.code == "not_ready"
    engine.create(plan(engine, "dead", settings={"start": "fails"}), Silent())
    with pytest.raises(Failed) as caught:
        engine.start("dead", Silent())
    assert caught.value.code == "start_failed"


def test_two_cannot_publish_one_port() -> None:
    engine = FakeEngine("docker")
    for name in ("one", "two"):
        engine.create(plan(engine, name, publish=(parse_publish("8080:80"),)), Silent())
    engine.start("one", Silent())
    assert engine.ports is not None
    assert engine.ports.published() == {"one": ["8080:80"]}
    with pytest.raises(Conflict) as caught:
        engine.start("two", Silent())
    assert caught.value.code == "port_taken"
