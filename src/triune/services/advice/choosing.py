"""Which engine a launch takes that names none: what it says of itself is weighed like a workload."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from triune.domain.instance import InstanceSpec
from triune.domain.workload import Workload, parse
from triune.engines.base import Engine
from triune.services.advice.advising import advise
from triune.services.advice.conditions import holds
from triune.services.advice.knowledge import knowledge
from triune.services.advice.seen import folder_access

Figures = Callable[[Collection[str]], Mapping[str, Any]]
"""What was measured on this host by the benchmarks of these names, as `benchmarks.measured.measured` tells it."""


def choose(
    spec: InstanceSpec, able: Sequence[Engine], *, user_data: bool, measured: Figures | None = None
) -> tuple[Engine, str]:
    """One of the engines that can run the image, `able` in the registry's order and not empty, and a sentence that
    says why. Between equals the registry's order decides. What was `measured` here takes the place of published
    figures, as in `triune advise`.

    Where the rules would bar all of them, it is the first: what it can't do it refuses itself, with its own words.
    """
    first = able[0]
    if len(able) == 1:
        return first, f"{first.name}: the only engine here that can run {spec.image}"
    # What the rules don't know is taken only where it is asked for, or alone can do it.
    able = [engine for engine in able if engine.name in knowledge().engines] or able
    said = workload(spec, [engine.name for engine in able], user_data=user_data)
    answer = advise(said, _facts(said, able, measured))
    best = [ranked for ranked in answer.ranking if not ranked.blocked and ranked.score == answer.ranking[0].score]
    for engine in able:
        if engine.name in (ranked.engine for ranked in best):
            return engine, f"{engine.name}: {answer.why(engine.name)}"
    return first, f"{first.name}: the first that can run {spec.image}"


def workload(spec: InstanceSpec, engines: Sequence[str], *, user_data: bool) -> Workload:
    """What the launch itself says. Raises Invalid."""
    access = {folder_access(volume.source) for volume in spec.volumes} - {""}
    said: dict[str, Any] = {
        "engines": list(engines),
        "cpus": spec.cpus,
        "memory": spec.memory,
        "disk": spec.disk,
        "host_access": sorted(access),
        "init_system": user_data,
    }
    return parse({key: value for key, value in said.items() if value})


def _facts(said: Workload, engines: Sequence[Engine], measured: Figures | None) -> dict[str, Any]:
    """What the rules ask of a host, as GET /v1/host tells it, and `measured`: only what can count for this workload."""
    facts = {
        "architecture": platform.machine(),
        "cpus": os.cpu_count() or 1,
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "engines": [{"name": engine.name, "available": True, "facts": engine.probe().facts} for engine in engines],
    }
    wanted = {name for rule in knowledge().rules if holds(rule.when, said, facts) for name in rule.measured}
    return {**facts, "measured": measured(wanted)} if wanted and measured is not None else facts
