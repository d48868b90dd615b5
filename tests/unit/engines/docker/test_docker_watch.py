"""The event source over outages of the engine; without Docker."""

from __future__ import annotations

import json
import socket
import threading
import time
from pathlib import Path

import pytest
from tests.patience import PATIENCE, threads, until

from triune.engines.base import EngineEvent
from triune.engines.docker import client
from triune.engines.docker import watch as watching
from triune.engines.docker.engine import DockerEngine


class Engine:
    """A unix socket that answers like an engine whose event stream the test feeds."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.streams: list[socket.socket] = []
        self._listener: socket.socket | None = None

    def up(self) -> None:
        self.path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.path))
        self._listener.listen(50)
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def down(self) -> None:
        assert self._listener is not None
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.path.unlink()
        for stream in self.streams:
            stream.shutdown(socket.SHUT_RDWR)
            stream.close()
        self.streams.clear()

    def say(self, action: str) -> None:
        actor = {"ID": "a", "Attributes": {"name": "web"}}
        line = json.dumps({"Type": "container", "Action": action, "Actor": actor}) + "\n"
        for stream in self.streams:
            stream.sendall(line[:20].encode())
            stream.sendall(line[20:].encode())

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        try:
            while request := connection.recv(65536):
                path = request.split(b" ")[1]
                if b"/events" in path:
                    connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n")
                    self.streams.append(connection)
                    return
                text = b'{"ApiVersion": "1.41"}' if b"version" in path else b"[]"
                text = b'{"State": {"Pid": 0}}' if b"/a/json" in path else text
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(text), text))
        except OSError:
            return


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here hangs: whoever is slow is this machine."""
    monkeypatch.setattr(client, "_QUICK", PATIENCE)
    monkeypatch.setattr(client, "_SIGN_OF_LIFE", PATIENCE)


def test_tells_of_the_outage_and_goes_on(tmp_path: Path) -> None:
    engine = Engine(tmp_path / "d.sock")
    engine.up()
    events: list[EngineEvent] = []
    watch = DockerEngine(f"unix://{engine.path}").watch(events.append)
    try:
        until(lambda: bool(engine.streams))
        engine.say("start")
        until(lambda: len(events) == 1)
        engine.down()
        until(lambda: len(events) == 2)
        time.sleep(0.6)
        engine.up()
        until(lambda: len(events) == 3 and bool(engine.streams))
        engine.say("die")
        until(lambda: len(events) == 4)
    finally:
        watch.close()
    assert [event.action for event in events] == ["started", "engine-down", "engine-up", "stopped"]
    assert [event.name for event in events] == ["web", "", "", "web"]


def test_a_listeners_fault_does_not_end_the_events(tmp_path: Path) -> None:
    engine = Engine(tmp_path / "d.sock")
    engine.up()
    seen: list[str] = []

    def sink(event: EngineEvent) -> None:
        seen.append(event.action)
        raise ValueError("a fault of the listener")

    watch = DockerEngine(f"unix://{engine.path}").watch(sink)
    try:
        until(lambda: bool(engine.streams))
        engine.say("start")
        until(lambda: len(seen) == 1)
        engine.say("pause")
        until(lambda: len(seen) == 2)
    finally:
        watch.close()
    assert seen == ["started", "paused"]


def test_closing_while_the_engine_is_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "_FIRST_PAUSE", 10 * PATIENCE)
    before = threads()
    events: list[EngineEvent] = []
    watch = DockerEngine(f"unix://{tmp_path}/none").watch(events.append)
    until(lambda: events)
    watch.close()  # it pauses now, and must not do so to the end
    until(lambda: threads() <= before)


def test_making_an_engine_imports_no_sdk() -> None:
    import subprocess
    import sys

    script = (
        "import sys; from triune.engines.docker.engine import DockerEngine; DockerEngine();"
        "sys.exit('docker' in sys.modules or 'requests' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
