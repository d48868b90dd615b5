"""Published figures beside this host's, and where it agrees."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from triune.services.benchmarks.results import Cell, Result
from triune.services.benchmarks.subject import NATIVE
from triune.services.packaged import packaged

VERSION = 1
TOLERANCE = 0.15
"""A measured interval agrees where it touches the published range, widened by this share."""

_DENSITY_MIB = 64 * 1024


@cache
def published() -> Mapping[str, Any]:
    """`published.yaml`. Raises ValueError where it is of another version."""
    return packaged(__package__, VERSION, "published.yaml")


def beside(result: Result) -> list[dict[str, Any]]:
    """Rows `{metric, benchmark, unit, kind, source, cells}`; a cell `{published, here, low, high, verdict}` by subject.

    `verdict` is agrees, lower or higher (than published), emulated (not compared) or missing (not measured).
    """
    known = published()
    cells = {(cell.benchmark["id"], cell.subject["name"]): cell for cell in result.cells()}
    rows = []
    for row in known["rows"]:
        units = {benchmark["id"]: benchmark["unit"] for benchmark in result["benchmarks"]}
        unit = {"relative": "× native", "density": "instances"}.get(row["kind"], units.get(row["benchmark"], ""))
        rows.append(
            {
                "metric": row["metric"],
                "benchmark": row["benchmark"],
                "kind": row["kind"],
                "unit": unit,
                "source": known["sources"][row["source"]],
                "cells": dict(_cells(row, result, cells)),
            }
        )
    return rows


def _cells(
    row: Mapping[str, Any], result: Result, cells: Mapping[tuple[str, str], Cell]
) -> Iterator[tuple[str, dict[str, Any]]]:
    names = [subject["name"] for subject in result["subjects"] if subject["name"] != NATIVE]
    for name in dict.fromkeys([*row["cells"], *(name for name in names if (row["benchmark"], name) in cells)]):
        told = row["cells"].get(name)
        found = _here(row["kind"], cells.get((row["benchmark"], name)))
        if found is None and told is None:
            continue
        label = (result.subject(name) or {}).get("label", "")
        here, low, high = found or (None, None, None)
        yield (
            name,
            {
                "published": told,
                "here": here,
                "low": low,
                "high": high,
                "label": label,
                "verdict": _verdict(told, found, label),
            },
        )


def _here(kind: str, cell: Cell | None) -> tuple[float, float, float] | None:
    """(value, low, high) of this host."""
    if cell is None:
        return None
    if kind == "relative":
        return (cell.ratio.value, cell.ratio.low, cell.ratio.high) if cell.ratio else None
    found = cell.summary
    if kind == "density":
        return tuple(_DENSITY_MIB / value for value in (found.median, found.most, found.least))  # type: ignore[return-value]
    return found.median, found.least, found.most


def _verdict(told: list[float] | None, found: tuple[float, float, float] | None, label: str) -> str:
    if found is None:
        return "missing"
    if told is None:
        return "unpublished"
    if label:
        return "emulated"
    _, low, high = found
    if high < told[0] * (1 - TOLERANCE):
        return "lower"
    return "higher" if low > told[1] * (1 + TOLERANCE) else "agrees"
