"""What samples say: median, spread, and how sure a ratio is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

LEAST = 4
"""Samples on either side below which no difference is called real: with three and three, even complete separation
happens by chance once in ten."""

_DRAWS = 4000
_SURE = 95.0


@dataclass(frozen=True, slots=True)
class Summary:
    """`spread` is the interquartile range as a share of the median."""

    count: int
    median: float
    spread: float
    least: float
    most: float

    def as_dict(self) -> dict[str, Any]:
        """JSON-safe."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Ratio:
    """Performance relative to a base: 1 is equal, 0.5 half as good, whichever way `better` points.

    `low` and `high` hold it with 95 % (percentile bootstrap of the ratio of medians). `real` is True or False, or None
    where there are too few samples to say.
    """

    value: float
    low: float
    high: float
    real: bool | None

    @property
    def verdict(self) -> str:
        """better, worse, equal (no difference can be shown) or unsure (too few samples)."""
        if self.real is None:
            return "unsure"
        if not self.real:
            return "equal"
        return "better" if self.value > 1 else "worse"

    def as_dict(self) -> dict[str, Any]:
        """JSON-safe, with the verdict."""
        return {**asdict(self), "verdict": self.verdict}


def summary(samples: Sequence[float]) -> Summary:
    """Of at least one sample."""
    import numpy as np

    low, median, high = (float(found) for found in np.percentile(samples, (25, 50, 75)))
    return Summary(
        count=len(samples),
        median=median,
        spread=(high - low) / median if median else 0.0,
        least=float(min(samples)),
        most=float(max(samples)),
    )


def ratio(samples: Sequence[float], base: Sequence[float], *, lower_is_better: bool) -> Ratio:
    """Performance of `samples` relative to `base`, both with at least one, all above 0. Repeatable: it is seeded."""
    import numpy as np

    draw = np.random.default_rng(20140721)
    ours, theirs = (np.asarray(found, dtype=float) for found in (samples, base))
    value = float(np.median(ours) / np.median(theirs))
    drawn = np.median(draw.choice(ours, (_DRAWS, len(ours))), axis=1)
    drawn = drawn / np.median(draw.choice(theirs, (_DRAWS, len(theirs))), axis=1)
    if lower_is_better:
        value, drawn = 1 / value, 1 / drawn
    low, high = (float(found) for found in np.percentile(drawn, ((100 - _SURE) / 2, (100 + _SURE) / 2)))
    enough = min(len(ours), len(theirs)) >= LEAST
    return Ratio(value, low, high, (low > 1 or high < 1) if enough else None)
