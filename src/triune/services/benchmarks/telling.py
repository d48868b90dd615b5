"""A result's figures and remarks as text: on the screen, on the page, in Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_MOST_PROBLEMS = 8


def figure(value: float) -> str:
    """Three digits that count, thousands apart."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if value >= 0.001 else f"{value:.1e}"


def spread(count: int, share: float) -> str:
    """Half the interquartile range (`share` of the median is the whole), with a space before it; nothing of one
    sample, which says nothing of it."""
    return f" ±{share / 2:.0%}" if count > 1 else ""


def remarks(data: Mapping[str, Any], rest: str) -> list[str]:
    """What must be known to read a result's figures; `rest` is where the problems are that are not told."""
    lines = [str(warning) for warning in data["warnings"]]
    lines += [f"{row.get('name')} was left out: {row.get('reason')}" for row in data["absent"]]
    failed = {
        (str(row.get("benchmark")), str(row.get("subject")), str(row.get("message"))): None
        for row in data["problems"]
        if not row.get("by_kind")
    }
    told = [f"{benchmark} in {subject}: {message}" for benchmark, subject, message in sorted(failed)]
    more = len(told) - _MOST_PROBLEMS
    lines += [*told[:_MOST_PROBLEMS], *([f"and {more} problems more: {rest}"] if more > 0 else [])]
    return lines + _by_kind(data["problems"])


def _by_kind(problems: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line per subject about what its kind can't have."""
    missing: dict[str, set[str]] = {}
    for row in problems:
        if row.get("by_kind"):
            missing.setdefault(str(row.get("subject")), set()).add(str(row.get("benchmark")))
    return [f"{name}, by its kind, has none of: {', '.join(sorted(ids))}" for name, ids in sorted(missing.items())]
