"""The damage matrix: all that survives comes back, under its full path where the names survive, and nothing is
called whole that isn't. `python -m tests.rescue.matrix` prints all of it; here are the rows that say most.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.rescue import matrix
from tests.rescue.damages import ONE, PAIRS
from tests.rescue.samples import VOLUMES

pytestmark = pytest.mark.heavy

OTHERS = [
    ("vmfs5l", ("LVM area 16 MiB", "superblock")),
    ("vmfs6l", ("superblock", "first FDC cluster")),
    ("vmfs5d", ("superblock",)),
    ("vmfs6d", ("first FDC cluster",)),
    ("vmfs6ld", ("superblock",)),
    ("vmfs5-no-dense-sbpc", ("superblock", "first FDC cluster")),
    ("vmfs5-span", ("LVM area 16 MiB", "superblock")),
    ("vmfs5-span", ("first FDC cluster",)),
    ("vmfs6-span", ("LVM area 16 MiB",)),
    ("vmfs6-span", ("superblock", "first FDC cluster")),
    ("zero5", ("none",)),
    ("zero5", ("LVM area 16 MiB", "superblock")),
    ("zero5", ("first FDC cluster",)),
    ("zero5", ("superblock", "first FDC cluster")),
    ("zero6", ("superblock",)),
    ("zero6", ("superblock", "first FDC cluster")),
    ("vmfs6", ("first FDC cluster", "bitmaps of sub-blocks")),
]
ROWS = [
    *(("vmfs5", (one,)) for one in ONE),
    *(("vmfs6", (one,)) for one in ONE if one != ".pbc.sf FD"),
    *((("vmfs5", "vmfs6")[number % 2], pair) for number, pair in enumerate(PAIRS)),
    *OTHERS,
]


@pytest.mark.parametrize(("name", "damages"), [pytest.param(*row, id=f"{row[0]}-{'+'.join(row[1])}") for row in ROWS])
def test_what_survives_comes_back(image: Callable[[str], Path], name: str, damages: tuple[str, ...]) -> None:
    for each in VOLUMES[name]:
        image(each)
    row = matrix.measured(name, *damages)
    assert (row.ours.wrong, row.ours.failed) == ([], [])
    assert row.ours.content >= len(row.possible.content), str(row.ours)
    assert row.ours.paths >= len(row.possible.named), str(row.ours)
