"""Reading and changing limits. The engines hold them; what they can't hold is kept here, and set after every start."""

from __future__ import annotations

import logging
import threading
from collections import defaultdict
from collections.abc import Collection, Mapping
from typing import Any

from triune.domain.errors import Conflict, Invalid, NotFound, TriuneError, Unsupported
from triune.domain.instance import HOST_NETWORK, State
from triune.domain.limits import FIELDS, NETWORK, Limits, Value, format_value
from triune.engines.base import Engine
from triune.services.limits import policy
from triune.services.limits.shaper import Shaper
from triune.services.operations import Operations, Task
from triune.store import Delete, Put, Store

log = logging.getLogger(__name__)

_KEPT = "limits/"
_LAUNCHED = frozenset({"cpus", "memory"})  # every engine gives these at launch, facet or not

Changes = Mapping[str, Value | None]


class InstanceLimits:
    """Limits of all instances of all engines.

    Kept in the store, by instance: those of the network, and those an engine's technology forgets (`volatile`); None
    for one of these means that it was lifted.
    """

    def __init__(self, engines: Mapping[str, Engine], operations: Operations, store: Store, shaper: Shaper) -> None:
        self._engines = engines
        self._store = store
        self._shaper = shaper
        self._locks: defaultdict[str, threading.RLock] = defaultdict(threading.RLock)
        operations.handlers["limits"] = self._put_back

    # Reading

    def read(self, engine: Engine, name: str) -> Limits:
        """What is in force, or will be at the next start. Raises NotFound."""
        return self._native(engine, name).changed(self._kept(engine, name))

    def _native(self, engine: Engine, name: str) -> Limits:
        if engine.limiting is not None:
            return engine.limiting.read(name)
        row = engine.get(name).instance
        return Limits(cpus=row.cpus, memory=row.memory_bytes)

    def _kept(self, engine: Engine, name: str) -> dict[str, Value | None]:
        entry = self._store.get(_KEPT + name)
        if entry is None or entry.value["engine"] != engine.name:
            return {}
        return {key: value for key, value in entry.value["limits"].items() if key in FIELDS}

    # Checking

    def require(self, engine: Engine, limits: Limits, keys: Collection[str], *, networked: bool = True) -> None:
        """Raise Invalid for what this host can't give, Unsupported for keys that can't be limited here."""
        policy.check(limits)
        asked = sorted(key for key in keys if limits.get(key) is not None)
        for key in asked:
            if reason := self._why_not(engine, key):
                raise Unsupported(
                    "limit_unsupported",
                    f"{engine.title} can't limit {key} here: {reason}",
                    hint=f"Leave {key} out. See what each engine can: triune doctor",
                    key=key,
                )
        if not networked and NETWORK & set(asked):
            raise Invalid("limit_without_network", "without a network there is no traffic to limit", hint=_NO_CARD)

    def reasons(self, engine: Engine, missing: Mapping[str, str]) -> dict[str, str]:
        """By key, why it can't be limited in this engine's instances; "" where it can. `missing` is its probe's."""
        return {key: self._why_not(engine, key, missing) for key in FIELDS}

    def _why_not(self, engine: Engine, key: str, missing: Mapping[str, str] | None = None) -> str:
        if key in NETWORK and (why := self._shaper.why_not()):
            return why
        if engine.limiting is not None and key in engine.limiting.keys:
            return ""
        if engine.limiting is None and key in _LAUNCHED:
            return ""
        missing = engine.probe().missing if missing is None else missing
        if key in NETWORK:
            return missing.get(f"limiting.{key}", "")
        return missing.get(f"limiting.{key}") or missing.get("limiting") or "this engine has no such limit"

    def require_change(self, engine: Engine, name: str, changes: Changes) -> None:
        """The same for a change of an existing instance. Raises NotFound too."""
        if not changes:
            raise Invalid("nothing_to_change", f"no limit of {name} was named", hint="Name one, like memory=512MiB.")
        if engine.limiting is None and set(changes) - NETWORK:
            reason = engine.probe().missing.get("limiting", "this engine has no such ability")
            raise Unsupported(
                "facet_missing", f"{engine.title} can't do that here: {reason}", hint="See: triune doctor"
            )
        self.require(engine, Limits().changed(changes), changes)
        if not NETWORK & {key for key, value in changes.items() if value is not None}:
            return
        if all(card.get("network") == HOST_NETWORK for card in engine.get(name).network):
            raise Conflict("no_network_card", f"{name} has no network card, so no traffic to limit", hint=_NO_CARD)

    # Changing

    def change(self, engine: Engine, name: str, changes: Changes, task: Task) -> dict[str, Any]:
        """The work of the operation; returns `{limits, now, later}`: all by key, and which keys act when."""
        before, kept = self.read(engine, name), self._kept(engine, name)
        undo: dict[str, Any] = {
            "engine": engine.name,
            "name": name,
            "before": {key: before.get(key) for key in changes},
            "kept": kept,
        }
        task.intend("limits", **undo)
        task.step("limits", f"setting {', '.join(_said(key, value) for key, value in changes.items())} of {name}")
        with self._locks[name]:
            later = self._apply(engine, name, before.changed(changes), frozenset(changes))
        task.keep()
        if engine.get(name).instance.state is State.STOPPED:
            later = frozenset(changes)
        return {
            "limits": self.read(engine, name).by_key(),
            "now": [key for key in FIELDS if key in changes and key not in later],
            "later": [key for key in FIELDS if key in later],
        }

    def _apply(self, engine: Engine, name: str, wanted: Limits, keys: frozenset[str]) -> frozenset[str]:
        """Set these keys in the engine, in the store and on the cards; returns those that need a start."""
        native = keys - NETWORK
        later: frozenset[str] = frozenset()
        if native and engine.limiting is not None:
            later = engine.limiting.apply(name, wanted, native)
        ours = NETWORK | (engine.limiting.volatile if engine.limiting is not None else frozenset())
        if keys & ours:
            self._keep(engine, name, {**self._kept(engine, name), **{key: wanted.get(key) for key in keys & ours}})
        if keys & NETWORK:
            self._shape(engine, name, wanted)
        return later

    def _shape(self, engine: Engine, name: str, wanted: Limits) -> None:
        found = engine.get(name)
        if found.instance.state is State.STOPPED:
            return
        for card in found.network:
            if card.get("interface"):
                self._shaper.shape(str(card["interface"]), wanted.net_in, wanted.net_out)

    def _put_back(self, data: Mapping[str, Any]) -> None:
        """Undo a change that failed, or that a crash cut off: only what differs is touched."""
        engine, name = self._engines[data["engine"]], data["name"]
        try:
            now = self.read(engine, name)
            differing = frozenset(key for key, value in data["before"].items() if now.get(key) != value)
            if differing:
                self._apply(engine, name, now.changed(data["before"]), differing)
        except NotFound:
            self.forget(name)
        else:
            self._keep(engine, name, data["kept"])

    # What lives and dies with the instance

    def launched(self, engine: Engine, name: str, limits: Limits) -> None:
        """It was made with all of these: keep those that its engine won't, before its first start."""
        ours = NETWORK | (engine.limiting.volatile if engine.limiting is not None else frozenset())
        self._keep(engine, name, {key: value for key, value in limits.by_key().items() if key in ours})

    def enforce(self, engine: Engine, name: str) -> None:
        """Set what is kept here, after a start. Raises what the engine or the shaper raises."""
        with self._locks[name]:
            kept = self._kept(engine, name)
            volatile = engine.limiting.volatile & kept.keys() if engine.limiting is not None else frozenset()
            if volatile and engine.limiting is not None:
                engine.limiting.apply(name, engine.limiting.read(name).changed(kept), volatile)
            if NETWORK & kept.keys():
                self._shape(engine, name, Limits().changed(kept))

    def enforce_started(self, engine: Engine, name: str) -> None:
        """The same for an instance that others started: what fails is logged."""
        try:
            self.enforce(engine, name)
        except TriuneError as error:
            log.warning("limits of %s are not in force: %s", name, error)

    def sweep(self) -> None:
        """Clear up behind instances that have stopped or are gone; what fails is tried again the next time."""
        try:
            self._shaper.sweep()
        except TriuneError as error:
            log.warning("limits of network cards that are gone: %s", error)

    def enforce_all(self) -> None:
        """The same for all, when the daemon or an engine has come up."""
        self.sweep()
        for entry in self._store.scan(_KEPT):
            if (engine := self._engines.get(entry.value["engine"])) is not None:
                self.enforce_started(engine, entry.key.removeprefix(_KEPT))

    def rename(self, name: str, new: str) -> None:
        """They move with their instance."""
        if (entry := self._store.get(_KEPT + name)) is not None:
            self._store.commit([Delete(_KEPT + name), Put(_KEPT + new, entry.value)])

    def forget(self, name: str) -> None:
        """They go with their instance."""
        self._store.commit([Delete(_KEPT + name)])
        self._locks.pop(name, None)

    def _keep(self, engine: Engine, name: str, kept: Changes) -> None:
        # A lifted limit of the network is none; one that the engine may have given at launch is to be lifted each time.
        worth = {key: value for key, value in kept.items() if value is not None or key not in NETWORK}
        if worth:
            self._store.commit([Put(_KEPT + name, {"engine": engine.name, "limits": worth})])
        else:
            self._store.commit([Delete(_KEPT + name)])


_NO_CARD = "Leave net.in and net.out out, or give it a network."


def _said(key: str, value: Value | None) -> str:
    return f"{key} {format_value(key, value)}"
