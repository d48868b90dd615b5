"""Addresses, headers, and what a daemon that isn't there or lies is told as."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from triune.domain.errors import Conflict, Denied, Failed, Invalid, TriuneError, Unreachable, Unsupported, from_dict
from triune.sdk.session import SUBPROTOCOL
from triune.sdk.transport import Transport, problem_fields, segment, target


@pytest.fixture
def liar(tmp_path: Path) -> Iterator[tuple[str, list[bytes], list[bytes]]]:
    """A server that answers each request with what it is told; (path, answers, requests)."""
    path = tmp_path / "s"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    answers: list[bytes] = []
    requests: list[bytes] = []

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                requests.append(connection.recv(65536))
                with contextlib.suppress(BrokenPipeError):
                    connection.sendall(answers.pop(0) if answers else b"")

    thread = threading.Thread(target=serve)
    thread.start()
    yield str(path), answers, requests
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join()


def test_another_project_is_not_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    for project in ("", "default"):
        monkeypatch.setenv("TRIUNE_PROJECT", project)
        Transport("/tmp/x")
    monkeypatch.setenv("TRIUNE_PROJECT", "staging")
    with pytest.raises(Unsupported) as caught:
        Transport("/tmp/x")
    assert "staging" in caught.value.message


@pytest.mark.parametrize("host", ["unix:///tmp/x", "unix:/tmp/x", "/tmp/x"])
def test_addresses(host: str) -> None:
    assert Transport(host).socket_path == "/tmp/x"


@pytest.mark.parametrize("host", ["tcp://1.2.3.4", "https://h", "x", "unix://relative"])
def test_other_addresses_are_refused(host: str) -> None:
    with pytest.raises(Invalid) as caught:
        Transport(host)
    assert caught.value.code == "bad_host"


def test_the_environment_names_the_daemon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIUNE_HOST", "unix:///a/b")
    monkeypatch.setenv("TRIUNE_TOKEN", "secret")
    transport = Transport()
    assert transport.socket_path == "/a/b"
    assert transport.headers()["Authorization"] == "Bearer secret"


def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(Unreachable) as caught:
        Transport(str(tmp_path / "none")).call("GET", "/v1")
    assert caught.value.code == "daemon_unreachable"
    assert "triune serve --detach" in caught.value.hint


def test_a_token_with_a_line_break_is_refused(liar: tuple[str, list[bytes], list[bytes]]) -> None:
    with pytest.raises(Invalid):
        Transport(liar[0], token="a\r\nX-Evil: 1").call("GET", "/v1")


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{x",
        b"HTTP/1.1 200 OK\r\n\r\n" + b"[" * 100_000,
    ],
)
def test_a_lying_server_is_an_error_with_a_hint(liar: tuple[str, list[bytes], list[bytes]], answer: bytes) -> None:
    liar[1].append(answer)
    with pytest.raises(Unreachable) as caught:
        Transport(liar[0]).call("GET", "/v1")
    assert caught.value.code == "daemon_broke_off"
    assert caught.value.hint


@pytest.mark.parametrize(
    ("document", "kind", "code"),
    [
        (b'{"kind":"Conflict","code":"busy","detail":"web is busy","hint":"wait"}', Conflict, "busy"),
        (b'{"kind":"Nonsense","code":"x","detail":"y"}', Failed, "x"),
        (b'{"kind":["a"],"code":{},"detail":5,"details":7}', Failed, "http_error"),
        (b"not json", Denied, "http_error"),
        (b"[]", Denied, "http_error"),
    ],
)
def test_problems_become_errors(
    liar: tuple[str, list[bytes], list[bytes]], document: bytes, kind: type[TriuneError], code: str
) -> None:
    status = b"403 Forbidden"
    liar[1].append(b"HTTP/1.1 " + status + b"\r\nContent-Length: %d\r\n\r\n" % len(document) + document)
    with pytest.raises(TriuneError) as caught:
        Transport(liar[0]).call("GET", "/v1")
    assert type(caught.value) is kind
    assert caught.value.code == code


def test_details_cannot_shadow_the_error() -> None:
    fields = problem_fields({"kind": "Conflict", "details": {"code": "x", "message": "y", "hint": "z", "ok": 1}})
    assert from_dict(fields).code == "http_error"


def test_targets() -> None:
    assert target("/v1/x", a=None, b=True, c="a b&c") == "/v1/x?b=1&c=a+b%26c"
    assert segment("a/b c\n") == "a%2Fb%20c%0A"
    assert segment("docker:x/y:1", slash=True) == "docker:x/y:1"
    assert SUBPROTOCOL == "triune.v1"
