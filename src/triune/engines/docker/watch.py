"""The engine's events, in our words; reconnects by itself."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from triune.domain.errors import TriuneError
from triune.engines.base import EngineEvent, EventSink
from triune.engines.docker.client import DockerClient
from triune.engines.docker.containers import is_aside
from triune.engines.docker.inventory import ENGINE, Inventory
from triune.engines.docker.kills import Kills
from triune.engines.docker.stream import RawStream

log = logging.getLogger(__name__)

_ACTIONS = {
    "create": "created",
    "start": "started",
    "die": "stopped",
    "pause": "paused",
    "unpause": "resumed",
    "destroy": "deleted",
    "rename": "renamed",
    "update": "changed",
    "oom": "oom",
}
_FIRST_PAUSE = 0.25
_LONGEST_PAUSE = 5.0
_LINE_CAP = 1 << 20


class EventWatch:
    """A thread that reads events until closed. Tells engine-down once per outage, engine-up when it is over."""

    def __init__(self, client: DockerClient, inventory: Inventory, sink: EventSink) -> None:
        self._client = client
        self._inventory = inventory
        self._sink = sink
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._stream: RawStream | None = None
        self._kills = Kills(client, self._killed)
        self._thread = threading.Thread(target=self._run, name="docker-events", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop it and free its thread."""
        with self._lock:
            self._closed.set()
            stream = self._stream
        if stream is not None:
            stream.close()
        if threading.current_thread() is not self._thread:
            self._thread.join(5)
        self._kills.close()

    def _run(self) -> None:
        pause = _FIRST_PAUSE
        down = False
        while not self._closed.is_set():
            stream = self._open()
            if stream is not None:
                threading.Thread(target=self._refresh, name="docker-refresh", daemon=True).start()
                if down:
                    self._tell(EngineEvent(engine=ENGINE, action="engine-up", name=""))
                down, pause = False, _FIRST_PAUSE
                with stream:
                    self._deliver(stream)
            if self._closed.is_set():
                return
            if not down:
                down = True
                self._client.forget()
                self._tell(EngineEvent(engine=ENGINE, action="engine-down", name=""))
            self._closed.wait(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)

    def _open(self) -> RawStream | None:
        try:
            stream = self._client.stream("GET", "/events", {"filters": json.dumps({"type": ["container"]})})
        except TriuneError as error:
            log.debug("no events from Docker: %s", error)
            return None
        with self._lock:
            if self._closed.is_set():
                stream.close()
                return None
            self._stream = stream
        return stream

    def _deliver(self, stream: RawStream) -> None:
        for raw in lines(stream.recv):
            event = translate(raw)
            if event is None:
                continue
            if event.action == "oom":
                self._kills.heard(event.data["id"], event.name)
                continue
            if event.action == "changed":
                self._inventory.changed(event.data["id"])
            elif event.action == "stopped":
                self._kills.ended(event.data["id"])
            elif event.action == "renamed":
                self._kills.renamed(event.data["id"], event.name)
            self._tell(event)
            if event.action == "started":
                self._kills.started(event.data["id"], event.name)

    def _killed(self, container: str, name: str, count: int | None) -> None:
        data = {"id": container} | ({} if count is None else {"killed": str(count)})
        self._tell(EngineEvent(engine=ENGINE, action="oom", name=name, data=data))

    def _refresh(self) -> None:
        try:
            self._kills.refresh()
            self._inventory.refresh(self._closed.is_set)
        except TriuneError as error:
            # The engine went away again; the next connection refreshes.
            log.debug("containers could not be read: %s", error)

    def _tell(self, event: EngineEvent) -> None:
        try:
            self._sink(event)
        except Exception:
            log.exception("a listener of Docker's events failed")


def lines(recv: Callable[[], bytes | None]) -> Iterator[bytes]:
    """Split what `recv` returns at line ends, until it returns b"". A line over 1 MiB is dropped."""
    rest = b""
    while piece := recv():
        *whole, rest = (rest + piece).split(b"\n")
        yield from (line for line in whole if line.strip())
        if len(rest) > _LINE_CAP:
            rest = b""


def translate(raw: bytes) -> EngineEvent | None:
    """One line of Docker's event stream as our event, or None where we have no word for it."""
    try:
        event: Any = json.loads(raw)
    except ValueError:
        return None
    if not isinstance(event, dict) or event.get("Type") != "container":
        return None
    actor: Mapping[str, Any] = event.get("Actor") or {}
    attributes: Mapping[str, str] = actor.get("Attributes") or {}
    # "exec_start: sh" and "health_status: healthy" carry more after the colon.
    word, _, more = str(event.get("Action", "")).partition(":")
    data = {"id": str(actor.get("ID", ""))}
    if word == "health_status":
        action, data["health"] = "changed", more.strip()
    elif word in _ACTIONS:
        action = _ACTIONS[word]
    else:
        return None
    name, old = (str(attributes.get(key, "")).removeprefix("/") for key in ("name", "oldName"))
    if is_aside(name) or (word == "rename" and is_aside(old)):
        return None
    if word == "die" and "exitCode" in attributes:
        data["exit_code"] = str(attributes["exitCode"])
    if word == "rename":
        data["old"] = old
    return EngineEvent(engine=ENGINE, action=action, name=name, data=data)
