"""A packing problem in numbers, and where its units stand.

A unit is what goes onto one host as a whole: an instance, or several that must be together. All amounts are whole
numbers kept as floats (CPUs in thousandths, bytes), so that sums are exact and comparisons need no tolerance.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

NOWHERE = -1
NO_WORD, SEVERAL = -1, -2


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """`demand` is (units, resources), `capacity` (hosts, resources), both finite.

    `key` numbers what a unit asks of a host, `kind` what a host is; `allowed` (keys, kinds) says which of them go
    together. Units with the same `word` never share a host; SEVERAL words of a unit are in `words`.
    """

    demand: Floats
    key: Ints
    allowed: Bools
    capacity: Floats
    kind: Ints
    word: Ints
    words: Mapping[int, frozenset[int]] = field(default_factory=dict)

    def words_of(self, unit: int) -> frozenset[int]:
        """The words that keep a unit apart from others."""
        word = int(self.word[unit])
        return self.words[unit] if word == SEVERAL else frozenset() if word == NO_WORD else frozenset((word,))

    def weights(self) -> Floats:
        """What each resource counts: its share of the demand in its capacity, related to the scarcest."""
        total = self.capacity.sum(axis=0)
        share = np.divide(self.demand.sum(axis=0), total, out=np.zeros(len(total)), where=total > 0)
        return np.asarray(share / max(share.max(initial=0.0), 1e-300))

    def is_plain(self) -> bool:
        """Whether any unit may go to any host, beside any other."""
        return bool(self.allowed.all() and (self.word == NO_WORD).all())


class Places:
    """Where units stand: `host` of each (NOWHERE: not placed), what is `free` on each host, and who is on it."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.host: Ints = np.full(len(problem.demand), NOWHERE, dtype=np.int64)
        self.free: Floats = problem.capacity.copy()
        self.words: dict[int, set[int]] = {}
        self.weights = problem.weights()

    def copy(self) -> Places:
        """Another that can be changed alone."""
        other = Places.__new__(Places)
        other.problem, other.weights = self.problem, self.weights
        other.host, other.free = self.host.copy(), self.free.copy()
        other.words = {host: set(words) for host, words in self.words.items()}
        return other

    def put(self, units: Ints, host: int) -> None:
        """Place units on a host; the caller has seen that they fit."""
        self.host[units] = host
        self.free[host] -= self.problem.demand[units].sum(axis=0)
        apart = units[self.problem.word[units] != NO_WORD]
        if len(apart):
            self.words.setdefault(host, set()).update(*(self.problem.words_of(int(unit)) for unit in apart))

    def take(self, units: Ints) -> None:
        """Take units off their hosts."""
        hosts = self.host[units]
        np.add.at(self.free, hosts, self.problem.demand[units])
        self.host[units] = NOWHERE
        for unit, host in zip(units.tolist(), hosts.tolist(), strict=True):
            if self.problem.word[unit] != NO_WORD:
                self.words[host] -= self.problem.words_of(unit)

    def on(self, hosts: Iterable[int]) -> Ints:
        """The units on these hosts."""
        return np.flatnonzero(np.isin(self.host, np.fromiter(hosts, dtype=np.int64)))

    def used(self) -> Ints:
        """Hosts that hold something."""
        return np.unique(self.host[self.host != NOWHERE])

    def fill(self) -> Floats:
        """How full each host is in its fullest resource, 0 to 1."""
        capacity = self.problem.capacity
        gone = np.divide(capacity - self.free, capacity, out=np.zeros_like(capacity), where=capacity > 0)
        return np.asarray(gone.max(axis=1, initial=0.0))
