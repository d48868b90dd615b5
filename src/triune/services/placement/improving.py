"""Making a placement better: gaps for what found no host, and hosts that can be emptied.

Some hosts, the emptiest among them, are cleared and filled anew in a somewhat random manner; what is better, or as
good, stays (ruin and recreate; Schrimpf et al., Record breaking optimization results, 2000). "Better" is fewer hosts,
then hosts of more different fill, which opens the way to fewer.
"""

from __future__ import annotations

import time
from random import Random

import numpy as np

from triune.services.placement import exact
from triune.services.placement.greedy import Greedy, Manner, unplaced
from triune.services.placement.problem import Floats, Ints, Places, Problem

_NOISE = 0.6
_FEWEST, _MOST = 2, 9
_GAPS_SECONDS = 20.0
_LARGE = 20_000
_BLOCK = 512


def fill_gaps(places: Places, units: Ints, seconds: float = _GAPS_SECONDS) -> None:
    """Give units without a host, the largest first, the fullest host that has room for them."""
    problem = places.problem
    unit = np.maximum(problem.capacity.mean(axis=0), 1e-300)
    until = time.monotonic() + seconds
    units = _hopeful(places, units)
    units = units[np.argsort(-(problem.demand[units] / unit).sum(axis=1), kind="stable")]
    for part in (units[at : at + _BLOCK] for at in range(0, len(units), _BLOCK)):
        part = _hopeful(places, part)  # noqa: PLW2901 - gaps are smaller by now
        if not len(part):
            continue
        hosts = np.flatnonzero((places.free >= problem.demand[part].min(axis=0)).all(axis=1))
        for at in part.tolist() if len(hosts) else ():
            if time.monotonic() > until:
                return
            host = best_host(places, at, hosts)
            if host is not None:
                places.put(np.array([at]), host)


def best_host(places: Places, unit: int, hosts: Ints | None = None) -> int | None:
    """The host with the least left that takes the unit; of all, or of these."""
    problem = places.problem
    among = np.arange(len(problem.capacity)) if hosts is None else hosts
    among = among[problem.allowed[problem.key[unit], problem.kind[among]]]
    among = among[(places.free[among] >= problem.demand[unit]).all(axis=1)]
    words = problem.words_of(unit)
    if words:
        among = np.array([host for host in among.tolist() if not words & places.words.get(host, set())], dtype=np.int64)
    if not len(among):
        return None
    share = places.free[among] / np.maximum(problem.capacity[among], 1e-300)
    return int(among[(share @ places.weights).argmin()])


def _hopeful(places: Places, units: Ints) -> Ints:
    """Without those that are larger than any gap."""
    problem = places.problem
    found = []
    for key in np.unique(problem.key[units]).tolist():
        mine = units[problem.key[units] == key]
        hosts = problem.allowed[key][problem.kind]
        if hosts.any():
            found.append(mine[(problem.demand[mine] <= places.free[hosts].max(axis=0)).all(axis=1)])
    return np.concatenate(found) if found else units[:0]


def improve(places: Places, bound: int, seconds: float, seed: int = 0) -> Places:
    """A placement with as many units placed, and as few hosts as can be found in this time."""
    until = time.monotonic() + seconds
    chance = Random(seed)  # noqa: S311 - no secret
    places = _emptied(places, bound, until)
    if len(places.problem.demand) > _LARGE:
        return places
    straight = exact.line(places.problem)
    if straight is not None and not len(unplaced(places)):
        return _shrunk(places, straight, bound, until, chance)
    best = places.copy()
    while time.monotonic() < until and len(best.used()) > bound:
        places = _step(places, chance)
        if len(places.used()) < len(best.used()):
            places = _emptied(places, bound, until)
            best = places.copy()
    return best


def _step(places: Places, chance: Random) -> Places:
    """One try; the same places where it was no better."""
    used = places.used()
    fill = places.fill()[used]
    count = min(len(used), chance.randint(_FEWEST, _MOST))
    order = np.argsort(fill, kind="stable")
    emptiest = order[: chance.randint(1, max(1, min(3, count)))]
    others = chance.sample(range(len(used)), count)
    hosts = np.unique(used[np.concatenate([emptiest, np.array(others, dtype=np.int64)])])
    units = places.on(hosts.tolist())
    trial = places.copy()
    trial.take(units)
    _recreate(trial, units, hosts, chance)
    if (trial.host[units] < 0).any():
        return places
    before, after = _worth(places, hosts), _worth(trial, hosts)
    return trial if after >= before - 1e-12 else places


def _worth(places: Places, hosts: Ints) -> float:
    """Grows with empty hosts and full ones."""
    fill = _even_fill(places, hosts)
    return float((fill * fill).sum() + 2.0 * (fill == 0.0).sum())


def _even_fill(places: Places, hosts: Ints) -> Floats:
    problem = places.problem
    capacity = np.maximum(problem.capacity[hosts], 1e-300)
    weights = places.weights
    return np.asarray((1.0 - places.free[hosts] / capacity) @ (weights / max(weights.sum(), 1e-300)))


def _recreate(places: Places, units: Ints, hosts: Ints, chance: Random) -> None:
    rng = np.random.default_rng(chance.getrandbits(32))
    manner = Manner(balance=chance.choice((0.0, 0.5, 0.8, 1.0)), noise=_NOISE * chance.random(), at_once=1 << 30)
    Greedy(places, units, hosts, rng, manner).run()
    for unit in units[places.host[units] < 0].tolist():
        host = best_host(places, unit, places.used())
        if host is not None:
            places.put(np.array([unit]), host)


def _shrunk(places: Places, straight: exact.Line, bound: int, until: float, chance: Random) -> Places:
    found: dict[int, list[int]] = {}
    for unit, host in enumerate(places.host.tolist()):
        found.setdefault(host, []).append(unit)
    better = Places(places.problem)
    exact.put(better, straight.shrink(found, bound, until, chance))
    return better


def _emptied(places: Places, bound: int, until: float) -> Places:
    """With the emptiest hosts cleared, as long as others' gaps take all that was on them."""
    while time.monotonic() < until:
        used = places.used()
        if len(used) <= bound:
            return places
        host = int(used[places.fill()[used].argmin()])
        others = used[used != host]
        trial = places.copy()
        units = trial.on([host])
        trial.take(units)
        size = trial.problem.demand[units] / np.maximum(trial.problem.capacity.mean(axis=0), 1e-300)
        for unit in units[np.argsort(-size.sum(axis=1), kind="stable")].tolist():
            target = best_host(trial, unit, others)
            if target is None:
                return places
            trial.put(np.array([unit]), target)
        places = trial
    return places


def start(problem: Problem, seed: int = 0) -> Places:
    """The first placement: of several manners the best where the problem is small."""
    units, hosts = np.arange(len(problem.demand)), np.arange(len(problem.capacity))
    straight = exact.line(problem)
    found = []
    if straight is not None:
        order = np.argsort(-problem.capacity.max(axis=1), kind="stable").tolist()
        places = Places(problem)
        exact.put(places, straight.fill(units.tolist(), order))
        found.append(places)
    else:
        for manner in _manners(len(units)):
            places = Places(problem)
            Greedy(places, units, hosts, np.random.default_rng(seed), manner).run()
            found.append(places)
    for places in found:
        fill_gaps(places, unplaced(places))
    return min(found, key=lambda places: (len(unplaced(places)), len(places.used())))


def _manners(count: int) -> list[Manner]:
    if count > 200_000:
        return [Manner(at_once=3, pool=700)]
    if count > 3000:
        return [Manner()]
    return [Manner(balance=balance, at_once=1 << 30) for balance in (0.0, 0.5, 0.8, 1.0)]
