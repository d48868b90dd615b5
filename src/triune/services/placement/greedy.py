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
_SHAPES = 8
_ALIKE = 1.2
_FEW = 3000
_REFILL = 0.75
_FIRST = 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class Manner:
    """How units are scored: `balance` 0 prefers large ones, 1 those of the shape of what is left; so much `noise`.

    `at_once`: at most this part of a host's space is filled by one step; `pool`: so many units are looked at.
    """

    balance: float = 0.8
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
        mean = problem.capacity.mean(axis=0)
        self.unit = np.where(mean > 0, mean, 1.0)
        self.price = prices(problem.demand[units].sum(axis=0), problem.capacity[hosts])
        self.stratum = _strata(problem, units, hosts, self.price)
        self.queues, self.waiting = _queues(problem, units, self.stratum, rng)
        # Marks of words; the last two stand for NO_WORD and SEVERAL, and are never marked.
        self.marks = np.zeros(_words(problem) + 2, dtype=bool)
        self.pool: Ints = np.zeros(0, dtype=np.int64)
        self.left = np.bincount(problem.key[units], minlength=len(problem.allowed))
        self.rank = _scarcity(problem, units, hosts)
        reach = _reach(problem, hosts)
        self.keys = np.argsort(reach, kind="stable").tolist()
        size = problem.capacity[hosts] @ self.price
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
                self._fill(host, key)

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

    def _fill(self, host: int, key: int) -> None:
        problem, allowed = self.problem, self.problem.allowed[:, self.problem.kind[host]]
        while True:
            self._draw(allowed, key)
            inside = np.flatnonzero(allowed[problem.key[self.pool]])
            units = self.pool[inside]
            taken = self._choose(host, units, key)
            if not taken.any():
                return
            got = units[taken]
            self.left -= np.bincount(problem.key[got], minlength=len(self.left))
            keep = np.ones(len(self.pool), dtype=bool)
            keep[inside[taken]] = False
            self.pool = self.pool[keep]
            if taken.sum() < len(units) // 2 or not self.waiting[allowed].any():
                return

    def _draw(self, allowed: Bools, first: int) -> None:
        """Fill the pool with units that this kind of host may take: of each shape alike, half of them of the key whose
        turn it is (or it would never be done with its hosts), the others by what waits."""
        mine = self.pool[allowed[self.problem.key[self.pool]]]
        if len(mine) > _REFILL * self.manner.pool:
            return
        there = np.bincount(self.stratum[mine], minlength=_SHAPES).tolist()
        keys = np.flatnonzero(allowed & self.waiting.any(axis=1)).tolist()
        shapes = np.flatnonzero(self.waiting[keys].any(axis=0)).tolist()
        drawn = [self.pool]
        for shape in shapes:
            need = self.manner.pool // len(shapes) - there[shape]
            if need <= 0:
                continue
            early = self._take(first, shape, need // 2)
            need -= len(early)
            total = int(self.waiting[keys, shape].sum())
            drawn.append(early)
            for key in keys if total else ():
                drawn.append(self._take(key, shape, -(-need * int(self.waiting[key, shape]) // total)))
        self.pool = np.concatenate(drawn)

    def _take(self, key: int, shape: int, count: int) -> Ints:
        """The next units of a queue."""
        queue, left = self.queues[key][shape], int(self.waiting[key, shape])
        drawn = queue[len(queue) - left :][:count]
        self.waiting[key, shape] -= len(drawn)
        return drawn

    def _choose(self, host: int, units: Ints, first: int) -> Bools:
        """Which of the units go onto the host, those of the key whose turn it is before others; places them."""
        problem, word = self.problem, self.problem.word[units]
        demand = np.ascontiguousarray(problem.demand[units].T)
        value, rank = self._value(demand), self.rank[problem.key[units]]
        if not problem.allowed[first].all():
            rank = rank + _FIRST * (problem.key[units] == first)
        at = np.flatnonzero(self._apart(host, units, word))
        taken = np.zeros(len(units), dtype=bool)
        free, apart = self.places.free[host].copy(), bool((word != NO_WORD).any())
        usual = np.minimum(1.0 / np.maximum(demand.mean(axis=1), 1e-9), 1e9) if len(units) else free
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
        for at, name in zip(chosen.tolist(), word[chosen].tolist(), strict=True):
            own = self.problem.words[int(units[at])] if name == SEVERAL else {name} if name >= 0 else frozenset()
            if own & words:
                out.append(at)
                continue
            words |= own
            kept.append(at)
        marked = list(words)
        self.marks[marked] = True
        blocked = self.marks[word]
        self.marks[marked] = False
        blocked[out] = True
        for at in np.flatnonzero(word == SEVERAL).tolist() if self.problem.words else ():
            blocked[at] |= bool(self.problem.words[int(units[at])] & words)
        return np.array(kept, dtype=np.int64), blocked


def _fitting(demand: Floats, free: Floats) -> Bools:
    fits: Bools = demand[0] <= free[0]
    for row, most in zip(demand[1:], free[1:], strict=True):
        fits &= row <= most
    return fits


def _count(usual: Floats, free: Floats) -> int:
    """How many usual units fit; `usual` is one divided by what such a unit asks."""
    return int(min((free * usual).tolist()))


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


def _queues(problem: Problem, units: Ints, stratum: Ints, rng: np.random.Generator) -> tuple[list[list[Ints]], Ints]:
    """Units by key and shape in random order, and how many of each wait."""
    mixed = rng.permutation(units)
    place = problem.key[mixed] * _SHAPES + stratum[mixed]
    ordered = mixed[np.argsort(place, kind="stable")]
    counts = np.bincount(place, minlength=len(problem.allowed) * _SHAPES)
    parts = np.split(ordered, np.cumsum(counts)[:-1])
    queues = [parts[at : at + _SHAPES] for at in range(0, len(parts), _SHAPES)]
    return queues, counts.reshape(-1, _SHAPES).astype(np.int64)


def _words(problem: Problem) -> int:
    """One more than the largest number of a word."""
    several = (word for words in problem.words.values() for word in words)
    return max(int(problem.word.max(initial=NO_WORD)), max(several, default=NO_WORD)) + 1


def _strata(problem: Problem, units: Ints, hosts: Ints, price: Floats) -> Ints:
    """A number for the shape of each unit, the relation of what it asks of the two dearest resources, so that hosts
    of every shape find their like in the pool; 0 for all where hosts are alike."""
    found = np.zeros(len(problem.demand), dtype=np.int64)
    worth = problem.capacity[hosts].mean(axis=0) * price
    dear = np.argsort(-worth, kind="stable")[:2]
    if len(dear) < 2 or worth[dear[1]] <= 0 or len(units) < _FEW:
        return found
    capacity = np.maximum(problem.capacity[hosts][:, dear], 1e-300)
    ratio = capacity[:, 0] / capacity[:, 1]
    if ratio.max() < _ALIKE * ratio.min():
        return found
    demand = problem.demand[units][:, dear] + 1e-12 * capacity.mean(axis=0)
    shape = np.log(demand[:, 0] / demand[:, 1])
    edges = np.quantile(shape, np.arange(1, _SHAPES) / _SHAPES)
    found[units] = np.searchsorted(edges, shape)
    return found


def _reach(problem: Problem, hosts: Ints) -> Floats:
    """How many of the hosts take units of each key."""
    count = np.bincount(problem.kind[hosts], minlength=problem.allowed.shape[1])
    return np.asarray(problem.allowed @ count.astype(float))


def _scarcity(problem: Problem, units: Ints, hosts: Ints) -> Floats:
    """Large for keys whose own hosts will be scarce: their units are taken before others, where they can go."""
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
            rank[key] = _FIRST * 2.0 * (place + 1)
    return rank


def unplaced(places: Places) -> Ints:
    """Units without a host."""
    return np.flatnonzero(places.host == NOWHERE)
