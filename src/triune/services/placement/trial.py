"""Trials on the real host: what an instance costs (`measure`), and whether as many fit as was said (`fill`).

What is started has names of this process and is removed whatever happens; `sweep` removes what a killed trial left.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from triune.domain.errors import TriuneError
from triune.host.footprint import Footprint, measure
from triune.services.placement.figures import EMULATED, MEASURED, Figure

PREFIX = "density"
_SETTLE = 2.0
_IDLE = 3.0
_KEEP_FREE = 0.1
_EACH, _SOMETIMES = (
    50,
    10,
)  # measured after each start, later after every tenth: reading so much of /proc takes its time
_NAME = re.compile(rf"{PREFIX}-(\d+)-\d+")

Say = Callable[[str], None]


class Starter(Protocol):
    """Starts and removes instances of this host."""

    def start(self, name: str, engine: str) -> None:
        """Launch it and wait until it runs and is ready. Raises TriuneError."""

    def remove(self, name: str) -> None:
        """Remove it, running or half-made; gone: succeed. Raises TriuneError."""

    def names(self) -> Sequence[str]:
        """Of all instances."""

    def facts(self, name: str) -> Mapping[str, Any]:
        """`accelerated`, `disk` (bytes) and `cpu_time` (seconds) of one."""


def sweep(starter: Starter) -> None:
    """Remove what trials left whose process is gone."""
    for name in starter.names():
        match = _NAME.fullmatch(name)
        if match and not Path(f"/proc/{match[1]}").exists():
            starter.remove(name)


class Trial:
    """Instances that live as long as a `with`."""

    def __init__(self, starter: Starter, say: Say) -> None:
        self.starter, self.say = starter, say
        self.names: list[str] = []
        self.engine: dict[str, str] = {}

    def __enter__(self) -> Trial:
        sweep(self.starter)
        return self

    def __exit__(self, *_: object) -> None:
        """Remove all; an interrupt waits until that is done. Raises the first error after trying each."""
        errors: list[TriuneError] = []
        with _uninterrupted():
            for name in reversed(self.names):
                self.say(f"removing {name}")
                try:
                    self.starter.remove(name)
                except TriuneError as error:
                    errors.append(error)
        if errors:
            raise errors[0]

    def start(self, engine: str) -> str:
        """One more of an engine; its name. Raises TriuneError, then it is removed with the others."""
        name = f"{PREFIX}-{os.getpid()}-{len(self.names)}"
        self.names.append(name)
        self.engine[name] = engine
        self.say(f"starting {name} ({engine})")
        self.starter.start(name, engine)
        return name


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    kept = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


def figure(starter: Starter, engine: str, count: int, say: Say) -> Figure:
    """What an instance of an engine costs here: the first, and the mean of the `count` - 1 further ones."""
    with Trial(starter, say) as trial:
        trial.start(engine)
        time.sleep(_SETTLE)
        one = measure(trial.names)
        for _ in range(count - 1):
            trial.start(engine)
        time.sleep(_SETTLE)
        say(f"measuring {count} idle instances ({engine})")
        before = _cpu_time(trial)
        begun = time.monotonic()
        time.sleep(_IDLE)
        idle = (_cpu_time(trial) - before) / (time.monotonic() - begun) / count
        every = measure(trial.names)
        facts = starter.facts(trial.names[0])
    each = _each(one, every, count)
    return Figure(
        engine=engine,
        memory_each=each,
        memory_idle=each,
        memory_first=max(0, one.memory - each) if count > 1 else 0,
        disk_each=int(facts["disk"] or 0),
        cpu=round(max(0.0, idle), 5),
        threads=round(every.threads / count, 2),
        files=round(every.files / count, 2),
        inotify=round(every.inotify / count, 2),
        origin=EMULATED if facts["accelerated"] is False else MEASURED,
        source=f"PSS and kernel memory of {count} idle instances on this host",
    )


def _each(one: Footprint, every: Footprint, count: int) -> int:
    return max(1, (every.memory - one.memory) // (count - 1) if count > 1 else every.memory)


def _cpu_time(trial: Trial) -> float:
    return sum(float(trial.starter.facts(name)["cpu_time"] or 0.0) for name in trial.names)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """When a fill ends: instances, seconds, bytes that they take together."""

    most: int
    seconds: float
    memory: int


@dataclass(slots=True)
class Filled:
    """What a fill found; `ended` is count, time, memory, host-memory or error."""

    started: dict[str, int] = field(default_factory=dict)
    ended: str = ""
    error: str = ""
    memory: int = 0
    seconds: float = 0.0

    @property
    def count(self) -> int:
        """How many ran."""
        return sum(self.started.values())


def fill(starter: Starter, order: Sequence[str], bounds: Bounds, say: Say, available: Callable[[], int]) -> Filled:
    """Start instances of the engines in `order`, again and again, until a bound is met; measure; remove all.

    `available`: bytes the host could still give; a tenth of its memory is never touched.
    """
    found = Filled()
    floor, begun = int(_KEEP_FREE * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")), time.monotonic()
    with Trial(starter, say) as trial:
        while not found.ended:
            engine = order[len(trial.names) % len(order)]
            try:
                trial.start(engine)
            except TriuneError as error:
                found.ended, found.error = "error", f"{error.code}: {error.message}"
                break
            found.started[engine] = found.started.get(engine, 0) + 1
            if found.count <= _EACH or found.count % _SOMETIMES == 0:
                found.memory = measure(trial.names).memory
            found.ended = _ended(found, bounds, time.monotonic() - begun, available() < floor)
        time.sleep(_SETTLE)
        found.memory = measure(trial.names[: found.count]).memory
        found.seconds = time.monotonic() - begun
    return found


def _ended(found: Filled, bounds: Bounds, seconds: float, low: bool) -> str:
    if low:
        return "host-memory"
    if found.memory >= bounds.memory:
        return "memory"
    if found.count >= bounds.most:
        return "count"
    return "time" if seconds >= bounds.seconds else ""
