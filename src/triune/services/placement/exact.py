"""Filling hosts as full as can be, where one resource decides: subset sums by a set of bits.

Bit v of a whole number says that some of the sizes add up to v; a size is added by one shift. Each host takes the
largest size left and the others that fill it best (Gupta and Ho: A new heuristic algorithm for the one-dimensional
bin-packing problem, 1999, with an exact search).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from random import Random

import numpy as np

from triune.services.placement.problem import Places, Problem

MOST_ROOM = 1 << 20
MOST_UNITS = 5000


class Line:
    """A problem in which one resource decides: whole `sizes` of units and `rooms` of hosts."""

    def __init__(self, sizes: Sequence[int], rooms: Sequence[int]) -> None:
        self.sizes, self.rooms = sizes, rooms

    def shrink(self, found: dict[int, list[int]], least: int, until: float, chance: Random) -> dict[int, list[int]]:
        """The same units on fewer hosts, `least` at fewest, tried until then (of time.monotonic).

        The emptiest host's units are set aside; one or two hosts at a time are filled anew from what they hold and
        what is aside, never less full, until nothing is aside.
        """
        best = {host: list(units) for host, units in found.items()}
        while len(best) > least:
            fewer = self._one_less(best, until, chance)
            if fewer is None:
                return best
            best = fewer
        return best

    def _one_less(self, found: dict[int, list[int]], until: float, chance: Random) -> dict[int, list[int]] | None:
        hosts = {host: list(units) for host, units in found.items()}
        aside = hosts.pop(min(hosts, key=self._sum_on(hosts)))
        names = list(hosts)
        while aside:
            if not names or time.monotonic() > until:
                return None
            pair = chance.sample(names, min(len(names), chance.choice((1, 1, 2, 2, 3))))
            mixed = [*aside, *(unit for host in pair for unit in hosts[host])]
            before = sum(self.sizes[unit] for host in pair for unit in hosts[host])
            filled, rest = self._refill(mixed, pair, chance)
            if sum(self.sizes[unit] for units in filled.values() for unit in units) >= before:
                hosts.update(filled)
                aside = rest
        return hosts

    def _sum_on(self, hosts: Mapping[int, Sequence[int]]) -> Callable[[int], int]:
        return lambda host: sum(self.sizes[unit] for unit in hosts[host])

    def _refill(
        self, units: Sequence[int], hosts: Sequence[int], chance: Random
    ) -> tuple[dict[int, list[int]], list[int]]:
        left, filled = chance.sample(units, len(units)), {}
        for host in hosts:
            chosen = set(best_subset([self.sizes[unit] for unit in left], self.rooms[host]))
            filled[host] = [unit for at, unit in enumerate(left) if at in chosen]
            left = [unit for at, unit in enumerate(left) if at not in chosen]
        return filled, left

    def fill(self, units: Sequence[int], hosts: Sequence[int]) -> dict[int, list[int]]:
        """Units by host; those that find no room are under -1."""
        left = sorted(units, key=lambda unit: -self.sizes[unit])
        found: dict[int, list[int]] = {}
        for host in hosts:
            room = self.rooms[host]
            first = next((at for at, unit in enumerate(left) if self.sizes[unit] <= room), None)
            if first is None:
                continue
            unit = left.pop(first)
            more = best_subset([self.sizes[other] for other in left], room - self.sizes[unit])
            found[host] = [unit, *(left[at] for at in more)]
            gone = set(more)
            left = [other for at, other in enumerate(left) if at not in gone]
        if left:
            found[-1] = left
        return found


def best_subset(sizes: Sequence[int], room: int) -> list[int]:
    """Places of the sizes that add up to as much of `room` as can be."""
    mask, bits = (1 << (room + 1)) - 1, 1
    history = [bits]
    for size in sizes:
        bits |= (bits << size) & mask if size <= room else 0
        history.append(bits)
        if bits >> room & 1:
            break
    total = bits.bit_length() - 1
    chosen = []
    for at in range(len(history) - 1, 0, -1):
        if not history[at - 1] >> total & 1:
            chosen.append(at - 1)
            total -= sizes[at - 1]
    return chosen


def line(problem: Problem) -> Line | None:
    """The problem in one resource; None where more than one may decide, units are not free, or it is too large."""
    if not problem.is_plain() or not 0 < len(problem.demand) <= MOST_UNITS or not len(problem.capacity):
        return None
    capacity = problem.capacity
    with np.errstate(divide="ignore", invalid="ignore"):
        most = np.nan_to_num(problem.demand / capacity.min(axis=0), nan=0.0, posinf=np.inf)
        least = np.nan_to_num(problem.demand / capacity.max(axis=0), nan=0.0, posinf=np.inf)
    for at in range(capacity.shape[1]):
        if (most <= least[:, at : at + 1]).all(axis=0)[np.arange(capacity.shape[1]) != at].all():
            return _whole(problem.demand[:, at].tolist(), capacity[:, at].tolist())
    return None


def _whole(sizes: Sequence[float], rooms: Sequence[float]) -> Line | None:
    step = int(np.gcd.reduce(np.array([int(size) for size in sizes], dtype=np.int64))) or 1
    small = [int(size) // step for size in sizes]
    least = sum(small)
    large = [min(int(room) // step, least) for room in rooms]
    return Line(small, large) if max(large) <= MOST_ROOM else None


def put(places: Places, found: dict[int, list[int]]) -> None:
    """Place what `fill` found."""
    for host, units in found.items():
        if host >= 0:
            places.put(np.array(units, dtype=np.int64), host)
