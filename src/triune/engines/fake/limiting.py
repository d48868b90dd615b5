"""Limits of simulated instances: kept, checked against what they pretend to use, and enforced by nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from triune.domain.errors import Conflict
from triune.domain.limits import FIELDS, NETWORK, Limits, format_value

if TYPE_CHECKING:
    from triune.engines.fake.engine import FakeEngine
    from triune.engines.fake.state import FakeInstance

MEMORY = 32 << 20
"""What every running one uses."""


class FakeLimiting:
    """The `limiting` facet: pinning waits for a restart, and limits of requests are forgotten at each start."""

    keys = frozenset(FIELDS) - NETWORK
    live = keys - {"cpu.pin"}
    volatile = frozenset({"iops.read", "iops.write"})

    def __init__(self, engine: FakeEngine) -> None:
        self._engine = engine

    def read(self, name: str) -> Limits:
        """What it was told."""
        with self._engine.reading():
            return limits_of(self._engine.find(name))

    def apply(self, name: str, limits: Limits, changed: frozenset[str]) -> frozenset[str]:
        """Remember it."""
        with self._engine.changing():
            one = self._engine.find(name)
            running = one.state != "stopped"
            if running and "memory" in changed and limits.memory is not None and limits.memory < MEMORY:
                raise Conflict(
                    "limit_below_use",
                    f"{name} uses {format_value('memory', MEMORY)} of memory, more than {limits.memory} bytes",
                    hint="Give it more.",
                )
            remember(one, limits_of(one).changed({key: limits.get(key) for key in changed}))
        return changed - self.live if running else changed


def limits_of(one: FakeInstance) -> Limits:
    """The limits of one."""
    return Limits(cpus=one.cpus, memory=one.memory).changed(one.limits)


def remember(one: FakeInstance, limits: Limits) -> None:
    """Set all of them."""
    one.cpus, one.memory = limits.cpus, limits.memory
    one.limits = {key: value for key, value in limits.by_key().items() if key not in {"cpus", "memory", *NETWORK}}


def forget_volatile(one: FakeInstance) -> None:
    """At a start."""
    one.limits = {key: value for key, value in one.limits.items() if key not in FakeLimiting.volatile}
