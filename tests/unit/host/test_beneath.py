"""No path leads out of a tree, whatever its owner puts there, and whenever."""

from __future__ import annotations

import ctypes
import os
import threading
import time
from pathlib import Path

import pytest

from triune.host import beneath
from triune.host.beneath import Root

RENAME_EXCHANGE = 2


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "secret").write_text("secret")
    return folder


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    folder = tmp_path / "tree"
    (folder / "etc").mkdir(parents=True)
    (folder / "etc/hosts").write_text("inside")
    return folder


@pytest.mark.parametrize("path", ["etc/hosts", "/etc/hosts", "etc/../etc/hosts", "../../../etc/hosts", "./etc//hosts"])
def test_paths_begin_and_end_at_the_top(tree: Path, path: str) -> None:
    with Root(tree) as root:
        assert root.read_bytes(path) == b"inside"


def test_links_inside_work_as_for_the_guest(tree: Path) -> None:
    (tree / "link").symlink_to("/etc")
    (tree / "up").symlink_to("../../../etc/hosts")
    with Root(tree) as root:
        assert root.read_bytes("link/hosts") == b"inside"
        assert root.read_bytes("up") == b"inside"
        root.write_bytes("link/new", b"x")
    assert (tree / "etc/new").read_bytes() == b"x"


def test_a_link_to_a_host_path_finds_nothing(tree: Path, outside: Path) -> None:
    (tree / "abs").symlink_to(outside)
    (tree / "rel").symlink_to("../outside")
    with Root(tree) as root:
        for link in ("abs", "rel"):
            with pytest.raises(OSError):
                root.read_bytes(f"{link}/secret")
            with pytest.raises(OSError):
                root.write_bytes(f"{link}/new", b"x")
            with pytest.raises(OSError):
                root.mkdirs(f"{link}/sub/folder")
            root.unlink(f"{link}/secret")
            assert not root.exists(f"{link}/secret")
    assert [path.name for path in outside.iterdir()] == ["secret"]


def test_writing_replaces_a_link_and_leaves_its_target(tree: Path, outside: Path) -> None:
    (tree / "etc/resolv.conf").symlink_to(outside / "secret")
    with Root(tree) as root:
        root.write_bytes("etc/resolv.conf", b"ours", 0o640)
        root.symlink("etc/hosts", "/dev/null")
        root.unlink("etc/hosts")
    assert (outside / "secret").read_text() == "secret"
    assert not (tree / "etc/resolv.conf").is_symlink()
    assert (tree / "etc/resolv.conf").stat().st_mode & 0o777 == 0o640
    assert sorted(path.name for path in (tree / "etc").iterdir()) == ["resolv.conf"]


def test_magic_links_are_refused(tree: Path) -> None:
    with Root("/proc/self") as root, pytest.raises(OSError):
        root.read_bytes("exe")


def test_only_regular_files_are_read_and_no_more_than_asked(tree: Path) -> None:
    os.mkfifo(tree / "pipe")
    with Root(tree) as root:
        with pytest.raises(OSError):
            root.read_bytes("pipe")  # to open it would wait for a writer, for ever
        with pytest.raises(OSError):
            root.read_bytes("etc")
        assert root.read_bytes("etc/hosts", 3) == b"ins"
        assert root.names("etc") == ["hosts"]
        assert root.exists("etc/hosts") and not root.exists("etc/none")
        assert root.stat("etc").st_mode & 0o040000
        with pytest.raises(NotADirectoryError):
            root.mkdirs("etc/hosts/x")
        for bad in ("", "/", "..", "etc/.."):
            with pytest.raises(OSError):
                root.write_bytes(bad, b"x")


def test_a_folder_swapped_for_a_link_while_we_write(tree: Path, outside: Path) -> None:
    """The classic race: between looking and writing, `etc` becomes a link to the host."""
    ended = threading.Event()
    (tree / "other").symlink_to(outside)
    paths = [ctypes.c_char_p(os.fsencode(tree / name)) for name in ("etc", "other")]
    libc = ctypes.CDLL(None)

    def swap() -> None:
        while not ended.is_set():
            libc.renameat2(-100, paths[0], -100, paths[1], RENAME_EXCHANGE)

    thread = threading.Thread(target=swap)
    thread.start()
    written = 0
    try:
        with Root(tree) as root:
            deadline = time.monotonic() + 1.5
            while not written or time.monotonic() < deadline:
                try:
                    root.mkdirs("etc/sub")
                    root.write_bytes("etc/sub/file", b"x")
                    root.write_bytes("etc/file", b"x")
                    written += 1
                except OSError:
                    continue
    finally:
        ended.set()
        thread.join()
    assert [path.name for path in outside.iterdir()] == ["secret"]
    assert written


def test_a_removed_tree_takes_nothing_else_with_it(tmp_path: Path, outside: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "a/b/c").mkdir(parents=True)
    (tree / "a/b/file").write_text("x")
    (tree / "link").symlink_to(outside)
    (tree / "a/b/c/link").symlink_to(outside, target_is_directory=True)
    os.link(outside / "secret", tree / "hard")
    (tree / "locked").mkdir(mode=0o000)
    os.mkfifo(tree / "a/pipe")
    beneath.remove_tree(tree)
    assert not tree.exists() and (outside / "secret").read_text() == "secret"
    beneath.remove_tree(tree)


def test_a_link_in_place_of_the_tree_is_refused(tmp_path: Path, outside: Path) -> None:
    (tmp_path / "tree").symlink_to(outside)
    with pytest.raises(OSError):
        beneath.remove_tree(tmp_path / "tree")
    assert (outside / "secret").exists()


def test_a_very_deep_tree_is_removed(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    fd = os.open(tree, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("d" * 20, dir_fd=fd)
        inner = os.open("d" * 20, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
    os.close(fd)
    assert beneath.disk_usage(tree) is not None
    beneath.remove_tree(tree)
    assert not tree.exists()


def test_disk_usage_counts_hard_links_once_and_follows_nothing(tmp_path: Path, outside: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    (outside / "big").write_bytes(os.urandom(4 << 20))
    (tree / "sub/file").write_bytes(os.urandom(1 << 20))
    os.link(tree / "sub/file", tree / "again")
    (tree / "link").symlink_to(outside)
    used = beneath.disk_usage(tree)
    assert used is not None and 1 << 20 <= used < 2 << 20
    assert beneath.disk_usage(tree, deadline=time.monotonic() - 1) is None
    assert beneath.disk_usage(tmp_path / "none") is None
