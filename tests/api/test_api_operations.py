"""Operations, events, images and networks over HTTP."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from tests.api.house import House
from tests.patience import PATIENCE
from triune.api import streams
from triune.domain.errors import Conflict, Denied, Invalid, NotFound
from triune.sdk.operations import outcome


def test_history_pages_and_stays(house: House) -> None:
    for name in "abcdef":
        house.launch(name)
    found = house.client.operations.list(limit=4)
    assert [operation["resource"] for operation in found] == [f"instances/{name}" for name in "fedc"]
    page = house.client.transport.call("GET", "/v1/operations?limit=2")
    following = house.client.transport.call("GET", f"/v1/operations?limit=2&cursor={page['next']}")
    assert [operation["resource"][-1] for operation in page["items"] + following["items"]] == list("fedc")
    assert house.client.operations.list(running=True) == []
    one = house.client.operations.get(found[0]["id"])
    assert one["state"] == "done"
    assert next(step["name"] for step in one["steps"]) == "image"
    with pytest.raises(Conflict):
        house.client.operations.cancel(one["id"])


def test_waiting_follows_the_progress_to_the_end(house: House) -> None:
    with house.held(house.engine("lxc"), "wait_ready") as waiting:
        operation = house.client.instances.launch(
            name="web", image="debian/12", engine="lxc", settings={"ready": "never"}, timeout=0.6
        )
        assert waiting.begun.wait(PATIENCE)
        assert house.client.operations.wait(operation["id"], timeout=0.1)["state"] == "running"
    told: list[str] = []
    ended = house.client.operations.wait(operation["id"], progress=lambda found: told.append(found["text"]))
    assert ended["state"] == "failed"
    assert ended["error"] is not None
    assert ended["error"]["code"] == "not_ready"
    assert told


def test_cancelling_removes_what_was_made(house: House) -> None:
    operation = house.client.instances.launch(name="app", image="docker:nginx", engine="docker", wait="none")
    house.client.operations.wait(operation["id"])
    house.client.operations.result(house.client.instances.remove("app", force=True)["id"])
    with house.held(house.engine("lxc"), "create"):
        operation = house.client.instances.launch(name="web", image="debian/12", engine="lxc")
        house.client.operations.cancel(operation["id"])
        ended = house.client.operations.wait(operation["id"])
    assert ended["state"] == "cancelled"
    assert house.client.instances.list()[0] == []


def events_of(house: House, **wanted: object) -> list[tuple[str, str]]:
    stream = house.client.events.stream(follow=False, **wanted)  # type: ignore[arg-type]
    return [(event["type"], event["subject"]) for event in stream]


def test_events_after_a_number(house: House) -> None:
    begin = house.triune.events.sequence
    house.launch("web")
    found = events_of(house, since=begin)
    assert found[-1] == ("operation.done", "instances/web")
    assert ("instance.started", "instances/web") in found
    assert set(events_of(house, since=begin, kind="instance.")) == {
        ("instance.created", "instances/web"),
        ("instance.started", "instances/web"),
    }
    assert events_of(house, since=begin, subject="instances/other") == []


def test_events_as_they_happen(house: House) -> None:
    stream = house.client.events.stream(kind="instance.")
    house.launch("web")
    assert [next(stream)["type"] for _ in range(2)] == ["instance.created", "instance.started"]
    stream.close()  # type: ignore[attr-defined]


def test_the_last_event_id_of_a_browser(house: House) -> None:
    begin = house.triune.events.sequence
    house.launch("web")
    response = house.client.transport.open("GET", "/v1/events?follow=0", headers={"Last-Event-ID": str(begin)})
    text = response.read().decode()
    assert f"id: {begin + 1}\n" in text
    for nonsense in ("-1", "x", "9" * 39):
        response = house.client.transport.open("GET", "/v1/events?follow=0", headers={"Last-Event-ID": nonsense})
        assert response.status == 200
        response.close()


def test_numbers_that_are_gone_or_not_ours_mean_resync(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    house.launch("web")
    now = house.triune.events.sequence
    (event,) = house.client.events.stream(since=now + 1000, follow=False)
    assert (event["type"], event["sequence"]) == ("resync", now)
    monkeypatch.setattr(house.triune.events, "_forgotten", now - 1)
    assert [event["type"] for event in house.client.events.stream(since=3, follow=False)] == ["resync"]
    assert "resync" not in {event["type"] for event in house.client.events.stream(since=0, follow=False)}


def test_a_slow_reader_gets_resync_and_holds_nobody_up(house: House) -> None:
    with socket.socket(socket.AF_UNIX) as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.connect(str(house.socket))
        slow.sendall(b"GET /v1/events HTTP/1.1\r\nHost: triune\r\n\r\n")
        assert b"200" in slow.recv(200)
        for number in range(6000):  # whoever waited for the reader would wait for ever
            house.triune.events.publish("test.noise", "nothing", {"pad": "x" * 300, "n": number}, keep=False)
        slow.settimeout(PATIENCE)
        read = b""
        while b"event: resync" not in read[-4096:]:
            piece = slow.recv(2**20)
            assert piece, "ended without a resync"
            read += piece
    assert house.client.version()["api"] == "v1"


def test_heartbeats(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "HEARTBEAT", 0.05)
    response = house.client.transport.open("GET", "/v1/events")
    pieces = response.chunks()
    assert [next(pieces) for _ in range(3)][1:] == [b": \n\n", b": \n\n"]
    response.close()


def test_images(house: House, tmp_path: Path) -> None:
    client = house.client
    pulled = outcome(client.operations.wait(client.images.pull("docker:nginx:1")["id"]))
    assert pulled["name"] == "docker:nginx:1"
    assert {"debian/12", "docker:nginx:1"} <= {image["name"] for image in client.images.list()}
    image = client.images.get("debian/12")
    assert set(image["forms"]) >= {"disk", "tree"}
    assert image["forms"]["disk"]["format"] == "qcow2"
    house.launch("web")
    with pytest.raises(Conflict) as used:
        client.operations.result(client.images.remove("debian/12")["id"])
    assert used.value.code == "image_in_use"
    client.operations.result(client.images.remove("docker:nginx:1")["id"])
    with pytest.raises(NotFound):
        client.images.get("docker:nginx:1")
    with pytest.raises(NotFound):
        client.images.remove("no/such")


def test_a_private_image_needs_a_password_that_is_kept_nowhere(house: House) -> None:
    client = house.client
    with pytest.raises(Denied):
        client.operations.result(client.images.pull("docker:private/x:1")["id"])
    operation = client.images.pull("docker:private/x:1", username="u", password="s3cr3t-word")
    client.operations.result(operation["id"])
    assert "s3cr3t-word" not in json.dumps(client.operations.get(operation["id"]))
    for file in house.settings.data.glob("triune.db*"):
        assert b"s3cr3t-word" not in file.read_bytes()


@pytest.mark.parametrize(
    ("call", "code"),
    [
        (lambda images: images.build("debian"), "bad_image_name"),
        (lambda images: images.build("debian/12", packages=["a b"]), "bad_package"),
        (lambda images: images.build("debian/12", size="1"), "bad_size"),
        (lambda images: images.import_path("x/1", "relative"), "bad_path"),
        (lambda images: images.import_path("x/../..", "/a"), "bad_image_name"),
        (lambda images: images.import_path("x/1", "/a", format="exe"), "bad_format"),
        (lambda images: images.import_path("x/1", "/a", sha256="12"), "bad_sha256"),
    ],
)
def test_wrong_images_are_refused_at_once(house: House, call, code: str) -> None:
    with pytest.raises(Invalid) as caught:
        call(house.client.images)
    assert caught.value.code == code


def test_an_upload_larger_than_other_bodies_arrives_whole_and_is_not_left(house: House, tmp_path: Path) -> None:
    path = tmp_path / "disk.raw"
    with path.open("wb") as file:
        file.truncate(9 * 2**20)
        file.write(b"end")
    uploads = house.settings.data / "uploads"
    with path.open("rb") as file:
        operation = house.client.images.import_file("up/1", file, path.stat().st_size, format="raw")
    ended = house.client.operations.wait(operation["id"])
    assert ended["kind"] == "image-import"
    assert ended["state"] in ("done", "failed")
    assert [*uploads.iterdir()] == []
    with path.open("rb") as file, pytest.raises(Invalid):
        house.client.images.import_file("bad", file, path.stat().st_size)
    assert [*uploads.iterdir()] == []


def test_networks(house: House) -> None:
    client = house.client
    made = client.networks.create("lab", "10.99.0.0/16")
    assert (made["subnet"], made["default"], made["members"]) == ("10.99.0.0/16", False, [])
    house.launch("web", network="lab")
    assert client.networks.get("lab")["members"] == ["web"]
    with pytest.raises(Conflict):
        client.networks.remove("lab")
    client.networks.remove("lab", force=True)
    assert [network["name"] for network in client.networks.list()] == ["triune0"]
    assert client.networks.list()[0]["default"]


def test_the_host_and_the_version(house: House) -> None:
    house.engine("docker").go_down()
    found = house.client.host()
    by_name = {engine["name"]: engine for engine in found["engines"]}
    assert not by_name["docker"]["available"]
    assert by_name["docker"]["reason"]
    assert by_name["kvm"]["facets"]["oci"] == {"available": False, "reason": "kvm has no oci of its own"}
    assert found["memory_bytes"] > 0
    assert {"instances", "events"} <= set(house.client.version()["features"])
    house.engine("docker").come_up()


def test_operations_are_filtered_over_pages_and_cut_to_fields(house: House) -> None:
    for name in ("a", "b", "c"):
        house.launch(name)
        house.client.operations.result(house.client.instances.stop(name, force=True, timeout=0)["id"])
    call = house.client.transport.call
    page = call("GET", "/v1/operations?limit=2&fields=resource&filter=kind%3Dlaunch,state%3Ddone")
    assert [sorted(row) for row in page["items"]] == [["id", "resource"]] * 2
    assert [row["resource"] for row in page["items"]] == ["instances/c", "instances/b"]
    where = f"/v1/operations?limit=1&fields=resource&filter=kind%3Dlaunch&cursor={page['next']}"
    assert call("GET", where)["items"][0]["resource"] == "instances/a"
    with pytest.raises(Invalid):
        call("GET", "/v1/operations?fields=nonsense")


@pytest.mark.parametrize("path", ["/v1/images", "/v1/networks"])
def test_every_list_takes_fields_and_filters(house: House, path: str) -> None:
    call = house.client.transport.call
    name = call("GET", path)["items"][0]["name"]
    assert call("GET", f"{path}?fields=name&filter=name%3D{name}")["items"] == [{"name": name}]
    assert call("GET", f"{path}?filter=name%3Dnone")["items"] == []
    with pytest.raises(Invalid):
        call("GET", f"{path}?filter=colour%3Dred")


def test_an_upload_with_a_bad_name_is_refused_before_it_is_read(house: House) -> None:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(PATIENCE)
        connection.connect(str(house.socket))
        connection.sendall(b"PUT /v1/images?name=BAD HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\nbeginning")
        assert connection.recv(1000).startswith(b"HTTP/1.1 422")
