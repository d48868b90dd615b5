"""Tells of containers that ran out of memory: what the kernel counts, and Docker's word where that can't be read.

Docker's own event `oom` can be lost on its way through the shim and containerd (containerd #8893), comes up to dozens
of times for one process under cgroup v1, and has no number.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from triune.domain.errors import TriuneError
from triune.engines.docker.client import DockerClient
from triune.engines.docker.containers import is_aside
from triune.engines.docker.counters import group_of
from triune.engines.docker.inventory import name_of
from triune.host.oom import OomWatch

_SAME_KILL = 5.0
_SAME_WORD = 1.0

Tell = Callable[[str, str, int | None], None]
"""(id, name, processes killed, or None where only Docker told)"""


class Kills:
    """What the kernel kills in running containers for want of memory, each told once."""

    def __init__(self, client: DockerClient, tell: Tell) -> None:
        self._client = client
        self._tell = tell
        self._lock = threading.Lock()
        self._names: dict[str, str] = {}  # of those that are watched, by id
        self._counted: dict[str, float] = {}
        self._heard: dict[str, float] = {}
        self._watch = OomWatch(self._killed)

    def close(self) -> None:
        """Stop watching."""
        self._watch.close()

    def refresh(self) -> None:
        """Watch what runs, from now on. Raises what the engine raises."""
        entries = [entry for entry in self._client.read(lambda api: api.containers()) if entry.get("Names")]
        running = {str(entry["Id"]): name_of(entry) for entry in entries if not is_aside(name_of(entry))}
        with self._lock:
            gone, new = self._names.keys() - running.keys(), running.keys() - self._names.keys()
        for container in gone:
            self.ended(container)
        for container in new:
            self._add(container, running[container], fresh=False)

    def started(self, container: str, name: str) -> None:
        """Watch it from its beginning."""
        self._add(container, name, fresh=True)

    def renamed(self, container: str, name: str) -> None:
        """It is told of by another name."""
        with self._lock:
            if container in self._names:
                self._names[container] = name

    def ended(self, container: str) -> None:
        """Forget it, after a last look."""
        self._watch.remove(container)
        with self._lock:
            for known in (self._names, self._counted, self._heard):
                known.pop(container, None)

    def heard(self, container: str, name: str) -> None:
        """Docker tells of it: news only where the kernel's count says nothing."""
        self._watch.look(container)
        now = time.monotonic()
        with self._lock:
            counted = now - self._counted.get(container, -_SAME_KILL) < _SAME_KILL
            again = now - self._heard.get(container, -_SAME_WORD) < _SAME_WORD
            if not counted:
                self._heard[container] = now
        if not counted and not again:
            self._tell(container, name, None)

    def _killed(self, container: str, count: int) -> None:
        now = time.monotonic()
        with self._lock:
            told = now - self._heard.pop(container, -_SAME_KILL) < _SAME_KILL
            self._counted[container] = now
            name = self._names.get(container, "")
        if not told:
            self._tell(container, name, count)

    def _add(self, container: str, name: str, *, fresh: bool) -> None:
        try:
            found = self._client.read(lambda api: api.inspect_container(container))
            group = group_of(int(found["State"].get("Pid") or 0), container)
        except (TriuneError, OSError):
            return  # it has ended, or the engine has
        place = group.folder("memory") if group else None
        if place is not None:
            with self._lock:
                self._names[container] = name
            self._watch.add(container, *place, fresh=fresh)
