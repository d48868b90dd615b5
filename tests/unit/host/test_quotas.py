"""What btrfs says of quota groups and of subvolumes that are going."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from triune.host import quotas


def test_stale_groups_are_found() -> None:
    text = "0/5   16.00KiB  16.00KiB   <toplevel>\n0/258   16.00KiB  16.00KiB   <stale>\n0/259 0.00B 0.00B  a <b>\n"
    assert quotas.stale(text) == [258]


def test_subvolumes_that_are_going_are_found() -> None:
    text = "ID 257 gen 12 top level 0 path DELETED\nID 260 gen 9 top level 0 path DELETED\n"
    assert quotas.dropping(text) == {257, 260}
    assert quotas.dropping("") == set()


@given(st.text())
def test_any_text_is_read(text: str) -> None:
    quotas.stale(text)
    quotas.dropping(text)


def test_what_is_no_btrfs_has_no_quotas(tmp_path: Path) -> None:
    assert quotas.folder(tmp_path) is None
    assert quotas.folder(tmp_path / "gone") is None
    quotas.tidy(tmp_path)
    assert not quotas.inconsistent(tmp_path)
