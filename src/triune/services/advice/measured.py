"""Figures of this host in place of published ones: `host["measured"]`, `{engine: {benchmark: figure}}`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from triune.domain.units import format_duration, format_size
from triune.domain.workload import Workload
from triune.services.advice.knowledge import Rule

_DENSITY_MIB = 64 * 1024
# Performance of half of native, or less, has the worst points of a rule; so has what takes half of what was asked for.
_WORST = 0.5
_LITTLE = 1 / 8


def figure(host: Mapping[str, Any], engine: str, benchmarks: Sequence[str]) -> Mapping[str, Any] | None:
    """The first of these benchmarks that was measured here."""
    there = (host.get("measured") or {}).get(engine) or {}
    return next((there[name] for name in benchmarks if name in there), None)


def told(ask: Mapping[str, Any] | None, host: Mapping[str, Any], engine: str) -> tuple[str, str]:
    """(text of a cell, its source) for `{benchmarks: [...], as: seconds|memory|density|relative}`; "" where unknown."""
    found = figure(host, engine, ask["benchmarks"]) if ask else None
    if ask is None or found is None:
        return "", ""
    match ask["as"]:
        case "seconds":
            text = f"{format_duration(found['median'])} to ready"
        case "memory":
            text = f"{found['median']:.0f} MiB for an idle one"
        case "density":
            text = f"about {_DENSITY_MIB / found['median']:,.0f} idle ones, by memory alone"
        case _:
            text = relative(found)
    return text, str(found["source"]) if text else ""


def relative(found: Mapping[str, Any]) -> str:
    """Performance relative to native in a phrase; "" where there is none, or too few samples to say."""
    ratio = found["ratio"]
    if not ratio or ratio["real"] is None:
        return ""
    if not ratio["real"]:
        return f"no difference to native shown ({ratio['low']:.2f} to {ratio['high']:.2f} × native)"
    return f"{ratio['value']:.2f} × native ({ratio['low']:.2f} to {ratio['high']:.2f})"


def weighed(rule: Rule, engine: str, workload: Workload, host: Mapping[str, Any]) -> tuple[str, str, float] | None:
    """(sentence, its source, points) of a rule whose figure was measured here; None where the published one counts."""
    found = figure(host, engine, rule.measured)
    weights = [weight for weight, _ in rule.weights.values()]
    if found is None:
        return None
    if rule.share_of:
        return _share(rule, found, workload[rule.share_of], weights)
    here = points(found, weights)
    return None if here is None else (f"{rule.measures} on this host: {relative(found)}", str(found["source"]), here)


def _share(
    rule: Rule, found: Mapping[str, Any], asked: int | None, weights: Sequence[float]
) -> tuple[str, str, float] | None:
    """The most of a rule's weights where an eighth of what was asked for is taken, the least where half of it is.

    Figures are in MiB, and the same on a busy host.
    """
    if not asked or found["unit"] != "MiB":
        return None
    taken = found["median"] * 2**20
    best, worst = max(weights), min(weights)
    here = round(best + (worst - best) * min(1.0, max(0.0, taken / asked - _LITTLE) / (_WORST - _LITTLE)), 1)
    text = f"{rule.measures} takes {format_size(int(taken))} on this host, of {format_size(asked)} asked for"
    return text, str(found["source"]), here


def points(found: Mapping[str, Any] | None, weights: Sequence[float]) -> float | None:
    """What a rule gives for it: the most of its weights at native's performance, the least at half of it.

    None where it says too little: not relative, too few samples, or taken on a busy host.
    """
    if found is None or found["loaded"] or not relative(found):
        return None
    value = found["ratio"]["value"] if found["ratio"]["real"] else 1.0
    best, worst = max(weights), min(weights)
    return round(best + (worst - best) * min(1.0, max(0.0, (1 - value) / (1 - _WORST))), 1)
