"""From rows to a packing problem: engines chosen, those that must be together made one, zones shared out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from triune.domain.errors import Invalid
from triune.services.advice.knowledge import knowledge
from triune.services.placement.choosing import Wanted, wanted
from triune.services.placement.fleet import Hosts
from triune.services.placement.problem import NO_WORD, NOWHERE, SEVERAL, Bools, Floats, Ints, Problem
from triune.services.placement.rows import Rows

_ANY = -1


@dataclass(slots=True, kw_only=True)
class Units:
    """A problem, `able`: units that some host can hold alone, and `why` the others can't go anywhere.

    `engine` numbers each instance's engine. `later` is the key of a unit that takes any other engine of its `choices`
    (of each instance's `choice`, the best first), NOWHERE where there is none; `kinds_of` has the kinds of hosts by
    engine.
    """

    problem: Problem
    of_instance: Ints
    engine: Ints
    engines: Sequence[str]
    able: Bools
    zones: int
    later: Ints
    choices: Sequence[Sequence[int]]
    choice: Ints
    kinds_of: Mapping[int, Bools]
    extra: Floats
    why: dict[int, str] = field(default_factory=dict)
    words: Sequence[str] = ()
    turned: Bools = field(init=False)

    def __post_init__(self) -> None:
        self.turned = np.zeros(len(self.later), dtype=bool)

    def instances(self, host: Ints) -> tuple[Ints, Ints]:
        """Host and engine of each instance, from the hosts of units."""
        mine = host[self.of_instance]
        engine = np.where(mine == NOWHERE, NOWHERE, self.engine)
        for row in np.flatnonzero((mine != NOWHERE) & self.turned[self.of_instance]).tolist():
            kind = self.problem.kind[mine[row]]
            others = (at for at in self.choices[self.choice[row]] if at != self.engine[row])
            engine[row] = next(at for at in others if self.kinds_of[at][kind])
        return mine, engine

    def turn(self, units: Ints) -> Ints:
        """Let those of the units that can take another engine do so; returns them."""
        units = units[self.later[units] != NOWHERE]
        if len(units):
            key, demand = self.problem.key.copy(), self.problem.demand.copy()
            key[units] = self.later[units]
            rows = np.flatnonzero(np.isin(self.of_instance, units))
            most = np.array([max(self.extra[list(choice)], default=0.0) for choice in self.choices])
            more = most[self.choice[rows]] - self.extra[self.engine[rows]]
            demand[self.of_instance[rows], 1] += np.maximum(0.0, more)
            self.problem = replace(self.problem, key=key, demand=demand)
            self.turned[units] = True
        return units

    def crowded(self, unit: int) -> str:
        """Why a unit that a host could hold alone has no place."""
        if self.problem.word[unit] != NO_WORD:
            words = ", ".join(sorted(self.words[word] for word in self.problem.words_of(unit)))
            return f"no host has room left for it that keeps it apart ({words})"
        return "no host that may hold it has room left"


def gather(hosts: Hosts, rows: Rows, demand: Floats, extra: Mapping[str, int]) -> Units:
    """Make units. Raises Invalid("contradictory_demands" | "contradictory_workload" | "unknown_engine")."""
    return _Gathering(hosts, rows, demand, extra).units()


class _Gathering:
    def __init__(self, hosts: Hosts, rows: Rows, demand: Floats, extra: Mapping[str, int]) -> None:
        self.hosts, self.rows, self.demand = hosts, rows, demand
        self.engines = list(knowledge().engines)
        unknown = next((name for name in extra if name not in self.engines), None)
        if unknown is not None:
            hint = f"Engines: {', '.join(self.engines)}."
            raise Invalid("unknown_engine", f"there is no engine {unknown!r}", hint=hint)
        self.extra = np.array([float(extra.get(name, 0)) for name in self.engines])
        _require_engines(hosts, self.engines)
        self.kind = np.array(hosts.kind, dtype=np.int64)
        self.capacity = _finite(hosts.capacity, demand, self.extra)
        self.why_row: dict[int, str] = {}

    def units(self) -> Units:
        wants, of_row = wanted(self.rows)
        needs, of_need = _numbered(self.rows.columns["needs"])
        pair = np.array(of_row, dtype=np.int64) * len(needs) + np.array(of_need, dtype=np.int64)
        pairs, pair = np.unique(pair, return_inverse=True)
        engine = self._engines(wants, needs, pairs, pair)
        full = self.demand.copy()
        full[:, 1] += self.extra[np.maximum(engine, 0)]
        of_instance, members = _together(self.rows)
        count = int(of_instance.max(initial=-1)) + 1
        total = np.zeros((count, full.shape[1]))
        np.add.at(total, of_instance, full)
        need = np.array([int(at) % len(needs) for at in pairs], dtype=np.int64)[pair]
        basic, of_basic = self._keys(engine, need, needs, of_instance, members, count)
        zone, zones = self._spread(of_instance, basic[of_basic], members, count)
        choices = [tuple(self.engines.index(name) for name in want.engines) for want in wants]
        choice = np.array(of_row, dtype=np.int64)
        basic, of_later = self._other_keys(basic, engine, need, needs, choices, choice, of_instance, members)
        allowed, key, later = self._zoned(basic, of_basic, of_later, zone)
        word, several, words = _apart(self.rows, of_instance, members, count)
        problem = Problem(
            demand=total, key=key, allowed=allowed, capacity=self.capacity, kind=self.kind, word=word, words=several
        )
        able, why = self._able(problem, of_instance, engine)
        return Units(
            problem=problem,
            of_instance=of_instance,
            engine=engine,
            engines=self.engines,
            able=able,
            zones=zones,
            later=later,
            choices=choices,
            choice=choice,
            kinds_of={at: self._kinds(name, ()) for at, name in enumerate(self.engines)},
            extra=self.extra,
            why=why,
            words=words,
        )

    def _engines(self, wants: Sequence[Wanted], needs: Sequence[tuple[str, ...]], pairs: Ints, pair: Ints) -> Ints:
        """The engine of each instance: the best-ranked one of which a host could hold it; NOWHERE where none."""
        engine = np.full(len(pair), NOWHERE, dtype=np.int64)
        order = np.argsort(pair, kind="stable")
        ends = np.cumsum(np.bincount(pair, minlength=len(pairs)))
        for number, mine in zip(pairs.tolist(), np.split(order, ends[:-1]), strict=True):
            want, need = wants[number // len(needs)], needs[number % len(needs)]
            reason, left = want.why, mine
            for name in want.engines:
                at = self.engines.index(name)
                kinds = self._kinds(name, need)
                held = self._held(left, at, kinds)
                engine[left[held]] = at
                left = left[~held]
                reason = reason or self._refusal(name, need, kinds)
            self.why_row.update(dict.fromkeys(left.tolist(), reason))
        return engine

    def _refusal(self, engine: str, need: Sequence[str], kinds: Bools) -> str:
        if kinds[self.kind].any():
            return "no host is large enough for it"
        labels = f" and the labels {', '.join(need)}" if need else ""
        return f"no host has {engine}{labels}"

    def _kinds(self, engine: str, need: Sequence[str]) -> Bools:
        return np.array(
            [
                (not kind.engines or engine in kind.engines) and set(need) <= set(kind.labels)
                for kind in self.hosts.kinds
            ],
            dtype=bool,
        )

    def _held(self, rows: Ints, engine: int, kinds: Bools) -> Bools:
        """Which of the rows a host of these kinds holds, alone."""
        demand = self.demand[rows]
        demand[:, 1] += self.extra[engine]
        return _holds(demand, self.capacity[kinds[self.kind]])

    def _keys(
        self,
        engine: Ints,
        need: Ints,
        needs: Sequence[tuple[str, ...]],
        of_instance: Ints,
        members: Mapping[int, Sequence[int]],
        count: int,
    ) -> tuple[Bools, Ints]:
        """What each unit asks of a host's kind: rows of (keys, kinds), and the number of each unit's."""
        own = np.where(engine == NOWHERE, 0, engine + 1) * len(needs) + need
        numbers, inverse = np.unique(own, return_inverse=True)
        of_row: Ints = np.asarray(inverse, dtype=np.int64).ravel()
        table = np.zeros((len(numbers), len(self.hosts.kinds)), dtype=bool)
        for at, number in enumerate(numbers.tolist()):
            if number >= len(needs):
                table[at] = self._kinds(self.engines[number // len(needs) - 1], needs[number % len(needs)])
        of_unit = np.zeros(count, dtype=np.int64)
        of_unit[of_instance] = of_row
        rows = [table]
        for unit, inside in members.items():
            rows.append(np.all(table[of_row[list(inside)]], axis=0, keepdims=True))
            of_unit[unit] = len(numbers) + len(rows) - 2
        merged, again = np.unique(np.concatenate(rows), axis=0, return_inverse=True)
        return merged, np.asarray(again).ravel()[of_unit]

    def _other_keys(
        self,
        basic: Bools,
        engine: Ints,
        need: Ints,
        needs: Sequence[tuple[str, ...]],
        choices: Sequence[Sequence[int]],
        choice: Ints,
        of_instance: Ints,
        members: Mapping[int, Sequence[int]],
    ) -> tuple[Bools, Ints]:
        """The keys and those that take any other engine, with the number of each unit's other one, NOWHERE: none."""
        base = len(self.engines) + 1
        own = (choice * base + engine + 1) * len(needs) + need
        numbers, inverse = np.unique(own, return_inverse=True)
        rows = [basic]
        at_row = np.full(len(numbers), NOWHERE, dtype=np.int64)
        for at, number in enumerate(numbers.tolist()):
            pair, wanted_labels = divmod(number, len(needs))
            others = [other for other in choices[pair // base] if other != pair % base - 1]
            kinds = np.zeros((1, basic.shape[1]), dtype=bool)
            for other in others if pair % base else ():
                kinds |= self._kinds(self.engines[other], needs[wanted_labels])
            if kinds.any():
                at_row[at] = len(basic) + len(rows) - 1
                rows.append(kinds)
        later = np.full(int(of_instance.max(initial=-1)) + 1, NOWHERE, dtype=np.int64)
        later[of_instance] = at_row[np.asarray(inverse).ravel()]
        later[list(members)] = NOWHERE
        return np.concatenate(rows), later

    def _spread(
        self, of_instance: Ints, allowed: Bools, members: Mapping[int, Sequence[int]], count: int
    ) -> tuple[Ints, int]:
        """The zone of each unit that is to be spread: as many in each, or one more; _ANY for the others."""
        zones = sorted({kind.zone for kind in self.hosts.kinds})
        zone = np.full(count, _ANY, dtype=np.int64)
        words = self.rows.columns["spread"]
        if len(zones) < 2 or not any(words):
            return zone, len(zones)
        of_zone = np.array([zones.index(kind.zone) for kind in self.hosts.kinds])
        there = np.zeros((len(self.hosts.kinds), len(zones)), dtype=bool)
        there[np.arange(len(of_zone)), of_zone] = True
        groups: dict[str, set[int]] = {}
        for row, word in enumerate(words):
            if word:
                groups.setdefault(word, set()).add(int(of_instance[row]))
        self._require_one_word(members, words)
        open_zones: Bools = np.greater(allowed.astype(float) @ there.astype(float), 0.0)
        for number, units in enumerate(groups.values()):
            _share_out(sorted(units), open_zones, number, zone)
        return zone, len(zones)

    def _require_one_word(self, members: Mapping[int, Sequence[int]], words: Sequence[str]) -> None:
        for inside in members.values():
            named = sorted({words[row] for row in inside if words[row]})
            if len(named) > 1:
                raise Invalid(
                    "contradictory_demands",
                    f"{self.rows.at(inside[0])}: those together as {self.rows.columns['together'][inside[0]]!r} are "
                    f"spread by different words: {', '.join(named)}",
                    hint="Spread them by one word: they go to one zone anyhow.",
                )

    def _zoned(self, basic: Bools, of_basic: Ints, of_later: Ints, zone: Ints) -> tuple[Bools, Ints, Ints]:
        """The keys again, each with its zone, and the numbers of units' keys and of their other ones."""
        zones = sorted({kind.zone for kind in self.hosts.kinds})
        base = len(zones) + 1
        first = of_basic * base + zone + 1
        second = np.where(of_later == NOWHERE, first, of_later * base + zone + 1)
        numbers, inverse = np.unique(np.concatenate([first, second]), return_inverse=True)
        rows = []
        for number in numbers.tolist():
            row, at = basic[number // base].copy(), number % base - 1
            if at != _ANY:
                row &= np.array([kind.zone == zones[at] for kind in self.hosts.kinds])
            rows.append(row)
        allowed = np.array(rows, dtype=bool).reshape(len(rows), len(self.hosts.kinds))
        key, later = np.split(np.asarray(inverse, dtype=np.int64).ravel(), 2)
        return allowed, key, np.where(of_later == NOWHERE, NOWHERE, later)

    def _able(self, problem: Problem, of_instance: Ints, engine: Ints) -> tuple[Bools, dict[int, str]]:
        """Units that a host could hold alone, and why the others can't be held."""
        able = np.zeros(len(problem.demand), dtype=bool)
        for key in range(len(problem.allowed)):
            mine = np.flatnonzero(problem.key == key)
            able[mine] = _holds(problem.demand[mine], problem.capacity[problem.allowed[key][problem.kind]])
        why = {int(of_instance[row]): reason for row, reason in self.why_row.items()}
        able[list(why)] = False
        alone = np.bincount(of_instance, minlength=len(able)) == 1
        for unit in np.flatnonzero(~able).tolist():
            if unit not in why:
                why[unit] = (
                    "no host of the zone that is its share is large enough for it"
                    if alone[unit]
                    else "no host can hold all that must be together with it"
                )
        return able, why


def _require_engines(hosts: Hosts, engines: Sequence[str]) -> None:
    for at, kind in enumerate(hosts.kinds):
        unknown = next((name for name in kind.engines if name not in engines), None)
        if unknown is not None:
            where = hosts.names[list(hosts.kind).index(at)]
            raise Invalid(
                "unknown_engine",
                f"host {where}: there is no engine {unknown!r}",
                hint=f"Engines: {', '.join(engines)}.",
            )


def _finite(capacity: Floats, demand: Floats, extra: Floats) -> Floats:
    """With as much as all could ask where there is no limit."""
    most = demand.sum(axis=0) + 1.0
    most[1] += extra.max(initial=0.0) * len(demand)
    return np.where(np.isfinite(capacity), capacity, np.broadcast_to(most, capacity.shape))


def _holds(demand: Floats, capacity: Floats) -> Bools:
    """Which rows of `demand` fit at least one row of `capacity`."""
    held = np.zeros(len(demand), dtype=bool)
    sizes = np.unique(capacity, axis=0)
    for at in np.argsort(-(sizes / np.maximum(sizes.max(axis=0, initial=1.0), 1e-300)).sum(axis=1)).tolist():
        left = np.flatnonzero(~held)
        if not len(left):
            break
        left = left[(demand[left] <= sizes.max(axis=0)).all(axis=1)]
        if not len(left):
            break
        held[left[(demand[left] <= sizes[at]).all(axis=1)]] = True
    return held


def _numbered(values: Iterable[Any]) -> tuple[list[Any], list[int]]:
    numbers: dict[Any, int] = {}
    of = [numbers.setdefault(value, len(numbers)) for value in values]
    return list(numbers), of


def _together(rows: Rows) -> tuple[Ints, dict[int, list[int]]]:
    """The unit of each row, and the rows of units that have several."""
    words = rows.columns["together"]
    if not any(words):
        return np.arange(len(rows)), {}
    units: dict[str, int] = {}
    members: dict[int, list[int]] = {}
    of, count = [], 0
    for row, word in enumerate(words):
        unit = units.get(word, count) if word else count
        if unit == count:
            count += 1
        if word:
            units[word] = unit
            members.setdefault(unit, []).append(row)
        of.append(unit)
    return np.array(of, dtype=np.int64), {unit: inside for unit, inside in members.items() if len(inside) > 1}


def _apart(
    rows: Rows, of_instance: Ints, members: Mapping[int, Sequence[int]], count: int
) -> tuple[Ints, dict[int, frozenset[int]], list[str]]:
    """The word that keeps each unit apart, and the words of those that have several. Raises Invalid."""
    words, of = _numbered(rows.columns["apart"])
    number = {at: (NO_WORD if not word else at) for at, word in enumerate(words)}
    own = np.array([number[at] for at in of], dtype=np.int64)
    word = np.full(count, NO_WORD, dtype=np.int64)
    word[of_instance] = own
    several: dict[int, frozenset[int]] = {}
    for unit, inside in members.items():
        named = [int(own[row]) for row in inside if own[row] != NO_WORD]
        double = next((name for name, times in Counter(named).items() if times > 1), None)
        if double is not None:
            pair = [row for row in inside if own[row] == double][:2]
            raise Invalid(
                "contradictory_demands",
                f"{rows.at(pair[1])}: {' and '.join(rows.columns['name'][row] for row in pair)} must be together "
                f"({rows.columns['together'][pair[0]]}) and apart ({words[double]})",
                hint="Take one of the two words back.",
                where=rows.at(pair[1]),
            )
        word[unit] = NO_WORD if not named else named[0] if len(named) == 1 else SEVERAL
        if len(named) > 1:
            several[unit] = frozenset(named)
    return word, several, words


def _share_out(units: Sequence[int], open_zones: Bools, offset: int, zone: Ints) -> None:
    """Give each unit a zone that is open to it, the least used first; those with the fewest choices choose first."""
    choices = open_zones[units]
    some = choices.any(axis=0)
    if not some.any():
        return
    if (choices == choices[0]).all():
        there = np.flatnonzero(choices[0])
        zone[list(units)] = there[(np.arange(len(units)) + offset) % len(there)]
        return
    counts = np.where(some, 0, len(units) + 1)
    for at in np.argsort(choices.sum(axis=1), kind="stable").tolist():
        if choices[at].any():
            best = int(np.where(choices[at], counts, len(units) + 1).argmin())
            zone[units[at]] = best
            counts[best] += 1
