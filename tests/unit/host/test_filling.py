"""A tree in the place of another."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from triune.host.filling import put

WHEN = 981173106_789012345


@pytest.fixture
def trees(tmp_path: Path) -> tuple[Path, Path]:
    source, target = tmp_path / "source", tmp_path / "target"
    (source / "folder").mkdir(parents=True)
    (source / "folder/file").write_text("new")
    (source / "link").symlink_to("folder/file")
    os.utime(source / "folder/file", ns=(WHEN, WHEN))
    source.chmod(0o2750)
    os.utime(source, ns=(WHEN, WHEN))
    (target / "old").mkdir(parents=True)
    (target / "old/file").write_text("old")
    return source, target


def is_there(target: Path) -> None:
    assert sorted(path.name for path in target.iterdir()) == ["folder", "link"]
    assert (target / "link").read_text() == "new"
    assert (target / "link").is_symlink()
    found = target.stat()
    assert (found.st_mode & 0o7777, found.st_mtime_ns) == (0o2750, WHEN)
    assert (target / "folder/file").stat().st_mtime_ns == WHEN


def test_moved(trees: tuple[Path, Path]) -> None:
    put(*trees)
    is_there(trees[1])
    assert list(trees[0].iterdir()) == []


def test_copied_to_another_mount(trees: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, target: Path) -> Path:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), str(self), None, str(target))

    monkeypatch.setattr(Path, "rename", refuse)
    put(*trees)
    is_there(trees[1])
