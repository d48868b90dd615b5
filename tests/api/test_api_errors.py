"""Every error is a problem document; nonsense of any kind and length breaks nothing."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator

import httpx
import pytest

from tests.api.house import House
from tests.patience import PATIENCE


@pytest.fixture
def http(house: House) -> Iterator[httpx.Client]:
    with httpx.Client(
        transport=httpx.HTTPTransport(uds=str(house.socket)), base_url="http://triune", timeout=PATIENCE
    ) as client:
        yield client


def problem(response: httpx.Response, status: int, code: str) -> dict[str, object]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    document: dict[str, object] = response.json()
    assert document["status"] == status
    assert document["code"] == code
    assert document["type"] == f"urn:triune:error:{code}"
    assert document["instance"] == response.request.url.path
    assert document["detail"]
    assert document["title"]
    return document


def test_each_kind(http: httpx.Client) -> None:
    problem(http.get("/v1/instances/none"), 404, "instance_not_found")
    problem(http.get("/nothing/here"), 404, "no_such_route")
    problem(http.get("/v1/instances/"), 404, "no_such_route")
    response = http.put("/v1/instances")
    problem(response, 405, "method_not_allowed")
    assert "GET" in response.headers["allow"] or "POST" in response.headers["allow"]
    json_body = {"content-type": "application/json"}
    problem(http.post("/v1/instances", content=b"{", headers=json_body), 400, "bad_json")
    problem(http.post("/v1/instances", content=b"\xff\xfe", headers=json_body), 400, "bad_json")
    problem(http.get("/v1/instances?limit=0"), 422, "bad_request")
    problem(http.get("/v1/instances?limit=x"), 422, "bad_request")
    problem(http.get("/v1/instances?cursor=abc"), 422, "bad_cursor")
    problem(http.get("/v1/instances?fields=secret"), 422, "unknown_field")
    problem(http.get("/v1/instances?filter=colour=red"), 422, "bad_filter")
    problem(http.get("/v1/operations/none"), 404, "operation_not_found")
    problem(http.get("/v1/operations/none/wait"), 404, "operation_not_found")
    problem(http.get("/v1/operations/none/events"), 404, "operation_not_found")
    problem(http.get("/v1/networks/none"), 404, "network_not_found")
    problem(http.get("/v1/instances/none/logs"), 404, "instance_not_found")
    problem(http.get("/v1/instances/none/stats"), 404, "instance_not_found")


def test_a_wrong_field_is_named(http: httpx.Client) -> None:
    body = {"name": "web", "image": "debian/12", "colour": "red"}
    document = problem(http.post("/v1/instances", json=body), 422, "bad_request")
    assert "colour" in str(document["detail"])


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"name": "Web"}, 422, "bad_name"),
        ({"name": "a\nb"}, 422, "bad_name"),
        ({"name": "x" * 5000}, 422, "bad_request"),
        ({"memory": "lots"}, 422, "bad_size"),
        ({"memory": 2**59}, 422, "memory_exceeds_host"),
        ({"memory": -1}, 422, "bad_request"),
        ({"cpus": "NaN"}, 422, "bad_request"),
        ({"cpus": 0}, 422, "bad_request"),
        ({"publish": ["99999:80"]}, 422, "bad_publish"),
        ({"publish": ["80"]}, 422, "bad_publish"),
        ({"volumes": ["/x"]}, 422, "bad_volume"),
        ({"volumes": ["x:"]}, 422, "bad_volume"),
        ({"volumes": ["x"]}, 404, "volume_not_found"),
        ({"pool": "none-such"}, 404, "pool_not_found"),
        ({"pool": "a\nb"}, 422, "bad_name"),
        ({"env": {"A": "b\nc"}}, 422, "control_character"),
        ({"settings": {"a": "b\x00"}}, 422, "control_character"),
        ({"network": "none-such"}, 404, "network_not_found"),
        ({"image": "none/such"}, 404, "image_not_found"),
        ({"image": "../../etc"}, 422, "bad_image_name"),
        ({"engine": "lcx"}, 422, "unknown_engine"),
        ({"engine": "kvm", "image": "docker:nginx"}, 501, "no_form"),
        ({"wait": "forever"}, 422, "bad_request"),
        ({"timeout": 1e9}, 422, "bad_request"),
    ],
)
def test_wrong_launches(http: httpx.Client, change: dict[str, object], status: int, code: str) -> None:
    response = http.post("/v1/instances", json={"name": "web", "image": "debian/12", **change})
    assert problem(response, status, code)["hint"]


def test_ten_megabytes_of_nonsense(http: httpx.Client, house: House) -> None:
    nonsense = os.urandom(10 * 2**20)
    for target in ("/v1/instances", "/v1/images", "/v1/instances/web/stop"):
        problem(http.post(target, content=nonsense), 413, "body_too_large")
    pieces = (nonsense[at : at + 2**16] for at in range(0, len(nonsense), 2**16))
    problem(http.post("/v1/instances", content=pieces), 413, "body_too_large")
    deep = b"[" * 1_000_000
    response = http.post("/v1/instances", content=deep, headers={"content-type": "application/json"})
    assert response.status_code in (400, 422)
    with socket.socket(socket.AF_UNIX) as raw:
        raw.connect(str(house.socket))
        raw.settimeout(PATIENCE)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            raw.sendall(nonsense)
    assert http.get("/v1").status_code == 200


def test_a_bug_in_the_daemon_is_told_without_its_text(
    http: httpx.Client, house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> None:
        raise ValueError("secret")

    monkeypatch.setattr(house.triune.instances, "list", broken)
    response = http.get("/v1/instances")
    problem(response, 500, "internal")
    assert "secret" not in response.text


def test_odd_names_in_paths_are_just_not_found(http: httpx.Client) -> None:
    for name in ("%00", "%0a", "a%2fb", "%c3%28", "x" * 3000, "%2e%2e%2f%2e%2e"):
        response = http.get(f"/v1/instances/{name}")
        assert response.status_code in (404, 422), (name, response.text)
        assert json.loads(response.text)["status"] == response.status_code


def test_half_a_surrogate_pair_is_refused_wherever_it_is(http: httpx.Client) -> None:
    for change in (
        {"env": {"A": "\ud800"}},
        {"env": {"\ud800": "x"}},
        {"command": ["\ud800"]},
        {"volumes": ["\ud800:/a"]},
    ):
        body = json.dumps({"name": "web", "image": "debian/12", **change})
        found = problem(
            http.post("/v1/instances", content=body, headers={"content-type": "application/json"}), 422, "bad_request"
        )
        assert "not valid Unicode" in str(found["detail"])


def whole(stream: socket.socket) -> bytes:
    """One reply, head and body."""
    got = b""
    while b"\r\n\r\n" not in got or not got.endswith(b"}"):
        got += stream.recv(4096)
    return got


def test_a_head_that_does_not_come_is_waited_for_so_long(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("triune.api.server._HEAD", 0.2)
    beginnings = (b"", b"GET /v1/ver", b"GET /v1/version HTTP/1.1\r\nHost: x\r\n")
    with contextlib.ExitStack() as stack:
        for beginning in beginnings:
            slow = stack.enter_context(socket.socket(socket.AF_UNIX))
            slow.settimeout(PATIENCE)
            slow.connect(str(house.socket))
            slow.sendall(beginning)
            assert slow.recv(100) == b""
        # A connection that is in use stays, also between two requests and while the second's head comes slowly.
        # No clock runs while it rests, however short: a moment is set then, and much while a head is under way.
        monkeypatch.setattr(house.server.config, "timeout_keep_alive", 10 * PATIENCE)
        monkeypatch.setattr("triune.api.server._HEAD", PATIENCE)
        kept = stack.enter_context(socket.socket(socket.AF_UNIX))
        kept.settimeout(PATIENCE)
        kept.connect(str(house.socket))
        for _ in range(3):
            kept.sendall(b"GET /nothing HTTP/1.1\r\n")
            time.sleep(0.1)
            kept.sendall(b"Host: x\r\n\r\n")
            assert whole(kept).startswith(b"HTTP/1.1 404 ")
            monkeypatch.setattr("triune.api.server._HEAD", 0.05)
            time.sleep(0.2)
            monkeypatch.setattr("triune.api.server._HEAD", PATIENCE)
        monkeypatch.setattr("triune.api.server._HEAD", 0.2)
        kept.sendall(b"GET /v1")
        assert kept.recv(100) == b""
