"""libvirt's lifecycle events as ours, over a connection of its own that is opened again when it breaks, and `oom`."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from triune.domain.errors import TriuneError
from triune.engines.base import EngineEvent, EventSink
from triune.engines.kvm.client import Client, library
from triune.engines.kvm.names import is_template
from triune.engines.kvm.oom import Kills

_LOG = logging.getLogger(__name__)
_RETRY = 1.0

# virDomainEventType → our word; numbers are libvirt's ABI (libvirt-domain.h)
_ACTIONS = {
    0: "created",
    1: "deleted",
    2: "started",
    3: "paused",
    4: "resumed",
    5: "stopped",
    7: "paused",
    8: "stopped",
}
_DEFINED, _UNDEFINED = 0, 1
_DEFINED_UPDATED, _DEFINED_RENAMED, _UNDEFINED_RENAMED = 1, 2, 1


class Watch:
    """A running event source."""

    def __init__(self, client: Client, engine: str, sink: EventSink, state_dir: Path) -> None:
        self._client = client
        self._engine = engine
        self._sink = sink
        self._kills = Kills(state_dir)
        self._stop = threading.Event()
        self._renamed: dict[str, str] = {}
        self._thread = threading.Thread(target=self._run, name="kvm-watch", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop it and free its thread."""
        self._stop.set()
        if threading.current_thread() is not self._thread:
            self._thread.join(5)

    def _run(self) -> None:
        was_up: bool | None = None
        while not self._stop.is_set():
            try:
                connection = self._client.open()
            except TriuneError:
                if was_up is not False:
                    self._tell("engine-down", "")
                was_up = False
                self._stop.wait(_RETRY)
                continue
            if was_up is False:
                self._tell("engine-up", "")
            was_up = True
            self._serve(connection)

    def _serve(self, connection: Any) -> None:
        """Deliver events until the connection breaks or the watch is closed."""
        virt = library()
        try:
            number = connection.domainEventRegisterAny(None, virt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, self._lifecycle, None)
            while not self._stop.wait(_RETRY) and connection.isAlive():
                self._look_for_kills()
            with contextlib.suppress(virt.libvirtError):
                connection.domainEventDeregisterAny(number)
        except virt.libvirtError:
            self._stop.wait(_RETRY)
        finally:
            with contextlib.suppress(virt.libvirtError):
                connection.close()

    def _lifecycle(self, _connection: Any, domain: Any, event: int, detail: int, _opaque: object) -> None:
        """Runs in libvirt's event thread."""
        name, uuid = domain.name(), domain.UUIDString()
        if is_template(name):
            return
        if event == _UNDEFINED and detail == _UNDEFINED_RENAMED:
            self._renamed[uuid] = name  # its new name follows
            return
        if event == _DEFINED and detail == _DEFINED_RENAMED:
            self._tell("renamed", name, {"old": self._renamed.pop(uuid, "")})
            return
        if event == _DEFINED and detail == _DEFINED_UPDATED:
            self._tell("changed", name)
            return
        action = _ACTIONS.get(event)
        if action is not None:
            self._tell(action, name)

    def _look_for_kills(self) -> None:
        with contextlib.suppress(OSError):  # an instance that goes while it is looked at
            for name, killed in self._kills.poll():
                self._tell("oom", name, {"killed": str(killed)})

    def _tell(self, action: str, name: str, data: Mapping[str, str] | None = None) -> None:
        try:
            self._sink(EngineEvent(engine=self._engine, action=action, name=name, data=data or {}))
        except Exception:
            _LOG.exception("an event could not be delivered: %s %s", action, name)
