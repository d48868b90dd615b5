"""Tells of containers that ran out of memory, as event `oom`."""

from __future__ import annotations

import threading

from triune.engines.base import EngineEvent, EventSink, Watch
from triune.engines.lxc.client import Client
from triune.engines.lxc.stats import PAYLOAD
from triune.engines.lxc.watch import LxcWatch
from triune.host import cgroup
from triune.host.oom import OomWatch


class LxcEvents:
    """The native events, and what the kernel tells of the running containers' control groups."""

    def __init__(self, client: Client, sink: EventSink) -> None:
        self._client = client
        self._sink = sink
        self._kills = OomWatch(self._killed)
        self._watch: Watch = LxcWatch(client.path, self._heard)
        threading.Thread(target=self._begin, name="lxc-oom-begin", daemon=True).start()

    def close(self) -> None:
        """Stop both."""
        self._watch.close()
        self._kills.close()

    def _begin(self) -> None:
        for name in self._client.active():
            self._add(name, fresh=False)

    def _heard(self, event: EngineEvent) -> None:
        if event.action == "started":
            self._add(event.name, fresh=True)
        elif event.action in ("stopped", "deleted"):
            self._kills.remove(event.name)
        self._sink(event)

    def _add(self, name: str, *, fresh: bool) -> None:
        pid = self._client.init_pid(name)
        if pid is None:
            return
        try:
            place = cgroup.group_of(pid, PAYLOAD).folder("memory")
        except OSError:
            return
        if place is not None:
            self._kills.add(name, *place, fresh=fresh)

    def _killed(self, name: str, count: int) -> None:
        self._sink(EngineEvent(engine="lxc", action="oom", name=name, data={"killed": str(count)}))
