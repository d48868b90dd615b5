"""Lower bounds: how many hosts no placement can do without.

- Linear: cover the demand of all resources with whole or part hosts. Its dual is a concave function of one price per
  resource, and any prices give a valid bound, so a rough ascent is enough.
- L2 of Martello and Toth (Lower bounds and reduction procedures for the bin packing problem, 1990) where all hosts are
  alike, for each resource: units above half a host can't share one.
- The largest crowd that must be apart.
- Units that only some hosts take need that many of those hosts; bounds of hosts that share nothing add up.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from triune.services.placement.problem import NO_WORD, SEVERAL, Bools, Floats, Ints, Problem

_ROUNDS = 60
_HARDLY = 1e-9
_MOST_KEYS = 256


def prices(demand: Floats, capacity: Floats) -> Floats:
    """A price per resource at which covering `demand` with hosts is worth most; see `worth`."""
    total = capacity.sum(axis=0)
    share = np.divide(demand, total, out=np.zeros(len(total)), where=total > 0)
    mean = np.where(total > 0, capacity.mean(axis=0), np.inf)
    best = np.zeros(len(total))
    if not share.max(initial=0.0):
        return best
    value = 0.0
    for start in [*np.eye(len(total)), share / share.sum()]:
        at, found = _ascend(start / mean, demand, capacity)
        if found > value:
            best, value = at, found
    return best


def worth(price: Floats, demand: Floats, capacity: Floats) -> float:
    """The dual's value: hosts needed at least, if it costs so much; never more than the linear optimum."""
    return float(price @ demand - np.maximum(0.0, capacity @ price - 1.0).sum())


def _ascend(price: Floats, demand: Floats, capacity: Floats) -> tuple[Floats, float]:
    """Along one price after the other, and all at once, with shrinking steps."""
    value, step = worth(price, demand, capacity), 1.0
    largest = capacity.max(axis=0)
    floor = np.divide(1.0, largest, out=np.zeros(len(price)), where=largest > 0)
    for _ in range(_ROUNDS):
        moved = False
        for direction in (*np.eye(len(price)), np.ones(len(price))):
            for factor in (1.0 + step, 1.0 / (1.0 + step), 0.0):
                trial = np.where(direction > 0, np.maximum(price, floor * 1e-3 * (factor > 1)) * factor, price)
                found = worth(trial, demand, capacity)
                if found > value + _HARDLY:
                    price, value, moved = trial, found, True
        if not moved:
            step /= 2.0
            if step < 1e-4:
                break
    return price, value


def linear(demand: Floats, capacity: Floats) -> int:
    """The linear bound for a demand (by resource), in whole hosts."""
    return int(np.ceil(worth(prices(demand, capacity), demand, capacity) - 1e-6))


def l2(sizes: Floats, capacity: float) -> int:
    """Martello and Toth's L2 for hosts of one size and units that fit."""
    sizes = np.sort(sizes[sizes > 0])[::-1]
    if not len(sizes) or capacity <= 0:
        return 0
    sums = np.concatenate([[0.0], sizes.cumsum()])
    half = int((sizes > capacity / 2).sum())
    best = int(np.ceil(sums[-1] / capacity))
    for least in np.unique(sizes[sizes <= capacity / 2]).tolist() or [0.0]:
        large = int((sizes > capacity - least).sum())
        small = sums[int((sizes >= least).sum())] - sums[half]
        room = (half - large) * capacity - (sums[half] - sums[large])
        best = max(best, half + max(0, int(np.ceil((small - room) / capacity))))
    return best


def lower_bound(problem: Problem, units: Ints) -> int:
    """Hosts that no placement of these units can do without."""
    if not len(units):
        return 0
    every = np.ones(len(problem.capacity), dtype=bool)
    best = max(_of(problem, units, every), _crowd(problem, units), 1)
    return max(best, _restricted(problem, units))


def _of(problem: Problem, units: Ints, hosts: Bools) -> int:
    demand, capacity = problem.demand[units], problem.capacity[hosts]
    if not len(capacity):
        return 0
    best = linear(demand.sum(axis=0), capacity)
    if (capacity == capacity[0]).all() and len(units) <= 20_000:
        best = max([best, *(l2(demand[:, at], float(capacity[0, at])) for at in range(capacity.shape[1]))])
    return best


def _crowd(problem: Problem, units: Ints) -> int:
    word = problem.word[units]
    single = word[word >= 0]
    count = np.bincount(single, minlength=1) if len(single) else np.zeros(1, dtype=np.int64)
    several = [name for unit in units[word == SEVERAL].tolist() for name in problem.words_of(unit)]
    if several:
        more = np.bincount(np.array(several), minlength=len(count))
        more[: len(count)] += count
        count = more
    return int(count.max()) if (word != NO_WORD).any() else 0


def _restricted(problem: Problem, units: Ints) -> int:
    """Bounds of keys that some hosts only take, added up where they share no host."""
    found = sorted(_by_hosts(problem, units), key=lambda pair: (int(pair[0].sum()), -pair[1]))
    taken = np.zeros(len(problem.capacity), dtype=bool)
    total = 0
    for hosts, bound in found:
        if not (hosts & taken).any():
            taken |= hosts
            total += bound
    return max([total, *(bound for _, bound in found)], default=0)


def _by_hosts(problem: Problem, units: Ints) -> Iterator[tuple[Bools, int]]:
    keys = problem.key[units]
    patterns, of_key = np.unique(problem.allowed, axis=0, return_inverse=True)
    if len(patterns) > _MOST_KEYS:
        return
    pattern = np.asarray(of_key).ravel()[keys]
    for at, allowed in enumerate(patterns):
        mine = units[pattern == at]
        if len(mine) and not allowed.all():
            hosts = allowed[problem.kind]
            yield hosts, _of(problem, mine, hosts)
