"""What happens between a check and the work, after a failure, and where names are not what the store says."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import pytest

from tests.api.house import House
from tests.patience import PATIENCE
from triune.domain.errors import Conflict, Failed, NotFound
from triune.engines.base import LaunchPlan
from triune.store import Put


def result(house: House, operation: Mapping[str, Any]) -> Any:
    return house.client.operations.result(operation["id"], timeout=PATIENCE)


def test_undoing_a_launch_leaves_what_another_tool_made_meanwhile(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = house.engine("lxc")
    create = engine.create

    def late(plan: LaunchPlan, progress: Any) -> None:
        engine.adopt("web")
        create(plan, progress)

    monkeypatch.setattr(engine, "create", late)
    with pytest.raises(Conflict) as caught:
        result(house, house.client.instances.launch(name="web", image="debian/12", engine="lxc"))
    assert caught.value.code == "instance_exists"
    assert house.client.instances.get("web")["origin"] == "adopted"
    assert house.triune.networks.members("triune0") == []


def test_undoing_a_launch_that_did_not_come_to_create_leaves_it_too(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = house.engine("lxc")

    def late(plan: LaunchPlan) -> None:
        engine.adopt("web")
        raise Failed("test", "refused after the intent was written")

    monkeypatch.setattr(engine, "check", late)
    with pytest.raises(Failed):
        result(house, house.client.instances.launch(name="web", image="debian/12", engine="lxc"))
    assert house.client.instances.get("web")["origin"] == "adopted"


def test_an_adopted_one_whose_removal_was_cut_off_is_removed(house: House) -> None:
    house.engine("lxc").adopt("web")
    handler = house.triune.operations.handlers["instance"]
    handler({"engine": "lxc", "name": "web"})
    assert house.client.instances.get("web")["origin"] == "adopted"
    handler({"engine": "lxc", "name": "web", "adopted": True})
    with pytest.raises(NotFound):
        house.client.instances.get("web")


def test_leftovers_on_one_engine_do_not_cost_another_engine_s_instance_its_address(house: House) -> None:
    house.launch("web", engine="kvm")
    house.triune.operations.handlers["instance"]({"engine": "lxc", "name": "web"})
    assert house.triune.networks.members("triune0") == ["web"]
    assert house.triune.instances.intent("web") is not None


def test_what_was_started_meanwhile_is_not_removed(house: House) -> None:
    house.launch("web")
    result(house, house.client.instances.stop("web", force=True, timeout=0))
    locks, gate = house.triune.operations.locks, threading.Event()
    submit = house.triune.operations.submit

    def slow(kind: str, *rest: Any, **options: Any) -> Any:
        if kind == "delete" and not gate.is_set():
            gate.set()
            result(house, house.client.instances.start("web"))
        return submit(kind, *rest, **options)

    house.triune.operations.submit = slow  # type: ignore[method-assign]
    try:
        with pytest.raises(Conflict) as caught:
            result(house, house.client.instances.remove("web"))
    finally:
        del house.triune.operations.submit  # type: ignore[method-assign]
    assert caught.value.code == "instance_running"
    assert house.client.instances.get("web")["state"] == "running"
    assert locks.holder("instances/web") is None


def test_an_intent_without_its_instance_hides_nobody(house: House) -> None:
    house.launch("web", engine="kvm")
    house.engine("kvm")._instances.clear()
    house.engine("docker").adopt("web")
    assert house.client.instances.get("web")["engine"] == "docker"


def test_a_name_that_two_engines_have_is_ambiguous(house: House) -> None:
    house.engine("kvm").adopt("web")
    house.engine("docker").adopt("web")
    assert len(house.client.instances.list()[0]) == 2
    with pytest.raises(Conflict) as caught:
        house.client.instances.remove("web", adopted=True)
    assert caught.value.code == "name_ambiguous"
    assert "docker" in caught.value.message
    assert caught.value.hint


def test_of_two_instances_with_one_name_the_managed_one_is_meant(house: House) -> None:
    house.launch("web", engine="lxc")
    house.engine("docker").adopt("web")
    assert house.client.instances.get("web")["engine"] == "lxc"


def test_nothing_is_given_back_where_none_of_ours_is_there(house: House) -> None:
    house.launch("a")
    house.launch("b")
    engine = house.engine("lxc")
    away = dict(engine._instances)
    engine._instances.clear()
    house.triune.instances.forget_vanished()
    assert set(house.triune.networks.members("triune0")) == {"a", "b"}
    engine._instances.update({"a": away["a"]})
    house.triune.instances.forget_vanished()
    assert house.triune.networks.members("triune0") == ["a"]


def test_a_restart_that_a_crash_cut_off_is_finished(house: House) -> None:
    house.launch("web")
    result(house, house.client.instances.restart("web", timeout=0, force=True))
    result(house, house.client.instances.stop("web", timeout=0, force=True))
    newest = house.triune.store.scan("operations/", reverse=True, limit=2)[1]
    assert newest.value["kind"] == "restart"
    journal = [{"kind": "start", "redo": True, "data": {"engine": "lxc", "name": "web"}}]
    house.triune.store.commit([Put(newest.key, {**newest.value, "state": "running", "journal": journal})])
    assert [operation.kind for operation in house.triune.operations.recover()] == ["restart"]
    assert house.client.instances.get("web")["state"] == "running"


def test_a_rename_whose_records_could_not_be_written_is_finished(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    house.launch("web")
    result(house, house.client.instances.stop("web", force=True, timeout=0))
    rename, calls = house.triune.networks.rename, []

    def once(old: str, new: str) -> None:
        calls.append(new)
        if len(calls) == 1:
            raise Failed("store_failed", "the disk is full")
        rename(old, new)

    monkeypatch.setattr(house.triune.networks, "rename", once)
    with pytest.raises(Failed):
        result(house, house.client.instances.rename("web", "site"))
    assert house.client.instances.get("site")["name"] == "site"
    assert house.triune.networks.members("triune0") == ["site"]
    assert list(house.triune.instances.intents()) == ["site"]
