"""What the catalogue sets beside each other: two ways of the same subject, and how much better the first is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from triune.services.benchmarks.catalogue import LOWER, catalogue
from triune.services.benchmarks.results import Result
from triune.services.benchmarks.statistics import Ratio, ratio
from triune.services.benchmarks.subject import NATIVE


@dataclass(frozen=True, slots=True)
class Pair:
    """`first` and `second` are benchmarks; by subject, performance in the first relative to the second."""

    title: str
    first: str
    second: str
    ratios: dict[str, Ratio]

    def as_dict(self) -> dict[str, Any]:
        """As `report --json` has it."""
        ratios = {name: found.as_dict() for name, found in self.ratios.items()}
        return {"title": self.title, "first": self.first, "second": self.second, "ratios": ratios}


def pairs(result: Result) -> Iterator[Pair]:
    """Those with samples of both in a subject; natively there is one way only."""
    better = {row["id"]: row["better"] for row in result["benchmarks"]}
    names = [str(subject["name"]) for subject in result["subjects"] if subject["name"] != NATIVE]
    for known in catalogue().pairs:
        first, second = known["first"], known["second"]
        ratios = {}
        for name in names:
            ours, theirs = result.samples(first, name), result.samples(second, name)
            if ours and theirs:
                ratios[name] = ratio(ours, theirs, lower_is_better=better.get(first) == LOWER)
        if ratios:
            yield Pair(known["title"], first, second, ratios)
