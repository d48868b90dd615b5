"""All containers as rows, fast: folders are listed, configuration is parsed again only when its file changed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from triune.domain.errors import Failed
from triune.domain.instance import Instance, Origin, State
from triune.engines.lxc import mark as marks
from triune.engines.lxc import spec
from triune.engines.lxc.client import Client

_Key = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Recorded:
    """What the files of one container say; it is valid while the files stay the same."""

    limits: spec.Limits
    managed: bool
    image: str | None = None
    created: datetime | None = None
    addresses: tuple[str, ...] = ()
    error: str | None = None


class Inventory:
    """Rows of all containers below a client's path."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._recorded: dict[str, tuple[_Key, Recorded]] = {}

    def list(self) -> Sequence[Instance]:
        """Every container, managed and adopted."""
        found: dict[str, Recorded] = {}
        try:
            entries = list(os.scandir(self._client.path))
        except FileNotFoundError:
            return []
        for entry in entries:
            if (recorded := self._read(entry.name, entry.path)) is not None:
                found[entry.name] = recorded
        for name in self._recorded.keys() - found.keys():
            self._recorded.pop(name, None)
        if not found:
            return []
        active = self._client.active()
        return [self._row(name, recorded, name in active) for name, recorded in found.items()]

    def row(self, name: str) -> Instance:
        """One container. Raises NotFound."""
        folder = self._client.require(name)
        recorded = self._read(name, str(folder))
        if recorded is None:
            # It vanished between two looks: the same error as if it had before.
            self._client.require(name)
            raise Failed("instance_changing", f"{name} is being changed", hint="Try again.")
        return self._row(name, recorded, name in self._client.active())

    def _read(self, name: str, folder: str) -> Recorded | None:
        """None where this is no container: no `config`."""
        try:
            config = os.stat(f"{folder}/config")  # noqa: PTH116 - a thousand of them per list
        except OSError:
            return None
        key: _Key = (config.st_mtime_ns, config.st_size, config.st_ino)
        try:
            mark = os.stat(f"{folder}/{marks.FILE}")  # noqa: PTH116
            key += (mark.st_mtime_ns, mark.st_size, mark.st_ino)
        except OSError:
            pass
        known = self._recorded.get(name)
        if known and known[0] == key:
            return known[1]
        try:
            recorded = _recorded(Path(folder))
        except FileNotFoundError:
            return None
        self._recorded[name] = (key, recorded)
        return recorded

    def _row(self, name: str, recorded: Recorded, active: bool) -> Instance:
        state = self._client.state(name) if active else State.STOPPED
        addresses: tuple[str, ...] = ()
        if state is not State.STOPPED:
            addresses = recorded.addresses if recorded.managed else self._client.addresses(name)
        return Instance(
            name=name,
            engine="lxc",
            state=State.ERROR if recorded.error else state,
            origin=Origin.MANAGED if recorded.managed else Origin.ADOPTED,
            image=recorded.image,
            addresses=addresses,
            created=recorded.created,
            cpus=recorded.limits.cpus,
            memory_bytes=recorded.limits.memory_bytes,
            error=recorded.error,
        )


def _recorded(folder: Path) -> Recorded:
    items = list(spec.parse((folder / "config").read_text(errors="replace")))
    limits = spec.limits(items)
    try:
        mark = marks.read(folder)
    except Failed as error:
        return Recorded(limits, managed=True, error=error.message)
    if mark is None:
        return Recorded(limits, managed=False)
    return Recorded(
        limits,
        managed=True,
        image=mark.image,
        created=mark.created,
        addresses=tuple(card.address for card in mark.cards),
    )
