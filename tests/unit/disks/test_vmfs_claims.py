"""Blocks that two files lead to."""

from __future__ import annotations

from triune.disks.vmfs.blocks import Census
from triune.disks.vmfs.claims import Claims


def claims(*files: tuple[str, tuple[tuple[int, int], ...], frozenset[int]]) -> list[tuple[str, str]]:
    found = Claims()
    for path, extents, items in files:
        found.add(path, path, Census(extents=extents, items=items))
    return found.shared()


NONE: frozenset[int] = frozenset()


def test_files_beside_each_other_share_nothing() -> None:
    assert claims(("a", ((0, 4), (10, 2)), frozenset({2})), ("b", ((4, 6), (12, 1)), frozenset({66}))) == []


def test_one_block_is_enough() -> None:
    assert claims(("a", ((0, 100),), NONE), ("b", ((99, 1),), NONE)) == [("a", "b")]


def test_a_long_extent_is_remembered_behind_short_ones() -> None:
    assert claims(("a", ((0, 100),), NONE), ("b", ((200, 1),), NONE), ("c", ((50, 1),), NONE)) == [("a", "c")]


def test_sub_blocks_and_pointer_blocks_count_by_their_address() -> None:
    assert claims(("a", (), frozenset({0x482})), ("b", (), frozenset({0x482, 0x4C2}))) == [("a", "b")]


def test_a_file_of_two_names_shares_with_nobody() -> None:
    found = Claims()
    for path in ("a", "b"):
        found.add("104.1", path, Census(extents=((7, 3),)))
    assert found.shared() == []
