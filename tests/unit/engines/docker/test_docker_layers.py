"""Where a container's writable layer is, by what containerd's tool prints."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triune.engines.docker.layers import parse_upper

_SNAPSHOTS = "/var/lib/containerd/io.containerd.snapshotter.v1.overlayfs/snapshots"


@pytest.mark.parametrize(
    ("text", "upper"),
    [
        (
            f"mount -t overlay overlay /mnt -o index=off,workdir={_SNAPSHOTS}/9/work,upperdir={_SNAPSHOTS}/9/fs,"
            f"lowerdir={_SNAPSHOTS}/8/fs:{_SNAPSHOTS}/1/fs\n",
            f"{_SNAPSHOTS}/9/fs",
        ),
        # A snapshot that is only for reading, and one without anything below.
        (f"mount -t overlay overlay /mnt -o index=off,lowerdir={_SNAPSHOTS}/8/fs:{_SNAPSHOTS}/1/fs\n", None),
        (f"mount -t bind {_SNAPSHOTS}/1/fs /mnt -o ro,rbind\n", None),
        ("mount -t overlay overlay /mnt -o upperdir=relative/fs", None),
        ("", None),
    ],
)
def test_the_upper_folder(text: str, upper: str | None) -> None:
    assert parse_upper(text) == upper


@given(st.text())
def test_any_text_is_taken(text: str) -> None:
    found = parse_upper(text)
    assert found is None or (found.startswith("/") and found in text)
