"""Options and ranges of mounts, and inotify's records; the mounts themselves are tried with real containers."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triune.domain.errors import Invalid
from triune.host import idmap, inotify, overlay
from triune.host.idmap import IdRange
from triune.host.inotify import Change, FolderWatch


def test_overlay_options_escape_what_the_kernel_splits_at() -> None:
    text = overlay.options(Path("/l:o,w\\"), Path("/u:p,"), Path("/w"))
    assert text == "lowerdir=/l\\:o\\,w\\\\,upperdir=/u:p\\,,workdir=/w"
    with pytest.raises(Invalid):
        overlay.options(Path("/a\nb"), Path("/u"), Path("/w"))
    with pytest.raises(ValueError, match="too long"):
        overlay.options(Path("/" + "a" * 5000), Path("/u"), Path("/w"))


def test_a_folder_is_no_mount_and_unmounting_it_succeeds(tmp_path: Path) -> None:
    assert not overlay.is_mounted(tmp_path)
    assert not overlay.is_mounted(tmp_path / "none")
    assert overlay.is_mounted(Path("/proc"))


@pytest.mark.parametrize(
    ("users", "groups", "expected"),
    [
        ("root:1000000:65536\n", "root:1000000:65536\n", IdRange(1000000, 65536)),
        ("ann:1:9\nroot:100:10\nroot:1000:100\n", "root:1050:100\n", IdRange(1050, 50)),
        ("0:5:10\n", "root:5:10\n", IdRange(5, 10)),
        ("root:1:10\n", "", None),
        ("root:x:10\nroot:1\n#\n\nroot:-1:5\n", "root:1:10\n", None),
    ],
)
def test_subordinate_ranges(tmp_path: Path, users: str, groups: str, expected: IdRange | None) -> None:
    (tmp_path / "subuid").write_text(users)
    (tmp_path / "subgid").write_text(groups)
    assert idmap.subordinate_range("root", tmp_path) == expected


def test_no_files_no_range(tmp_path: Path) -> None:
    assert idmap.subordinate_range("root", tmp_path) is None


def test_names_that_come_go_and_move(tmp_path: Path) -> None:
    watch = FolderWatch(tmp_path)
    try:
        (tmp_path / "a").mkdir()
        (tmp_path / "a").rename(tmp_path / "b")
        (tmp_path / "b").rmdir()
        made, left, came, gone = watch.read()
        assert (made, gone) == (Change("created", "a", True), Change("deleted", "b", True))
        assert (left.kind, left.name, came.kind, came.name) == ("moved-from", "a", "moved-to", "b")
        assert left.cookie == came.cookie != 0
        assert watch.read() == []
    finally:
        watch.close()


@given(st.binary())
def test_any_bytes_are_decoded_without_an_error(data: bytes) -> None:
    list(inotify.parse(data))


def test_records_one_after_the_other() -> None:
    record = struct.pack("iIII", 1, 0x100, 0, 16) + b"name".ljust(16, b"\0")
    assert list(inotify.parse(record * 2)) == [Change("created", "name")] * 2


def test_a_file_is_not_watched(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(OSError):
        FolderWatch(tmp_path / "file")
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert (tmp_path / "file").exists()
