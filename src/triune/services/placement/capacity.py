"""How many instances of each engine fit a host, alone and mixed, which limit binds first, and the risk of overcommit.

Every limit is a line: `most` of it, so much for each instance of an engine, and so much more for the first one of it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from triune.domain.errors import Invalid
from triune.domain.workload import Workload
from triune.host.ceilings import Ceiling
from triune.services.placement.figures import Figure, Figures

SCHEMA = 1
BUSY = 0.2
UNBOUNDED = 10**6
_RESERVE, _LEAST_RESERVE = 0.05, 512 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What instances may have together: bytes, CPUs, requests a second; None: not known, so it binds nothing."""

    memory: int
    cpus: float
    disk: int | None = None
    iops: float | None = None
    reserve: int = 0
    memory_overcommit: float = 1.0
    cpu_overcommit: float = 1.0
    busy: float = BUSY


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One limit. `each` and `first` by engine; `unit` is bytes, cpus, or a word for what is counted."""

    name: str
    what: str
    most: float
    each: Mapping[str, float]
    first: Mapping[str, float] = field(default_factory=dict)
    unit: str = "count"
    raised: str = ""

    def fits(self, engine: str) -> int:
        """How many of one engine alone; UNBOUNDED where this limit does not count for it."""
        each, left = self.each.get(engine, 0.0), self.most - self.first.get(engine, 0.0)
        if each <= 0:
            return UNBOUNDED
        return max(0, min(UNBOUNDED, math.floor(left / each + 1e-9)))

    def need(self, mix: Mapping[str, float]) -> float:
        """What a mix takes of it."""
        return sum(
            count * self.each.get(engine, 0.0) + self.first.get(engine, 0.0) for engine, count in mix.items() if count
        )

    def times(self, mix: Mapping[str, int]) -> float:
        """How many times a mix fits."""
        each = sum(count * self.each.get(engine, 0.0) for engine, count in mix.items())
        first = sum(self.first.get(engine, 0.0) for engine, count in mix.items() if count)
        return math.inf if each <= 0 else max(0.0, (self.most - first) / each)


def reserve_of(memory: int) -> int:
    """What the host itself keeps, where nothing else is said."""
    return max(_LEAST_RESERVE, int(memory * _RESERVE))


def lines(
    known: Figures, budget: Budget, ceilings: Sequence[Ceiling], workload: Workload | None = None
) -> tuple[Line, ...]:
    """All limits that count. Raises Invalid where the host's own share leaves nothing."""
    room = (budget.memory - budget.reserve) * budget.memory_overcommit
    if room <= 0:
        raise Invalid(
            "impossible_budget",
            "the memory kept for the host itself leaves nothing for instances",
            hint="Give more --memory, or less --reserve.",
        )
    found = [
        Line(
            name="memory",
            what="memory",
            most=room,
            unit="bytes",
            each={name: float(memory_of(figure, workload)) for name, figure in known.engines.items()},
            first={name: float(figure.memory_first) for name, figure in known.engines.items()},
        )
    ]
    said = workload["cpus"] if workload is not None else None
    cpu = {name: max(figure.cpu, said or 0.0) for name, figure in known.engines.items()}
    found.append(Line(name="cpus", what="CPU time", most=budget.cpus * budget.cpu_overcommit, unit="cpus", each=cpu))
    if budget.disk is not None:
        own = (workload["disk"] or 0) if workload is not None else 0
        disk = {name: float(figure.disk_each + own) for name, figure in known.engines.items()}
        found.append(Line(name="disk", what="disk", most=budget.disk, unit="bytes", each=disk))
    if budget.iops is not None:
        rate = known.requests[workload["io"] if workload is not None else "light"]
        found.append(
            Line(name="iops", what="disk requests a second", most=budget.iops, each=dict.fromkeys(known.engines, rate))
        )
    return (*found, *(_line(ceiling, known) for ceiling in ceilings))


def memory_of(figure: Figure, workload: Workload | None) -> int:
    """What one more instance costs: its own memory on top of the engine's where a workload says how much."""
    if workload is None or workload["memory"] is None:
        return figure.memory_each
    return figure.memory_idle + int(workload["memory"])


def _line(ceiling: Ceiling, known: Figures) -> Line:
    each: dict[str, float] = {}
    for name, figure in known.engines.items():
        by = {"pids": figure.threads, "threads": figure.threads, "files": figure.files, "inotify": figure.inotify}
        each[name] = float(by.get(ceiling.name, 1.0))
    return Line(name=ceiling.name, what=ceiling.what, most=ceiling.left, each=each, raised=ceiling.raised)


def alone(found: Sequence[Line], engine: str) -> dict[str, Any]:
    """How many of one engine fit, and what binds: `{engine, fits, bound_by, limits}`, the tightest limit first."""
    limits = sorted(
        (
            {"name": line.name, "what": line.what, "most": line.most, "each": line.each.get(engine, 0.0),
             "unit": line.unit, "fits": line.fits(engine), "raised": line.raised}
            for line in found
            if line.each.get(engine, 0.0) > 0
        ),
        key=lambda limit: int(str(limit["fits"])),
    )  # fmt: skip
    return {"engine": engine, "fits": limits[0]["fits"], "bound_by": limits[0]["name"], "limits": limits}


def mixed(found: Sequence[Line], mix: Mapping[str, int]) -> dict[str, Any]:
    """Whether a mix fits, and how many times: `{asked, fits, times, bound_by, needs}`."""
    tightest = min(found, key=lambda line: line.times(mix))
    times = tightest.times(mix)
    needs = [
        {"name": line.name, "what": line.what, "unit": line.unit, "needed": line.need(mix), "most": line.most,
         "share": round(line.need(mix) / line.most, 4) if line.most else None}
        for line in found
        if line.need(mix) > 0
    ]  # fmt: skip
    return {
        "asked": dict(mix),
        "fits": all(line.need(mix) <= line.most for line in found),
        "times": round(min(times, float(UNBOUNDED)), 3),
        "bound_by": tightest.name,
        "needs": sorted(needs, key=lambda need: -(float(str(need["share"])) if need["share"] is not None else 0.0)),
    }


def most_of(found: Sequence[Line], engine: str, beside: Mapping[str, float]) -> float:
    """How many of an engine fit beside a given mix of others; below 0 where the others alone do not fit."""
    best = float(UNBOUNDED)
    for line in found:
        left, each = line.most - line.need(beside), line.each.get(engine, 0.0)
        if left < 0:
            return -1.0
        if each > 0:
            best = min(best, max(0.0, (left - line.first.get(engine, 0.0)) / each))
    return best


def risk(
    budget: Budget, known: Figures, workload: Workload | None, mix: Mapping[str, int]
) -> dict[str, dict[str, float | None]]:
    """The share of time in which a mix asks for more than there is, if each instance is busy `busy` of its time, and
    independently of the others; None where the workload does not say what it takes."""
    cpus = workload["cpus"] if workload is not None else None
    own = workload["memory"] if workload is not None else None
    count = sum(mix.values())
    idle = sum(
        number * (known.engines[name].memory_idle if own else memory_of(known.engines[name], workload))
        for name, number in mix.items()
    )
    have = budget.memory - budget.reserve
    return {
        "cpu": {
            "overcommit": budget.cpu_overcommit,
            "asked": round(count * (cpus or 0.0), 3),
            "have": budget.cpus,
            "probability": None if cpus is None else _above(count, cpus, budget.busy, budget.cpus),
        },
        "memory": {
            "overcommit": budget.memory_overcommit,
            "asked": float(idle + count * (own or 0)),
            "have": float(have),
            "probability": None if own is None else _above(count, float(own), budget.busy, have - idle),
        },
    }


def _above(count: int, each: float, busy: float, most: float) -> float:
    """The chance that so many, each asking `each` with chance `busy` or else nothing, ask more than `most`."""
    if count * each <= most:
        return 0.0
    if most < 0:
        return 1.0
    free = math.floor(most / each + 1e-9)
    if count <= 2000:
        total = 0.0
        for number in range(free + 1, count + 1):
            total += math.exp(
                math.lgamma(count + 1) - math.lgamma(number + 1) - math.lgamma(count - number + 1)
                + (number * math.log(busy) if busy else (0.0 if not number else -math.inf))
                + ((count - number) * math.log1p(-busy) if busy < 1 else (0.0 if number == count else -math.inf))
            )  # fmt: skip
        return round(min(1.0, total), 6)
    deviation = math.sqrt(count * busy * (1 - busy)) or 1e-9
    return round(0.5 * math.erfc((free + 0.5 - count * busy) / deviation / math.sqrt(2)), 6)
