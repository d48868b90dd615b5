"""Commands and consoles over WebSockets."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import threading
import time

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, unix_connect

from tests.api.house import House
from tests.patience import PATIENCE, until
from triune.domain.errors import Conflict, Invalid, NotFound, TriuneError
from triune.engines.fake.session import LocalSession
from triune.sdk.session import SUBPROTOCOL, Session

MEGABYTE = 2**20


def collected(session: Session) -> dict[int, bytes]:
    said = {1: b"", 2: b""}
    while (found := session.read()) is not None:
        said[found[0]] += found[1]
    return said


@pytest.fixture
def sessions(house: House, monkeypatch: pytest.MonkeyPatch) -> list[LocalSession]:
    """The engine's own sessions, as they are opened."""
    opened: list[LocalSession] = []
    commands = house.engine("lxc").commands
    assert commands is not None
    original = type(commands).open

    def remembered(self, name, command):
        session = original(self, name, command)
        opened.append(session)
        return session

    monkeypatch.setattr(type(commands), "open", remembered)
    house.launch("web")
    return opened


@pytest.mark.parametrize(
    ("argv", "code", "out", "err"),
    [
        (["sh", "-c", "echo a; echo b >&2; exit 7"], 7, b"a\n", b"b\n"),
        (["true"], 0, b"", b""),
        (["sh", "-c", "kill -9 $$"], 137, b"", b""),
        (["no-such-program"], 127, b"", b"no-such-program: not found\n"),
        (["/etc"], 126, b"", b"/etc: permission denied\n"),
    ],
)
def test_output_and_exit_code(
    house: House, sessions: list[LocalSession], argv: list[str], code: int, out: bytes, err: bytes
) -> None:
    session = house.client.instances.exec("web", argv)
    assert collected(session) == {1: out, 2: err}
    assert session.exit_code == code


def test_environment_and_stdin(house: House, sessions: list[LocalSession]) -> None:
    session = house.client.instances.exec("web", ["sh", "-c", 'cat; echo "$A"'], env={"A": "b c"})
    session.write(b"in\n")
    session.close_stdin()
    assert collected(session)[1] == b"in\nb c\n"


def test_ten_megabytes_both_ways_at_once(house: House, sessions: list[LocalSession]) -> None:
    data = os.urandom(10 * MEGABYTE)
    session = house.client.instances.exec("web", ["cat"])

    def write() -> None:
        session.write(data)
        session.close_stdin()

    writer = threading.Thread(target=write)
    writer.start()
    digest, size = hashlib.sha256(), 0
    while (found := session.read()) is not None:
        digest.update(found[1])
        size += len(found[1])
    writer.join()
    assert size == len(data)
    assert digest.digest() == hashlib.sha256(data).digest()
    assert session.exit_code == 0


def test_a_client_that_does_not_read_stops_the_command_not_the_daemon(
    house: House, sessions: list[LocalSession]
) -> None:
    session = house.client.instances.exec("web", ["sh", "-c", "while :; do echo xxxxxxxxxxxxxxxxxxxxxxxx; done"])
    until(lambda: sessions)
    time.sleep(0.5)
    house.client.version()  # nobody reads the session: what waited for it would wait for ever
    session.close()
    until(lambda: sessions[0].process.poll() is not None)


@pytest.mark.parametrize("argv", [["sleep", "100000"], ["cat"], ["sh", "-c", "while :; do echo x; done"]])
def test_a_client_that_goes_away_ends_the_command(house: House, sessions: list[LocalSession], argv: list[str]) -> None:
    session = house.client.instances.exec("web", argv)
    until(lambda: sessions)
    session._connection.socket.close()
    until(lambda: sessions[0].process.poll() is not None)
    house.client.operations.result(house.client.instances.remove("web", force=True)["id"])


def test_a_client_that_goes_away_while_the_command_reads_nothing(house: House, sessions: list[LocalSession]) -> None:
    session = house.client.instances.exec("web", ["sleep", "100000"])
    until(lambda: sessions)

    def write() -> None:
        with contextlib.suppress(TriuneError):
            session.write(bytes(20 * MEGABYTE))

    writer = threading.Thread(target=write)
    writer.start()
    time.sleep(0.5)
    assert writer.is_alive(), "there must be back-pressure"
    session._connection.socket.shutdown(2)
    session._connection.socket.close()
    until(lambda: sessions[0].process.poll() is not None)
    session.close()
    writer.join(PATIENCE)
    assert not writer.is_alive()


def test_a_command_that_ends_without_reading_its_input(house: House, sessions: list[LocalSession]) -> None:
    session = house.client.instances.exec("web", ["sh", "-c", "exit 3"])

    def write() -> None:
        with contextlib.suppress(TriuneError):
            session.write(bytes(5 * MEGABYTE))

    writer = threading.Thread(target=write)
    writer.start()
    assert collected(session) == {1: b"", 2: b""}
    assert session.exit_code == 3
    writer.join(PATIENCE)
    assert not writer.is_alive()


def test_a_terminal_and_its_size(house: House, sessions: list[LocalSession]) -> None:
    session = house.client.instances.exec("web", ["sh"], terminal=("xterm", 100, 30))
    session.write(b"stty size; echo $TERM\n")
    said = b""
    while b"xterm\r\n" not in said:
        found = session.read()
        assert found is not None
        said += found[1]
    assert b"30 100" in said
    session.resize(120, 40)
    session.write(b"stty size; exit 5\n")
    said = collected(session)[1]
    assert b"40 120" in said
    assert session.exit_code == 5


def test_a_console_echoes_and_detaches(house: House) -> None:
    house.launch("vm", "kvm")
    session = house.client.instances.console("vm")
    assert session.read() == (1, b"vm console\r\n")
    session.write(b"hello")
    assert session.read() == (1, b"hello")
    session.close()
    assert house.client.instances.get("vm")["state"] == "running"


def test_what_cannot_be_opened_is_told(house: House) -> None:
    with pytest.raises(NotFound) as missing:
        house.client.instances.exec("none", ["true"]).read()
    assert missing.value.code == "instance_not_found"
    house.launch("web", start=False)
    with pytest.raises(Conflict) as stopped:
        house.client.instances.exec("web", ["true"]).read()
    assert "triune start web" in stopped.value.hint
    house.client.operations.result(house.client.instances.start("web")["id"])
    with pytest.raises(Invalid) as control:
        house.client.instances.exec("web", ["true"], env={"A": "b\nc"}).read()
    assert control.value.code == "control_character"
    with pytest.raises(Invalid):
        house.client.instances.exec("web", ["x" * 2] * 5000).read()


def connect(house: House, path: str, protocols: list[str] | None = None) -> ClientConnection:
    wanted = [SUBPROTOCOL] if protocols is None else protocols
    return unix_connect(str(house.socket), f"ws://triune{path}", subprotocols=wanted or None)  # type: ignore[arg-type]


@pytest.mark.parametrize("first", ["nonsense", "[]", '{"argv": 5}', '{"argv": [], "x": 1}', b"\x00binary"])
def test_a_wrong_first_message_is_a_problem(house: House, first: str | bytes) -> None:
    house.launch("web")
    with connect(house, "/v1/instances/web/exec") as connection:
        connection.send(first)
        message = connection.recv()
        assert isinstance(message, bytes)
        assert message[0] == 4
        assert json.loads(message[1:])["code"] == "bad_request"


def test_frames_of_unknown_channels_are_ignored(house: House) -> None:
    house.launch("web")
    with connect(house, "/v1/instances/web/exec") as connection:
        connection.send(json.dumps({"argv": ["cat"]}))
        for frame in (b"", b"\x09junk", b"\x03not json", b"\x03{}", "text", b"\x00data", b"\x00"):
            connection.send(frame)
        *others, last = [message for message in connection if isinstance(message, bytes)]
        assert sorted(others) == [b"\x01data", b"\x05\x00\x00\x00\x04"]
        assert (last[0], json.loads(last[1:])) == (4, {"code": 0})


def test_a_client_that_sends_more_than_its_window_is_cut_off(house: House, sessions: list[LocalSession]) -> None:
    with connect(house, "/v1/instances/web/exec") as connection:
        connection.send(json.dumps({"argv": ["sleep", "100000"]}))
        with pytest.raises(ConnectionClosed):
            for _ in range(100):
                connection.send(bytes(64 * 1024))
    until(lambda: sessions[0].process.poll() is not None)


def test_another_subprotocol_is_refused(house: House) -> None:
    with connect(house, "/v1/instances/web/exec", []) as connection:
        message = connection.recv()
        assert isinstance(message, bytes)
        assert json.loads(message[1:])["code"] == "bad_subprotocol"


def test_many_sessions_at_once(house: House, sessions: list[LocalSession]) -> None:
    codes: list[int | None] = []

    def one(number: int) -> None:
        session = house.client.instances.exec("web", ["sh", "-c", f"exit {number}"])
        collected(session)
        codes.append(session.exit_code)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert sorted(code for code in codes if code is not None) == list(range(24))
