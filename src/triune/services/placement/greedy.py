"""The packer: one host after the other is filled from a pool of units, the best-fitting first.

"Best" is the dot product of what a unit asks and what the host has left, the resources weighed by how scarce they are
(Panigrahy, Talwar, Uyeda, Wieder: Heuristics for Vector Bin Packing, 2011), which keeps hosts in balance. A pool, drawn
at random from all that remain, keeps each step small however many units there are; several units of a step are taken at
once while a host is still empty.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from triune.services.placement.bound import prices
from triune.services.placement.problem import NO_WORD, NOWHERE, SEVERAL, Bools, Floats, Ints, Places, Problem

_AT_ONCE = 6
_POOL = 1024
_SCARCE = 0.7


@dataclass(frozen=True, slots=True, kw_only=True)
class Manner:
    """How units are scored: `balance` 0 prefers large ones, 1 those of the shape of what is left; so much `noise`.

    `at_once`: at most this part of a host's space is filled by one step; `pool`: so many units are looked at.
    """

    balance: float = 0.5
    noise: float = 0.0
    at_once: int = _AT_ONCE
    pool: int = _POOL


class Greedy:
    """Fills `hosts` with `units`; what finds no place stays NOWHERE."""

    def __init__(
        self, places: Places, units: Ints, hosts: Ints, rng: np.random.Generator, manner: Manner | None = None
    ) -> None:
        problem = places.problem
        self.places, self.problem, self.rng = places, problem, rng
        self.manner = manner or Manner()
        self.weights = places.weights
        self.unit = np.maximum(problem.capacity.mean(axis=0), 1e-300)
        self.queues = _queues(problem, units, rng)
        self.pool: Ints = np.zeros(0, dtype=np.int64)
        self.left = np.bincount(problem.key[units], minlength=len(problem.allowed))
        self.rank = _scarcity(problem, units, hosts)
        reach = _reach(problem, hosts)
        self.keys = np.argsort(reach, kind="stable").tolist()
        price = prices(problem.demand[units].sum(axis=0), problem.capacity[hosts])
        size = problem.capacity[hosts] @ price
        self.order = hosts[np.argsort(-size, kind="stable")].tolist()
        self.at = dict.fromkeys(self.keys, 0)
        self.seen: set[int] = set()

    def run(self) -> None:
        """Fill hosts until nothing is left to place, or no host that would take it."""
        for key in self.keys:
            while self.left[key] > 0:
                host = self._next(key)
                if host is None:
                    break
                self._fill(host)

    def _next(self, key: int) -> int | None:
        """The most worthwhile host not filled yet that takes this key; the most restricted units choose first."""
        allowed = self.problem.allowed[key]
        for at in range(self.at[key], len(self.order)):
            host = self.order[at]
            if host not in self.seen and allowed[self.problem.kind[host]]:
                self.at[key] = at + 1
                self.seen.add(host)
                return int(host)
        self.at[key] = len(self.order)
        return None

    def _fill(self, host: int) -> None:
        problem, allowed = self.problem, self.problem.allowed[:, self.problem.kind[host]]
        while True:
            self._draw(allowed)
            inside = np.flatnonzero(allowed[problem.key[self.pool]])
            units = self.pool[inside]
            taken = self._choose(host, units)
            if not taken.any():
                return
            got = units[taken]
            self.left -= np.bincount(problem.key[got], minlength=len(self.left))
            keep = np.ones(len(self.pool), dtype=bool)
            keep[inside[taken]] = False
            self.pool = self.pool[keep]
            if taken.sum() < len(units) // 2 or not self._waiting(allowed):
                return

    def _waiting(self, allowed: Bools) -> bool:
        return any(self.queues[key][1] < len(self.queues[key][0]) for key in np.flatnonzero(allowed).tolist())

    def _draw(self, allowed: Bools) -> None:
        """Fill the pool with units that this kind of host may take, each key by its share of what waits."""
        need = self.manner.pool - int(allowed[self.problem.key[self.pool]].sum())
        if need <= 0:
            return
        waiting = {key: len(self.queues[key][0]) - self.queues[key][1] for key in np.flatnonzero(allowed).tolist()}
        total = sum(waiting.values())
        if not total:
            return
        drawn = [self.pool]
        for key, count in waiting.items():
            if count:
                queue, at = self.queues[key]
                more = min(count, -(-need * count // total))
                drawn.append(queue[at : at + more])
                self.queues[key] = (queue, at + more)
        self.pool = np.concatenate(drawn)

    def _choose(self, host: int, units: Ints) -> Bools:
        """Which of the units go onto the host; places them."""
        problem, word = self.problem, self.problem.word[units]
        demand = np.ascontiguousarray(problem.demand[units].T)
        value, rank = self._value(demand), self.rank[problem.key[units]]
        at = np.flatnonzero(self._apart(host, units, word))
        taken = np.zeros(len(units), dtype=bool)
        free, apart = self.places.free[host].copy(), bool((word != NO_WORD).any())
        usual = demand.mean(axis=1) if len(units) else free
        demand, value, rank = demand[:, at], value[at], rank[at]
        while True:
            fits = _fitting(demand, free)
            if not fits.all():
                at, demand, value, rank = at[fits], demand[:, fits], value[fits], rank[fits]
            if not len(at):
                break
            count = _count(usual, free) // self.manner.at_once
            got = _best(value @ (free / self.unit) + rank, demand, free, count)
            chosen, live = at[got], None
            if apart:
                chosen, blocked = self._distinct(chosen, units, word)
                live = None if blocked is None else ~blocked[at]
            taken[chosen] = True
            free = free - problem.demand[units[chosen]].sum(axis=0)
            live = ~taken[at] if live is None else live & ~taken[at]
            at, demand, value, rank = at[live], demand[:, live], value[live], rank[live]
        if taken.any():
            self.places.put(units[taken], host)
        return taken

    def _value(self, demand: Floats) -> Floats:
        """What a unit is worth by resource, to be multiplied with what is left of it: (units, resources)."""
        share = (demand / self.unit[:, None]).T
        size = np.sqrt((share * share) @ self.weights) + 1e-12
        value = share * self.weights / (size**self.manner.balance)[:, None]
        if self.manner.noise:
            value = value * (1.0 + self.manner.noise * self.rng.random(len(value)))[:, None]
        return np.asarray(value)

    def _apart(self, host: int, units: Ints, word: Ints) -> Bools:
        """Units that nothing on the host keeps away."""
        there = self.places.words.get(host)
        if not there:
            return np.ones(len(units), dtype=bool)
        live = ~np.isin(word, np.fromiter(there, dtype=np.int64))
        for at in np.flatnonzero(word == SEVERAL).tolist():
            live[at] = not self.problem.words_of(int(units[at])) & there
        return live

    def _distinct(self, chosen: Ints, units: Ints, word: Ints) -> tuple[Ints, Bools | None]:
        """Those of them that may be side by side, and, where these keep any away, all that may not come any more."""
        if (word[chosen] == NO_WORD).all():
            return chosen, None
        words: set[int] = set()
        kept, out = [], []
        for at in chosen.tolist():
            own = self.problem.words_of(int(units[at])) if word[at] != NO_WORD else frozenset()
            if own & words:
                out.append(at)
                continue
            words |= own
            kept.append(at)
        blocked = np.isin(word, np.fromiter(words, dtype=np.int64))
        blocked[out] = True
        for at in np.flatnonzero(word == SEVERAL).tolist():
            blocked[at] |= bool(self.problem.words_of(int(units[at])) & words)
        return np.array(kept, dtype=np.int64), blocked


def _fitting(demand: Floats, free: Floats) -> Bools:
    fits: Bools = demand[0] <= free[0]
    for row, most in zip(demand[1:], free[1:], strict=True):
        fits &= row <= most
    return fits


def _count(usual: Floats, free: Floats) -> int:
    """How many usual units fit."""
    room = np.divide(free, usual, out=np.full(len(free), 1e9), where=usual > 0)
    return int(room.min(initial=1e9))


def _best(score: Floats, demand: Floats, free: Floats, count: int) -> Ints:
    """Places of the best-scored units, at most so many, as many as fit together; at least one."""
    count = min(count, len(score))
    if count <= 1:
        return np.array([score.argmax()])
    top = np.argpartition(score, -count)[-count:]
    top = top[np.argsort(-score[top], kind="stable")]
    sums = demand[:, top].cumsum(axis=1)
    fitting = int((sums <= free[:, None]).all(axis=0).sum())
    return top[: max(1, fitting)]


def _queues(problem: Problem, units: Ints, rng: np.random.Generator) -> list[tuple[Ints, int]]:
    """Units of each key in random order, and how many of them were drawn."""
    mixed = rng.permutation(units)
    keys = problem.key[mixed]
    by_key = mixed[np.argsort(keys, kind="stable")]
    ends = np.cumsum(np.bincount(keys, minlength=len(problem.allowed)))
    return [(queue, 0) for queue in np.split(by_key, ends[:-1])]


def _reach(problem: Problem, hosts: Ints) -> Floats:
    """How many of the hosts take units of each key."""
    count = np.bincount(problem.kind[hosts], minlength=problem.allowed.shape[1])
    return np.asarray(problem.allowed @ count.astype(float))


def _scarcity(problem: Problem, units: Ints, hosts: Ints) -> Floats:
    """2 and more for keys whose own hosts will be scarce: their units are taken before others, where they can go."""
    keys, kinds = problem.allowed.shape
    asked = np.zeros((keys, problem.demand.shape[1]))
    np.add.at(asked, problem.key[units], problem.demand[units])
    there = np.zeros((kinds, problem.demand.shape[1]))
    np.add.at(there, problem.kind[hosts], problem.capacity[hosts])
    rank = np.zeros(keys)
    order = np.argsort(-_reach(problem, hosts), kind="stable")
    for place, key in enumerate(order.tolist()):
        mine = problem.allowed[key]
        if mine.all():
            continue
        inner = ~(problem.allowed & ~mine).any(axis=1)
        have = there[mine].sum(axis=0)
        pressure = np.divide(asked[inner].sum(axis=0), have, out=np.zeros_like(have), where=have > 0).max(initial=0.0)
        if pressure > _SCARCE:
            rank[key] = 2.0 * (place + 1)
    return rank


def unplaced(places: Places) -> Ints:
    """Units without a host."""
    return np.flatnonzero(places.host == NOWHERE)
