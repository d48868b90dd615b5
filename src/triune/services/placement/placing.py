"""The placement of a fleet's instances: engine and host of each, and how far that is from the bound."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from triune.services.placement import improving
from triune.services.placement.bound import lower_bound
from triune.services.placement.fleet import MILLI, RESOURCES, Hosts, amounts
from triune.services.placement.greedy import Greedy
from triune.services.placement.problem import NOWHERE, Floats, Ints, Places
from triune.services.placement.rows import Rows
from triune.services.placement.units import Units, gather

SCHEMA = 1
EFFORT = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """`host` and `engine` number hosts and engines for each instance, -1: none, then `why` says why not."""

    instances: Sequence[str]
    hosts: Hosts
    engines: Sequence[str]
    host: Ints
    engine: Ints
    why: Mapping[int, str]
    used: int
    bound: int
    seconds: float
    demand: Floats
    zones: int

    @property
    def placed(self) -> int:
        """How many have a host."""
        return int((self.host != NOWHERE).sum())

    @property
    def quality(self) -> float:
        """Bound divided by hosts used: 1 is proven to be the best."""
        return self.bound / self.used if self.used else 1.0

    def summary(self) -> dict[str, Any]:
        """All but the single placements, JSON-safe; see docs/DENSITY.md."""
        return {
            "schema": SCHEMA,
            "instances": len(self.instances),
            "placed": self.placed,
            "hosts": len(self.hosts.names),
            "hosts_used": self.used,
            "lower_bound": self.bound,
            "quality": round(self.quality, 4),
            "gap": round(self.used / self.bound - 1.0, 4) if self.bound else 0.0,
            "seconds": round(self.seconds, 3),
            "engines": self._by_engine(),
            "resources": self._by_resource(),
            "unplaced": [{"instance": self.instances[at], "reason": why} for at, why in sorted(self.why.items())],
        }

    def rows(self) -> Iterator[tuple[str, str, str]]:
        """Instance, engine and host of each that has one."""
        names, engines = self.hosts.names, self.engines
        for at, (host, engine) in enumerate(zip(self.host.tolist(), self.engine.tolist(), strict=True)):
            if host != NOWHERE:
                yield self.instances[at], engines[engine], names[host]

    def _by_engine(self) -> dict[str, int]:
        there = self.engine[self.host != NOWHERE]
        counts = np.bincount(there, minlength=len(self.engines)).tolist() if len(there) else [0] * len(self.engines)
        return dict(zip(self.engines, counts, strict=True))

    def _by_resource(self) -> dict[str, Any]:
        """What is taken of the hosts that are used, and what all hosts have."""
        there = self.host != NOWHERE
        hosts = np.unique(self.host[there])
        found = {}
        for at, name in enumerate(RESOURCES):
            scale = MILLI if name == "cpus" else 1.0
            taken = float(self.demand[there, at].sum()) / scale
            have = float(self.hosts.capacity[hosts, at].sum()) / scale
            limited = bool(np.isfinite(have)) and have > 0
            found[name] = {
                "placed": taken,
                "of_used_hosts": have if limited else None,
                "share": round(taken / have, 4) if limited else None,
            }
        return found


def place(hosts: Hosts, rows: Rows, extra: Mapping[str, int], effort: float = EFFORT) -> Placement:
    """Place them; `extra` is memory that an engine costs on top of what its instance asks, in bytes.

    Works at most `effort` seconds on what is only better. Raises Invalid for contradictory demands.
    """
    begun = time.monotonic()
    demand = amounts(rows)
    units = gather(hosts, rows, demand, extra)
    first = _second_choices(units, improving.start(units.problem))
    problem, fitting = units.problem, np.flatnonzero(units.able)
    bound = lower_bound(problem, fitting)
    better = improving.improve(first, bound, max(0.0, effort)) if len(fitting) else first
    host, engine = units.instances(better.host)
    if (better.host[fitting] == NOWHERE).any():
        bound = lower_bound(problem, np.flatnonzero(better.host != NOWHERE))
    return Placement(
        instances=rows.columns["name"],
        hosts=hosts,
        engines=units.engines,
        host=host,
        engine=engine,
        why=_reasons(units, better.host),
        used=len(better.used()),
        bound=bound,
        seconds=time.monotonic() - begun,
        demand=demand,
        zones=units.zones,
    )


def _second_choices(units: Units, places: Places) -> Places:
    """Those that found no host with their best engine, on hosts that have another one that can serve them."""
    turned = units.turn(np.flatnonzero((places.host == NOWHERE) & units.able))
    if len(turned):
        places.problem = units.problem
        improving.fill_gaps(places, turned)
        left = turned[places.host[turned] == NOWHERE]
        least = units.problem.demand[turned].min(axis=0)
        hosts = np.flatnonzero((places.free >= least).all(axis=1))
        if len(left) and len(hosts):
            Greedy(places, left, hosts, np.random.default_rng(0)).run()
    return places


def _reasons(units: Units, host: Ints) -> dict[int, str]:
    """Why each instance without a host has none."""
    found = {}
    missing = host == NOWHERE
    for at in np.flatnonzero(missing[units.of_instance]).tolist():
        unit = int(units.of_instance[at])
        found[at] = units.why.get(unit) or units.crowded(unit)
    return found
