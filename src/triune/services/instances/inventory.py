"""Reading: every engine at once, none of them able to hold the others up."""

from __future__ import annotations

import difflib
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from triune.domain.errors import Conflict, NotFound, TriuneError, Unreachable
from triune.domain.instance import Instance, InstanceDetail, Origin, Stats
from triune.engines.base import Engine
from triune.store import Store

T = TypeVar("T")

PATIENCE = 2.0
INTENT = "instances/"


@dataclass(frozen=True, slots=True)
class EngineProblem:
    """An engine that could not be read, and why."""

    engine: str
    error: TriuneError


@dataclass(frozen=True, slots=True)
class Listing:
    """All instances that could be read, by name, and the engines that could not."""

    instances: Sequence[Instance]
    problems: Sequence[EngineProblem]


@dataclass(frozen=True, slots=True)
class Counted:
    """The counters of one running instance."""

    name: str
    engine: str
    stats: Stats


class Inventory:
    """What is on this host, read from the engines each time."""

    def __init__(self, engines: Mapping[str, Engine], store: Store) -> None:
        self._engines = engines
        self._store = store
        # A hung engine may keep its thread; it gets no second one (see _ask).
        self._pool = ThreadPoolExecutor(3 * len(engines) + 1, thread_name_prefix="inventory")
        self._stuck: dict[str, Future[object]] = {}
        self._lock = threading.Lock()

    def list(self) -> Listing:
        """Every instance of every engine, sorted by name, within about two seconds."""
        answers, problems = self._ask({name: engine.list for name, engine in self._engines.items()})
        found = [instance for rows in answers.values() for instance in rows]
        return Listing(sorted(found, key=lambda instance: (instance.name, instance.engine)), problems)

    def managed(self) -> Sequence[str]:
        """The names of all instances that Triune made, also of those on engines that do not answer now."""
        listing = self.list()
        away = {problem.engine for problem in listing.problems}
        names = {instance.name for instance in listing.instances if instance.origin is Origin.MANAGED}
        names |= {entry.key.removeprefix(INTENT) for entry in self._store.scan(INTENT) if entry.value["engine"] in away}
        return sorted(names)

    def stats(self) -> Sequence[Counted]:
        """Counters of every running instance, by name."""
        answers, _ = self._ask({name: engine.stats for name, engine in self._engines.items()})
        found = [Counted(name, engine, stats) for engine, rows in answers.items() for name, stats in rows.items()]
        return sorted(found, key=lambda counted: (counted.name, counted.engine))

    def get(self, name: str) -> InstanceDetail:
        """One instance with everything known of it. Raises NotFound or Unreachable."""
        return self.engine_of(name).get(name)

    def engine_of(self, name: str) -> Engine:
        """The engine that has this instance.

        Raises NotFound("instance_not_found") with the nearest names, or Unreachable when it may be on an engine
        that does not answer.
        """
        entry = self._store.get(INTENT + name)
        if entry is not None:
            engine = self._engines.get(entry.value["engine"])
            # What was removed while nobody listened must not hide another engine's instance of that name.
            if engine is not None and _may_have(engine, name):
                return engine
        listing = self.list()
        having = [instance.engine for instance in listing.instances if instance.name == name]
        if len(having) > 1:
            raise Conflict(
                "name_ambiguous",
                f"there are several instances {name!r}: {', '.join(having)}",
                hint="Rename all but one with their engines' own tools.",
                engines=having,
            )
        if not having:
            raise _not_found(name, listing)
        return self._engines[having[0]]

    def require_free(self, name: str) -> Sequence[EngineProblem]:
        """Raise Conflict("instance_exists") where an engine has it, or had it when it last answered.

        Returns the engines that do not answer.
        """
        calls = {engine: partial(_row, of, name) for engine, of in self._engines.items()}
        answers, problems = self._ask(calls)
        for instance in answers.values():
            if instance is not None:
                raise _exists(name, instance.engine, instance.state.value)
        entry = self._store.get(INTENT + name)
        if entry is not None and entry.value["engine"] in {problem.engine for problem in problems}:
            raise _exists(name, entry.value["engine"], "which does not answer now")
        return problems

    def _ask(self, calls: Mapping[str, Callable[[], T]]) -> tuple[dict[str, T], Sequence[EngineProblem]]:
        futures: dict[str, Future[T]] = {}
        problems: list[EngineProblem] = []
        for name, call in calls.items():
            with self._lock:
                stuck = self._stuck.get(name)
                if stuck is not None and not stuck.done():
                    problems.append(EngineProblem(name, _silent(name)))
                    continue
                self._stuck.pop(name, None)
            futures[name] = self._pool.submit(call)
        wait(futures.values(), timeout=PATIENCE)
        answers: dict[str, T] = {}
        for name, future in futures.items():
            if not future.done():
                with self._lock:
                    self._stuck[name] = future  # type: ignore[assignment]
                problems.append(EngineProblem(name, _silent(name)))
                continue
            error = future.exception()
            if error is None:
                answers[name] = future.result()
            elif isinstance(error, TriuneError):
                problems.append(EngineProblem(name, error))
            else:
                raise error
        return answers, problems

    def close(self) -> None:
        """Free the threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def _row(engine: Engine, name: str) -> Instance | None:
    try:
        return engine.row(name)
    except NotFound:
        return None


def _may_have(engine: Engine, name: str) -> bool:
    try:
        return _row(engine, name) is not None
    except TriuneError:  # it says itself what is wrong, when it is asked for the instance
        return True


def _silent(engine: str) -> Unreachable:
    return Unreachable(
        "engine_unreachable",
        f"{engine} did not answer within {PATIENCE:g} seconds",
        hint="See what is wrong with it: triune doctor",
        engine=engine,
    )


def _exists(name: str, engine: str, state: str) -> Conflict:
    return Conflict(
        "instance_exists",
        f"there is an instance {name!r} already ({engine}, {state})",
        hint=f"Choose another name, or remove it: triune rm {name}",
        engine=engine,
    )


def _not_found(name: str, listing: Listing) -> TriuneError:
    if listing.problems:
        away = ", ".join(problem.engine for problem in listing.problems)
        return Unreachable(
            "engine_unreachable",
            f"there is no instance {name!r} on the engines that answer, and {away} can't be reached",
            hint="See what is wrong: triune doctor",
        )
    near = nearest(name, (instance.name for instance in listing.instances))
    return NotFound(
        "instance_not_found",
        f"there is no instance {name!r}",
        hint=f"Did you mean {near!r}?" if near else "See all: triune list",
        name=name,
    )


def nearest(name: str, names: Iterable[str]) -> str | None:
    """The most similar of some names, if any is near enough."""
    return next(iter(difflib.get_close_matches(name, list(names), 1)), None)
