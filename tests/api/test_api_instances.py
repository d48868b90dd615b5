"""Instances over HTTP: pages, ETags, idempotency, actions, conflicts, engines that are away."""

from __future__ import annotations

import threading
import time

import pytest

from tests.api.house import House
from tests.patience import PATIENCE, Awake, until
from triune.domain.errors import Conflict, Failed, Invalid, NotFound, Stale, TriuneError, Unreachable, Unsupported
from triune.domain.operation import Silent
from triune.engines.fake.state import FakeInstance
from triune.sdk.pages import pages
from triune.sdk.transport import target


def etag(house: House, name: str) -> str:
    response = house.client.transport.open("GET", f"/v1/instances/{name}")
    response.read()
    return response.headers["etag"]


def test_a_life(house: House) -> None:
    client = house.client
    house.launch("web", cpus=1.5, memory="64MiB", env={"A": "b"}, settings={"log": "one|two"})
    (row,), problems = client.instances.list()
    assert not problems
    assert row["state"] == "running"
    assert row["memory_bytes"] == 64 << 20
    assert row["origin"] == "managed"
    detail = client.instances.get("web")
    assert detail["settings"] == {"log": "one|two"}
    assert {key: detail[key] for key in row} == row
    actions = {"pause": "paused", "resume": "running", "stop": "stopped", "start": "running", "restart": "running"}
    for action, state in actions.items():
        operation = getattr(client.instances, action)("web")
        assert operation["resource"] == "instances/web"
        assert client.operations.wait(operation["id"])["state"] == "done"
        assert client.instances.get("web")["state"] == state
    assert client.instances.get("web")["restarts"] in (0, 1)
    assert b"".join(client.instances.logs("web", tail=1)) == b"two\n"
    client.operations.result(client.instances.rename("web", "site")["id"])
    assert client.instances.stats("site")[0]["memory_bytes"] > 0
    client.operations.result(client.instances.remove("site", force=True)["id"])
    with pytest.raises(NotFound):
        client.instances.get("site")


def test_published_ports_are_shown(house: House) -> None:
    house.launch("a", "lxc", publish=["8080:80", "127.0.0.1:53:53/udp"])
    house.launch("b", "docker", publish=["8081:80"])
    assert house.client.instances.get("a")["network"][0]["published"] == ["8080:80", "127.0.0.1:53:53/udp"]
    assert house.client.instances.get("b")["network"][0]["published"] == ["8081:80"]


def test_an_app_container_on_the_hosts_own_network(house: House) -> None:
    house.launch("own", "docker", network="host")
    assert house.client.instances.get("own")["addresses"] == []
    assert "own" not in house.triune.networks.members("triune0")
    for engine, more, code in (
        ("lxc", {}, "own_network_only"),
        ("kvm", {}, "own_network_only"),
        ("docker", {"publish": ["8080:80"]}, "publish_on_host"),
        ("docker", {"limits": {"net.in": "1Mbit/s"}}, "limit_without_network"),
    ):
        with pytest.raises(TriuneError) as error:
            house.launch("refused", engine, network="host", **more)
        assert error.value.code == code


def test_a_thousand_in_pages(house: House) -> None:
    engine = house.engine("lxc")
    with engine.changing():
        for number in range(1000):
            engine._instances[f"n{number:04d}"] = FakeInstance(name=f"n{number:04d}", image="debian/12", managed=True)
    seen = []
    count = 0
    for page in pages(house.client.transport, "/v1/instances", limit=170, fields="name,state"):
        count += 1
        seen += page["items"]
    assert count == 6
    assert [row["name"] for row in seen] == [f"n{number:04d}" for number in range(1000)]
    assert set(seen[0]) == {"name", "state"}
    with Awake() as awake:
        rows, _ = house.client.instances.list()
    assert len(rows) == 1000
    assert awake.seconds < 2
    rows, _ = house.client.instances.list("name=n0003,name=n0900,engine=lxc")
    assert [row["name"] for row in rows] == ["n0003", "n0900"]
    rows, _ = house.client.instances.list("engine=kvm")
    assert not rows


def test_a_page_goes_on_though_instances_vanish(house: House) -> None:
    for name in "abcd":
        house.launch(name)
    first = house.client.transport.call("GET", target("/v1/instances", limit=2))
    house.engine("lxc").delete("b")
    house.engine("lxc").delete("c")
    rest = house.client.transport.call("GET", target("/v1/instances", limit=2, cursor=first["next"]))
    assert [row["name"] for row in rest["items"]] == ["d"]
    assert rest["next"] is None


def test_an_engine_that_is_down_is_told_and_the_others_go_on(house: House) -> None:
    house.launch("web")
    house.engine("docker").go_down()
    rows, problems = house.client.instances.list()
    assert [row["name"] for row in rows] == ["web"]
    assert problems[0]["engine"] == "docker"
    assert problems[0]["error"]["code"] == "engine_unreachable"
    with pytest.raises(Unreachable):
        house.client.instances.get("nobody-knows")
    house.engine("docker").come_up()


def test_a_name_on_an_engine_that_is_away_stays_taken(house: House) -> None:
    house.launch("web", "docker")
    house.launch("db")
    house.engine("docker").go_down()
    try:
        for attempt in (lambda: house.launch("web"), lambda: house.client.instances.rename("db", "web")):
            with pytest.raises(Conflict, match=r"already \(docker, which") as caught:
                attempt()
            assert caught.value.code == "instance_exists"
    finally:
        house.engine("docker").come_up()
    assert house.client.instances.get("web")["engine"] == "docker"


def test_what_others_removed_gives_its_name_and_address_back(house: House) -> None:
    triune, engine = house.triune, house.engine("docker")
    for name in ("told", "untold", "stays"):
        house.launch(name, "docker")
    engine.delete("told")
    until(lambda: not triune.instances.intent("told"))
    engine.go_down()
    engine._instances.pop("untold")  # removed while nobody listened
    engine.come_up()
    until(lambda: not triune.instances.intent("untold"))
    assert triune.networks.members("triune0") == ["stays"]
    assert triune.instances.intent("stays")


def test_what_is_undefined_while_it_runs_keeps_its_address_until_it_stops(house: House) -> None:
    triune, engine = house.triune, house.engine("kvm")
    house.launch("web", "kvm")
    engine._tell("deleted", "web")
    time.sleep(0.1)
    assert triune.networks.members("triune0") == ["web"]
    engine._instances.pop("web")
    engine._tell("stopped", "web")
    until(lambda: triune.networks.members("triune0") == [])


def test_what_others_renamed_keeps_its_address(house: House) -> None:
    house.launch("web", "kvm")
    before = house.client.instances.get("web")["addresses"]
    renaming = house.engine("kvm").renaming
    assert renaming is not None
    house.engine("kvm").stop("web", timeout=1, force=True, progress=Silent())
    renaming.rename("web", "site")
    until(lambda: house.triune.instances.intent("site") and not house.triune.instances.intent("web"))
    assert house.triune.networks.members("triune0") == ["site"]
    house.engine("kvm").start("site", Silent())
    assert house.client.instances.get("site")["addresses"] == before


def test_etags_follow_the_configuration_not_the_state(house: House) -> None:
    house.launch("web")
    before = etag(house, "web")
    house.client.operations.result(house.client.instances.stop("web")["id"])
    assert etag(house, "web") == before
    call = house.client.transport.call
    with pytest.raises(Stale):
        call("DELETE", "/v1/instances/web", headers={"If-Match": '"other"'})
    with pytest.raises(Stale):
        call("POST", "/v1/instances/web/start", headers={"If-Match": '"other"'})
    operation = call("PATCH", "/v1/instances/web", {"name": "site"}, headers={"If-Match": f'"x", {before}'})
    house.client.operations.result(operation["id"])
    assert etag(house, "site") != before
    with pytest.raises(Unsupported) as caught:
        call("PATCH", "/v1/instances/site", {"cpus": 2})
    assert "cpus" in caught.value.message
    with pytest.raises(Invalid):
        call("PATCH", "/v1/instances/site", {})


def test_the_same_key_is_the_same_launch(house: House) -> None:
    launch = house.client.instances.launch
    first = launch(idempotency_key="k1", name="web", image="debian/12")
    again = launch(idempotency_key="k1", name="web", image="debian/12")
    assert again["id"] == first["id"]
    with pytest.raises(Invalid) as caught:
        launch(idempotency_key="k1", name="other", image="debian/12")
    assert caught.value.code == "idempotency_key_reused"
    house.client.operations.result(first["id"])
    with pytest.raises(Conflict) as taken:
        launch(idempotency_key="k2", name="web", image="debian/12")
    assert taken.value.code == "instance_exists"
    house.client.operations.result(house.client.instances.remove("web", force=True)["id"])
    house.client.operations.result(launch(idempotency_key="k2", name="web", image="debian/12")["id"])


def test_the_same_key_at_the_same_time(house: House) -> None:
    house.engine("lxc").latency = 0.05
    found: list[str] = []
    threads = [
        threading.Thread(
            target=lambda: found.append(
                house.client.instances.launch(idempotency_key="same", name="web", image="debian/12", engine="lxc")["id"]
            )
        )
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 6
    assert len(set(found)) == 1


def test_two_clients_doing_opposite_things(house: House) -> None:
    house.launch("web", settings={"stop": "ignored"})
    stopping = house.client.instances.stop("web", timeout=PATIENCE)
    with pytest.raises(Conflict) as caught:
        house.client.instances.remove("web", force=True)
    assert caught.value.code == "busy"
    assert stopping["id"] in caught.value.hint
    house.client.operations.cancel(stopping["id"])
    assert house.client.operations.wait(stopping["id"])["state"] == "cancelled"
    house.client.operations.result(house.client.instances.remove("web", force=True)["id"])


def test_a_guest_that_ignores_shutdown(house: House) -> None:
    house.launch("web", settings={"stop": "ignored"})
    with pytest.raises(Failed) as caught:
        house.client.operations.result(house.client.instances.stop("web", timeout=0.2)["id"])
    assert caught.value.code == "stop_timeout"
    assert caught.value.hint
    house.client.operations.result(house.client.instances.stop("web", timeout=0, force=True)["id"])


@pytest.mark.parametrize("force", [True, False])
def test_running_and_adopted_ones_are_not_removed_by_accident(house: House, force: bool) -> None:
    house.engine("kvm").adopt("old")
    with pytest.raises(Conflict) as caught:
        house.client.instances.remove("old", force=force)
    assert caught.value.code == "instance_adopted"
    assert "--adopted" in caught.value.hint
    house.client.operations.result(house.client.instances.remove("old", adopted=True, force=True)["id"])


def test_stats_of_what_does_not_run(house: House) -> None:
    house.launch("web", start=False)
    with pytest.raises(Conflict) as caught:
        house.client.instances.stats("web")
    assert caught.value.code == "instance_not_running"
    assert house.client.instances.stats() == []


def test_logs_follow_until_the_client_goes(house: House) -> None:
    house.launch("web", settings={"log": "one"})
    pieces = house.client.instances.logs("web", follow=True)
    assert next(pieces) == b"one\n"
    house.engine("lxc")._instances["web"].log.append("two")
    assert next(pieces) == b"two\n"
    assert len(house.streams) == 1
    pieces.close()
    until(lambda: not house.streams)


def test_a_missing_facet_says_why(house: House) -> None:
    house.launch("web")
    engine = house.engine("lxc")
    pausing, engine.pausing = engine.pausing, None
    engine._missing["pausing"] = "the freezer is not mounted"
    try:
        with pytest.raises(Unsupported) as caught:
            house.client.instances.pause("web")
        assert "the freezer is not mounted" in caught.value.message
        facets = {found["name"]: found["facets"] for found in house.client.host()["engines"]}
        assert facets["lxc"]["pausing"] == {"available": False, "reason": "the freezer is not mounted"}
        assert facets["lxc"]["logs"] == {"available": True, "reason": ""}
        assert facets["lxc"]["snapshots.memory"] == {"available": True, "reason": ""}
        engine._missing["snapshots.memory"] = "criu is not installed"
        facets = {found["name"]: found["facets"] for found in house.client.host()["engines"]}
        assert facets["lxc"]["snapshots.memory"] == {"available": False, "reason": "criu is not installed"}
        del engine._missing["snapshots.memory"]
    finally:
        engine.pausing = pausing
        del engine._missing["pausing"]


def test_an_unexpected_failure_inside_an_operation(house: House) -> None:
    house.engine("lxc").failures["lxc-create"] = Failed("disk_full", "the disk is full", hint="Free some space.")
    try:
        with pytest.raises(TriuneError) as caught:
            house.launch("web")
        assert caught.value.code == "disk_full"
        assert house.client.instances.list()[0] == []
    finally:
        house.engine("lxc").failures.clear()


def test_on_a_full_disk_nothing_new_begins(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    house.launch("web")
    monkeypatch.setattr(type(house.triune.store), "room", lambda _: 2**20)
    with pytest.raises(Failed, match=r"1\.0 MiB are left") as caught:
        house.launch("db")
    assert caught.value.code == "no_space"
    operation = house.client.instances.remove("web", force=True)
    assert house.client.operations.wait(operation["id"])["state"] == "done"
