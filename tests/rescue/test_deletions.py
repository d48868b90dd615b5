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
    ("200 MiB: its list was in the descriptor", "vmfs6"): "the descriptor's own list is gone: nothing tells the blocks",
    ("200 GiB thin, scattered", "vmfs5"): "pointer blocks that are holes: where the others belong can't be told",
    ("1 TiB thin, scattered", "vmfs6"): "pointer blocks that are holes: where the others belong can't be told",
}


@pytest.mark.parametrize("volume", ["vmfs5", "vmfs6"])
@pytest.mark.parametrize("case", deletions.CASES, ids=lambda case: case.name)
def test_deleted_disks_come_back(
    image: Callable[[str], Path], request: pytest.FixtureRequest, case: deletions.Case, volume: str
) -> None:
    image(volume)
    got = deletions.simulate(volume, case)
    assert got.wrong == []
    if why := MISSED.get((case.name, volume)):
        request.applymarker(pytest.mark.xfail(strict=True, reason=why))
    assert got.whole == got.total
