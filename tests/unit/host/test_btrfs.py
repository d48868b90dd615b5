"""What the btrfs tool prints."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triune.domain.errors import Failed
from triune.host import btrfs

SHOW = """instances/lxc/web
\tName: \t\t\tweb
\tUUID: \t\t\tad28ab93-f0bb-b84a-adb2-76bc01401767
\tParent UUID: \t\t-
\tReceived UUID: \t\t-
\tCreation time: \t\t2026-11-21 14:24:26 +0000
\tSubvolume ID: \t\t256
\tGeneration: \t\t14
\tFlags: \t\t\treadonly
\tSnapshot(s):
\t\t\t\tUUID: fake
"""
GROUPS = """Qgroupid    Referenced    Exclusive  Max referenced  Max exclusive   Path
--------    ----------    ---------  --------------  -------------   ----
0/256         10469376     10469000        10485760           none   a
"""


def test_show_is_read() -> None:
    assert btrfs.parse_show(SHOW) == btrfs.Subvolume(256, "ad28ab93-f0bb-b84a-adb2-76bc01401767", "", True)


def test_usage_is_read() -> None:
    assert btrfs.parse_usage(GROUPS) == btrfs.Usage(10469376, 10469000, 10485760)
    assert btrfs.parse_usage(GROUPS.replace("10485760", "none")) == btrfs.Usage(10469376, 10469000, None)
    assert btrfs.parse_usage("") is None


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    btrfs.parse_usage(text)
    with suppress(Failed):
        btrfs.parse_show(text)


def test_what_is_no_subvolume_is_said() -> None:
    with pytest.raises(Failed):
        btrfs.parse_show("ERROR: Not a Btrfs subvolume\n")
