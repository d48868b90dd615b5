from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.unit.services.snapshots.rig import START, Rig, broken

from triune.domain.errors import Conflict, Failed, Invalid, NotFound, Unsupported
from triune.domain.image import OciForm
from triune.domain.instance import InstanceSpec
from triune.domain.network import parse_publish
from triune.domain.operation import Silent
from triune.engines.base import LaunchPlan
from triune.services.instances.inventory import INTENT
from triune.services.snapshots import CloneRequest, SnapshotRequest
from triune.store import Put


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path)
    yield made
    made.close()


def launched(rig: Rig, name: str) -> None:
    """As a launch leaves it: with a card, published ports and an intent."""
    from dataclasses import asdict

    spec = InstanceSpec(
        name=name, image="tdoc/1", engine="fake", network="triune0", publish=(parse_publish("8080:80"),)
    )
    nic = rig.networks.reserve("triune0", name)
    form = OciForm(id="sha256:0", reference="tdoc/1")
    plan = LaunchPlan(spec=spec, form=form, image="tdoc/1", created=START, nics=(nic,))
    rig.engine.create(plan, Silent())
    rig.store.commit([Put(INTENT + name, {"engine": "fake", "created": START.isoformat(), "spec": asdict(spec)})])


def test_a_clone_has_its_own_card_and_none_of_the_ports(rig: Rig) -> None:
    launched(rig, "web")
    rig.start("web")
    result = rig.done(rig.cloner.clone(CloneRequest(name="web", new="copy")))
    one, two = rig.engine.find("web"), rig.engine.find("copy")
    assert (two.state, two.image, two.log) == ("stopped", one.image, one.log)
    assert two.address == result["addresses"][0] != one.address
    assert two.mac != one.mac
    assert (one.ports, two.ports) == (["8080:80"], [])
    intent = rig.instances.intent("copy")
    assert intent is not None
    assert intent["spec"]["name"] == "copy"
    assert list(intent["spec"]["publish"]) == []
    assert intent["cloned"] == "web"


def test_it_can_be_started_at_once(rig: Rig) -> None:
    launched(rig, "web")
    rig.done(rig.cloner.clone(CloneRequest(name="web", new="copy", start=True)))
    assert (rig.state("web"), rig.state("copy")) == ("stopped", "running")


def test_a_clone_of_a_snapshot_is_as_that_was(rig: Rig) -> None:
    rig.make("web")
    rig.start("web")
    rig.done(rig.snapshots.create(SnapshotRequest(instance="web", name="one")))
    rig.engine.find("web").log.append("later")
    rig.done(rig.cloner.clone(CloneRequest(name="web", new="copy", snapshot="one")))
    assert rig.log("copy") == rig.log("web")[:-1]


def test_what_was_adopted_can_be_copied(rig: Rig) -> None:
    rig.engine.adopt("native", image="other/1")
    rig.done(rig.cloner.clone(CloneRequest(name="native", new="copy")))
    intent = rig.instances.intent("copy")
    assert intent is not None
    assert (intent["spec"]["image"], intent["spec"]["network"]) == ("other/1", None)


@pytest.mark.parametrize(
    ("request_", "kind", "code"),
    [
        (CloneRequest(name="web", new="web"), Conflict, "instance_exists"),
        (CloneRequest(name="web", new="other"), Conflict, "instance_exists"),
        (CloneRequest(name="web", new="Not Valid"), Invalid, "bad_name"),
        (CloneRequest(name="web", new="a\nb"), Invalid, "bad_name"),
        (CloneRequest(name="nobody", new="copy"), NotFound, "instance_not_found"),
        (CloneRequest(name="web", new="copy", snapshot="none"), NotFound, "snapshot_not_found"),
        (CloneRequest(name="web", new="copy", snapshot="../x"), Invalid, "bad_name"),
    ],
)
def test_bad_requests(rig: Rig, request_: CloneRequest, kind: type[Exception], code: str) -> None:
    rig.make("web")
    rig.make("other")
    with pytest.raises(kind) as caught:
        rig.cloner.clone(request_)
    assert caught.value.code == code  # type: ignore[attr-defined]


def test_an_engine_that_copies_only_what_is_stopped(rig: Rig) -> None:
    assert rig.engine.cloning is not None
    rig.engine.cloning.live = False
    rig.make("web")
    rig.start("web")
    with pytest.raises(Conflict) as caught:
        rig.cloner.clone(CloneRequest(name="web", new="copy"))
    assert caught.value.code == "instance_running"
    rig.done(rig.snapshots.create(SnapshotRequest(instance="web", name="one")))
    rig.done(rig.cloner.clone(CloneRequest(name="web", new="copy", snapshot="one")))
    assert rig.state("copy") == "stopped"


def test_an_engine_that_cannot_clone_says_why(tmp_path: Path) -> None:
    rig = Rig(tmp_path, missing={"cloning": "no such tool"})
    rig.make("web")
    with pytest.raises(Unsupported, match="no such tool"):
        rig.cloner.clone(CloneRequest(name="web", new="copy"))
    rig.close()


@pytest.mark.parametrize("step", ["fake-disk", "fake-clone", "fake-start"])
def test_a_failure_leaves_nothing(rig: Rig, step: str) -> None:
    launched(rig, "web")
    rig.engine.failures[step] = broken(step)
    with pytest.raises(Failed):
        rig.done(rig.cloner.clone(CloneRequest(name="web", new="copy", start=True)))
    assert [one.name for one in rig.engine.list()] == ["web"]
    assert rig.networks.members("triune0") == ["web"]
    assert rig.instances.intent("copy") is None
