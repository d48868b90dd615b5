"""Deleted disks come back byte for byte where something tells of their blocks, and nothing is made up.

`python -m tests.rescue.deletions` prints the table.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.rescue import deletions

pytestmark = pytest.mark.heavy

# What doesn't come back, and why.
MISSED = {
    ("200 MiB: its list was in the descriptor", "vmfs5"): "the descriptor's own list is gone: nothing tells the blocks",
}


@pytest.mark.parametrize(
    ("case", "volume"),
    [pytest.param(case, f"vmfs{5 + number % 2}", id=case.name) for number, case in enumerate(deletions.CASES)],
)
def test_deleted_disks_come_back(
    image: Callable[[str], Path], request: pytest.FixtureRequest, case: deletions.Case, volume: str
) -> None:
    image(volume)
    got = deletions.simulate(volume, case)
    assert got.wrong == []
    if why := MISSED.get((case.name, volume)):
        request.applymarker(pytest.mark.xfail(strict=True, reason=why))
    assert got.whole == got.total
