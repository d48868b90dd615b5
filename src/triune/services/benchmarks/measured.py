"""What the newest results of this host say of each engine, for `compare`, `advise` and whoever plans with it.

Figures of emulated machines are never told: who asks takes the published ones for them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from triune.services.benchmarks.results import Result, usable

_RESULTS = 10


def measured(
    folder: Path, hostname: str | None, wanted: Collection[str] | None = None
) -> dict[str, dict[str, dict[str, Any]]]:
    """`{engine: {benchmark: figure}}`, each of the newest result below `folder` that has it; empty where there is none.

    Of the `wanted` benchmarks only, for intervals take a while. Files that are no results are passed over.

    A figure has `median`, `unit`, `count`, `ratio` (`value`, `low`, `high`, `real`, relative to native, or None),
    `loaded` (the host was busy) and `source`, a phrase.
    """
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for _, result in islice(usable(folder, hostname=hostname), _RESULTS):
        for engine, there in figures(result, wanted).items():
            mine = found.setdefault(engine, {})
            mine.update({name: figure for name, figure in there.items() if name not in mine})
    return found


def figures(result: Result, wanted: Collection[str] | None = None) -> dict[str, dict[str, dict[str, Any]]]:
    """Of one result."""
    busy = ", the host being busy" if result.data.get("loaded") else ""
    source = f"measured here: run {result['id']} of {result['started'][:10]}{busy}"
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for cell in result.cells(wanted):
        if cell.subject["label"]:
            continue
        figure: Mapping[str, Any] = {
            "median": cell.summary.median,
            "unit": cell.benchmark["unit"],
            "count": cell.summary.count,
            "ratio": cell.ratio.as_dict() if cell.ratio else None,
            "loaded": bool(result.data.get("loaded")),
            "source": source,
        }
        found.setdefault(cell.subject["name"], {})[cell.benchmark["id"]] = dict(figure)
    return found
