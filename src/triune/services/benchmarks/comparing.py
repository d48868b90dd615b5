"""Two runs, or two hosts, side by side."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from triune.domain.errors import Invalid
from triune.services.benchmarks.results import Result
from triune.services.benchmarks.statistics import ratio, summary

_CONDITIONS = ("hostname", "kernel", "cpu", "cpus", "governor", "file_system", "mitigations")


def compare(first: Result, second: Result) -> dict[str, Any]:
    """`{first, second, differences, rows}`: performance of the second relative to the first, above 1 is better.

    Raises Invalid("nothing_in_common").
    """
    rows = [*_rows(first, second)]
    if not rows:
        raise Invalid(
            "nothing_in_common",
            "the two results have no benchmark in common",
            hint="Compare runs of the same suite and engines.",
        )
    return {
        "first": _told(first),
        "second": _told(second),
        "differences": [*_differences(first, second)],
        "rows": rows,
    }


def _told(result: Result) -> dict[str, Any]:
    return {
        key: result.data.get(key) for key in ("id", "started", "suite", "state", "triune", "limits", "image", "loaded")
    } | {"hostname": result["host"].get("hostname")}


def _rows(first: Result, second: Result) -> Iterator[dict[str, Any]]:
    known = {row["id"]: row for row in second["benchmarks"]}
    for benchmark in first["benchmarks"]:
        other = known.get(benchmark["id"])
        if other is None or (other["unit"], other["better"]) != (benchmark["unit"], benchmark["better"]):
            continue
        for subject in first["subjects"]:
            ours = first.samples(benchmark["id"], subject["name"])
            theirs = second.samples(benchmark["id"], subject["name"])
            if not ours or not theirs:
                continue
            there = second.subject(subject["name"]) or subject
            yield {
                "benchmark": benchmark["id"],
                "area": benchmark["area"],
                "title": benchmark["title"],
                "unit": benchmark["unit"],
                "better": benchmark["better"],
                "subject": subject["name"],
                "labels": [subject["label"], there["label"]],
                "first": summary(ours).as_dict(),
                "second": summary(theirs).as_dict(),
                "ratio": ratio(theirs, ours, lower_is_better=benchmark["better"] == "lower").as_dict(),
            }


def _differences(first: Result, second: Result) -> Iterator[str]:
    """Conditions that were not the same, a sentence each."""
    for key in _CONDITIONS:
        ours, theirs = (result["host"].get(key) for result in (first, second))
        if ours != theirs:
            shown = "" if isinstance(ours, dict) or isinstance(theirs, dict) else f": {ours}, then {theirs}"
            yield f"{key.replace('_', ' ')} differs{shown}"
    for key, what in (("limits", "the limits differ"), ("image", "the images differ"), ("seconds", "the times differ")):
        if first.data.get(key) != second.data.get(key):
            yield what
    for result, which in ((first, "first"), (second, "second")):
        if result.data.get("loaded"):
            yield f"the {which} was measured on a busy host"
    for subject in first["subjects"]:
        other = second.subject(subject["name"])
        if other is not None and other["label"] != subject["label"]:
            yield f"{subject['name']} is {subject['label'] or 'accelerated'}, then {other['label'] or 'accelerated'}"
