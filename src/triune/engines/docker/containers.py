"""Finds containers by their exact name, and reads Docker's descriptions of them.

Docker takes the beginning of an id wherever it takes a name, so `rm ab` can hit a container called otherwise. Every
request here therefore first learns the id that belongs to exactly that name, and then uses the id.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from triune.domain.errors import Conflict, NotFound
from triune.domain.instance import State
from triune.domain.names import single_line
from triune.engines.docker.client import DockerClient

# Docker's own rule for names (moby daemon/names): wider than ours, for adopted containers.
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*", re.ASCII)
_FRACTION = re.compile(r"\.(\d{1,6})\d*")

Described = dict[str, Any]

# Of a container that is being made anew, while both are there: in nobody's list, and in no event.
NEW = ".triune-new"
OLD = ".triune-old"


def is_aside(name: str) -> bool:
    """Whether a name is one of a container that is being made anew."""
    return name.endswith((NEW, OLD))


def not_found(name: str) -> NotFound:
    """The error for a name no container has."""
    return NotFound(
        "instance_not_found",
        f"there is no app container {name!r}",
        hint="See what there is with: triune list",
        name=name,
    )


def not_running(name: str, state: State) -> Conflict:
    """The error for an action that needs a running container."""
    if state is State.PAUSED:
        return Conflict(
            "instance_paused", f"{name} is paused", hint=f"Let it go on with: triune resume {name}", name=name
        )
    return Conflict(
        "instance_not_running", f"{name} is not running", hint=f"Start it with: triune start {name}", name=name
    )


def describe(client: DockerClient, name: str) -> Described:
    """Return Docker's "inspect" of the container with exactly this name. Raises NotFound, Unreachable."""
    if not _NAME.fullmatch(single_line(name, "the name")):
        raise not_found(name)
    missing = not_found(name)
    found: Described = client.read(lambda api: api.inspect_container(name), missing=missing)
    if found.get("Name") != f"/{name}":
        raise missing
    return found


def state_of(word: str) -> State:
    """Our state for Docker's word (`State` of a list entry, `State.Status` of an inspection)."""
    return {
        "running": State.RUNNING,
        "restarting": State.ERROR,
        "paused": State.PAUSED,
        "dead": State.ERROR,
        "removing": State.ERROR,
    }.get(word, State.STOPPED)


def error_of(word: str, text: str = "") -> str | None:
    """Why `state_of` says error; `text` is what Docker says of it."""
    return {
        "restarting": "it ends again and again, and Docker restarts it",
        "dead": "Docker could not remove it completely" + (f": {text}" if text else ""),
        "removing": "it is being removed",
    }.get(word)


def timestamp(text: str | None) -> datetime | None:
    """Parse Docker's RFC 3339 time with nanoseconds; its zero time is None."""
    if not text or text.startswith("0001-"):
        return None
    try:
        moment = datetime.fromisoformat(_FRACTION.sub(lambda match: f".{match.group(1):0<6}", text))
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def addresses(networks: Mapping[str, Mapping[str, Any]] | None) -> tuple[str, ...]:
    """The addresses in `NetworkSettings.Networks`, IPv4 before IPv6 for each."""
    found: list[str] = []
    for endpoint in (networks or {}).values():
        found += [str(endpoint[key]) for key in ("IPAddress", "GlobalIPv6Address") if (endpoint or {}).get(key)]
    return tuple(found)
