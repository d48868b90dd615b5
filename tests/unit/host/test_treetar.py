"""Trees as tar streams, and back."""

from __future__ import annotations

import contextlib
import io
import os
import socket
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from triune.domain.errors import Invalid
from triune.domain.operation import Silent
from triune.host import treetar, untar
from triune.host.untar import Policy

MIB = 1 << 20


def packed(path: Path, as_name: str | None = None) -> bytes:
    fd = os.open(path.parent, os.O_RDONLY)
    try:
        return b"".join(treetar.stream(fd, path.name, path.name if as_name is None else as_name))
    finally:
        os.close(fd)


def unpacked(data: bytes, target: Path, policy: Policy | None = None) -> None:
    target.mkdir(exist_ok=True)
    fd = os.open(target, os.O_RDONLY)
    try:
        untar.unpack(io.BytesIO(data), fd, policy or Policy(), Silent())
    finally:
        os.close(fd)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    top = tmp_path / "top"
    (top / "sub/deep").mkdir(parents=True)
    (top / "sub/file").write_bytes(b"hello")
    (top / "sub/file").chmod(0o640)
    (top / "link").symlink_to("/etc/passwd")
    os.link(top / "sub/file", top / "hard")
    with (top / "holes").open("wb") as file:
        file.seek(3 * MIB)
        file.write(b"x" * 10_000)
        file.truncate(9 * MIB)
    os.mkfifo(top / "pipe", 0o600)
    (top / ("long" * 50)).write_text("y")
    (top / "ünicode\udcff").write_text("z")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(top / "sock"))
    os.utime(top / "sub/file", (1000, 1000))
    (top / "sub").chmod(0o555)
    return top


def listing(top: Path) -> Iterator[tuple[object, ...]]:
    for path in sorted(top.rglob("*")):
        info = path.lstat()
        if path.is_socket():
            continue
        what = str(path.readlink()) if path.is_symlink() else path.read_bytes() if path.is_file() else b""
        yield str(path.relative_to(top)), info.st_mode, int(info.st_mtime), info.st_nlink, what


def test_a_tree_comes_out_as_it_went_in(tree: Path, tmp_path: Path) -> None:
    unpacked(packed(tree), tmp_path / "out")
    assert list(listing(tmp_path / "out/top")) == list(listing(tree))


def test_holes_stay_holes_and_cost_nothing(tree: Path, tmp_path: Path) -> None:
    data = packed(tree / "holes")
    assert len(data) < 64 << 10
    unpacked(data, tmp_path / "out")
    made = (tmp_path / "out/holes").stat()
    assert made.st_size == 9 * MIB
    assert made.st_blocks * 512 < MIB // 4


def test_gnu_tar_reads_it(tree: Path, tmp_path: Path) -> None:
    out = tmp_path / "gnu"
    out.mkdir()
    subprocess.run(["tar", "-C", out, "-xpf", "-"], input=packed(tree), check=True)
    assert list(listing(out / "top")) == list(listing(tree))


def test_the_contents_alone_and_another_name(tree: Path, tmp_path: Path) -> None:
    unpacked(packed(tree, ""), tmp_path / "contents")
    assert (tmp_path / "contents/sub/file").read_bytes() == b"hello"
    unpacked(packed(tree), tmp_path / "renamed", Policy(top="other"))
    assert (tmp_path / "renamed/other/hard").stat().st_nlink == 2


def test_what_becomes_something_else_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A guest swaps a file for a link to the host's while it is read."""
    (tmp_path / "bait").write_text("bait")
    real = os.stat

    def swapped(path: object, **options: object) -> os.stat_result:
        info = real(path, **options)  # type: ignore[call-overload]
        if path == "bait":
            (tmp_path / "bait").unlink()
            (tmp_path / "bait").symlink_to("/etc/hostname")
        return info  # type: ignore[no-any-return]

    monkeypatch.setattr(os, "stat", swapped)
    assert packed(tmp_path / "bait") == bytes(1024)


def test_links_in_the_target_are_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out/top").symlink_to(outside)
    source = tmp_path / "top"
    source.mkdir()
    (source / "file").write_text("x")
    unpacked(packed(source), tmp_path / "out")
    assert not list(outside.iterdir()), "the link was replaced, not followed"


def test_nothing_comes_out_setuid_unless_asked(tmp_path: Path) -> None:
    (tmp_path / "su").write_text("x")
    (tmp_path / "su").chmod(0o6755)
    unpacked(packed(tmp_path / "su"), tmp_path / "out", Policy(mode=0o777))
    assert (tmp_path / "out/su").stat().st_mode & 0o7777 == 0o755


_NAMES = st.sampled_from(["a", "a/b", "../secret", "/etc/x", "a/../../secret", "b", ".", "", "a/b/c", "../out"])


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_a_mutated_stream_stays_inside(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name, kind, target in data.draw(st.lists(st.tuples(_NAMES, st.sampled_from("0125"), _NAMES), max_size=6)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind.encode(), target
            tar.addfile(member)
    raw = bytearray(archive.getvalue())
    for position, value in data.draw(
        st.lists(st.tuples(st.integers(0, len(raw) - 1), st.integers(0, 255)), max_size=4)
    ):
        raw[position] = value
    (folder / "secret").write_text("secret")
    with contextlib.suppress(Invalid, OSError):
        unpacked(bytes(raw), folder / "out")
    assert sorted(path.name for path in folder.iterdir()) in (["out", "secret"], ["secret"])
    assert (folder / "secret").read_text() == "secret"
    assert (folder / "secret").stat().st_nlink == 1
