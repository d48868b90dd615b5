"""The list of containers as rows, and which limits each has.

Docker's list has no limits. Ours are in a label from creation; others are asked for once per container. Both are
asked again after an event says that somebody changed them.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from triune.domain.errors import NotFound
from triune.domain.instance import Instance, Origin
from triune.domain.names import single_line
from triune.engines.docker import containers, limit_config, spec
from triune.engines.docker.client import DockerClient

ENGINE = "docker"
_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class Limits:
    """CPUs, and memory in bytes; None where unlimited."""

    cpus: float | None = None
    memory: int | None = None


class Inventory:
    """Rows of the engine's containers."""

    def __init__(self, client: DockerClient) -> None:
        self._client = client
        self._lock = threading.Lock()
        self._limits: dict[str, Limits] = {}
        self._changed: set[str] = set()

    def rows(self) -> list[Instance]:
        """Return all containers, in one request where every limit is known."""
        listed = [entry for entry in self._client.read(lambda api: api.containers(all=True)) if entry.get("Names")]
        entries = [entry for entry in listed if not containers.is_aside(name_of(entry))]
        limits = self._limits_of(entries)
        with self._lock:
            self._limits = {key: value for key, value in self._limits.items() if key in limits}
            self._changed &= limits.keys()
        return [row(entry, limits.get(str(entry["Id"]), Limits())) for entry in entries]

    def row(self, name: str) -> Instance:
        """One container. Raises NotFound."""
        # The engine takes a pattern, and compares it with names as it writes them.
        pattern = f"^/{re.escape(single_line(name, 'the name'))}$"
        listed = self._client.read(lambda api: api.containers(all=True, filters={"name": pattern}))
        for entry in listed:
            if entry.get("Names") and name_of(entry) == name and not containers.is_aside(name):
                return row(entry, self._limits_of([entry]).get(str(entry["Id"]), Limits()))
        raise containers.not_found(name)

    def note(self, found: Mapping[str, Any]) -> Limits:
        """Remember the limits an inspection told."""
        limits = limits_of(found.get("HostConfig") or {})
        with self._lock:
            self._limits[str(found["Id"])] = limits
            self._changed.discard(str(found["Id"]))
        return limits

    def changed(self, container: str) -> None:
        """Somebody changed this container's limits: ask again at the next list."""
        with self._lock:
            self._changed.add(container)

    def refresh(self, stop: Callable[[], bool]) -> None:
        """Ask for every container's limits anew, one after the other: events may have been missed."""
        for entry in self._client.read(lambda api: api.containers(all=True)):
            if stop():
                return
            found = self._inspect(str(entry["Id"]))
            if found is not None:
                self.note(found)

    def _limits_of(self, entries: Collection[Mapping[str, Any]]) -> dict[str, Limits]:
        present = {str(entry["Id"]) for entry in entries}
        unknown: list[str] = []
        with self._lock:
            for entry in entries:
                container = str(entry["Id"])
                if container in self._changed:
                    unknown.append(container)
                elif container not in self._limits:
                    labelled = _labelled(entry.get("Labels") or {})
                    if labelled is None:
                        unknown.append(container)
                    else:
                        self._limits[container] = labelled
        if unknown:
            with ThreadPoolExecutor(min(_AT_ONCE, len(unknown)), "docker-limits") as pool:
                for one in pool.map(self._inspect, unknown):
                    if one is not None:
                        self.note(one)
        with self._lock:
            return {key: value for key, value in self._limits.items() if key in present}

    def _inspect(self, container: str) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = self._client.read(lambda api: api.inspect_container(container))
        except NotFound:
            return None
        return found


def limits_of(host: Mapping[str, Any]) -> Limits:
    """The limits in a HostConfig, however they were given."""
    found = limit_config.limits_of(host, weight=False)
    return Limits(found.cpus, found.memory)


def _labelled(labels: Mapping[str, str]) -> Limits | None:
    """The limits in our labels, or None where they are not ours or were tampered with."""
    if labels.get(spec.MANAGED) != "1":
        return None
    try:
        cpus = float(labels[spec.CPUS]) if spec.CPUS in labels else None
        memory = int(labels[spec.MEMORY]) if spec.MEMORY in labels else None
    except ValueError:
        return None
    return Limits(cpus, memory)


def name_of(entry: Mapping[str, Any]) -> str:
    """The container's own name; `Names` also holds `/other/alias` for links of others to it."""
    names = [str(name) for name in entry["Names"]]
    own = next((name for name in names if name.count("/") == 1), names[0])
    return own.rpartition("/")[2]


def row(entry: Mapping[str, Any], limits: Limits) -> Instance:
    """One entry of Docker's list as a row."""
    labels: Mapping[str, str] = entry.get("Labels") or {}
    managed = labels.get(spec.MANAGED) == "1"
    word = str(entry.get("State", ""))
    return Instance(
        name=name_of(entry),
        engine=ENGINE,
        state=containers.state_of(word),
        origin=Origin.MANAGED if managed else Origin.ADOPTED,
        image=labels.get(spec.IMAGE) if managed else str(entry.get("Image") or "") or None,
        addresses=containers.addresses((entry.get("NetworkSettings") or {}).get("Networks")),
        created=(containers.timestamp(labels.get(spec.CREATED)) if managed else None)
        or datetime.fromtimestamp(int(entry.get("Created") or 0), UTC),
        cpus=limits.cpus,
        memory_bytes=limits.memory,
        error=containers.error_of(word),
    )
