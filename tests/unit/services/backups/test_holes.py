"""What a restore wrote in full becomes sparse again, in a folder or alone; what is damaged is named."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from triune.services.backups.restore import damaged, dig_holes
from triune.services.backups.stored import Stored

SIZE = 8 << 20


@pytest.mark.parametrize("alone", [True, False])
def test_holes_are_dug(tmp_path: Path, alone: bool) -> None:
    file = tmp_path / "file"
    file.write_bytes(bytes(SIZE))
    before = file.stat().st_mtime_ns
    dig_holes(file if alone else tmp_path, lambda: None)
    after = file.stat()
    assert (after.st_size, after.st_blocks, after.st_mtime_ns) == (SIZE, 0, before)


def test_links_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(bytes(SIZE))
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/link").symlink_to(tmp_path / "other")
    dig_holes(tmp_path / "tree", lambda: None)
    dig_holes(tmp_path / "tree/link", lambda: None)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "other").rename(tmp_path / "elsewhere/other")
    (tmp_path / "tree/folder").symlink_to(tmp_path / "elsewhere")
    dig_holes(tmp_path / "tree", lambda: None)
    dig_holes(tmp_path / "tree/folder", lambda: None)
    assert (tmp_path / "elsewhere/other").stat().st_blocks * 512 >= SIZE


def test_what_is_damaged_is_named_as_far_as_it_fits() -> None:
    backup = Stored(id="5d024c25" + "0" * 56, time=datetime(2026, 3, 1, tzinfo=UTC), host="host")
    assert str(damaged(backup, ["vda at 7 MiB"])).endswith("5d024c25 is damaged in the repository: vda at 7 MiB")
    assert str(damaged(backup, list("abcdefg"))).endswith(": a; b; c; d; e and 2 more")
