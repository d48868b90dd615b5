"""Volumes as a tree: safe names, holes, bytes that are missing, and a real mount."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.rescue.fakes import Bytes, FakeVolume, Runs
from triune.cli.root import main
from triune.disks.content import Run
from triune.domain.rescue import FileKind
from triune.host.fuse import Rich
from triune.services.rescue.mount import VolumeTree
from triune.services.rescue.selecting import named

MIB = 1 << 20


def tree(volume: FakeVolume) -> VolumeTree:
    return VolumeTree(named([volume]))


def at(mounted: VolumeTree, path: str) -> int:
    number = 1
    for name in path.split("/"):
        node = mounted.find(number, name)
        assert node is not None, path
        number = node.number
    return number


def test_files_folders_and_links() -> None:
    volume = FakeVolume()
    volume.add("vm", b"", kind=FileKind.FOLDER, mode=0o750, modified=5)
    volume.add("vm/a.vmx", b"0123456789", mode=0o644, uid=7)
    volume.add("vm/link", b"", kind=FileKind.LINK, target="a.vmx")
    volume.add("lost/in/here", b"x")
    mounted = tree(volume)
    assert isinstance(mounted, Rich)
    assert [name for name, _ in mounted.names(1)] == ["vm", "lost"]
    node = mounted.node(at(mounted, "vm/a.vmx"))
    assert node is not None
    assert (node.size, node.mode, node.uid, node.folder) == (10, 0o444, 7, False)
    assert mounted.read(node.number, 3, 4) == b"3456"
    assert mounted.read(node.number, 8, 99) == b"89"
    assert mounted.target(at(mounted, "vm/link")) == "a.vmx"
    assert mounted.read(at(mounted, "lost/in/here"), 0, 9) == b"x"
    assert mounted.find(1, "none") is None
    assert mounted.node(999) is None
    for wrong in (1, 999):
        with pytest.raises(OSError, match="no such file"):
            mounted.read(wrong, 0, 1)


def test_missing_bytes_are_errors_and_no_holes() -> None:
    volume = FakeVolume()
    source = Bytes(bytes(MIB), bad=[range(5000, 5001)])
    given = [Run(0, MIB, source), Run(2 * MIB, MIB, why="lost"), Run(4 * MIB, MIB, Bytes(b"short"))]
    volume.add("disk", Runs(8 * MIB, given), missing=((MIB, 10),))
    mounted = tree(volume)
    disk = at(mounted, "disk")
    assert mounted.read(disk, 0, 4096) == bytes(4096)
    for offset in (4096, MIB + 5, 2 * MIB, 4 * MIB):
        with pytest.raises(OSError) as caught:
            mounted.read(disk, offset, 4096)
        assert caught.value.errno == errno.EIO
    assert mounted.data(disk, MIB + 10) == (2 * MIB, 3 * MIB)
    assert mounted.data(disk, 3 * MIB) == (4 * MIB, 5 * MIB)
    assert mounted.data(disk, 5 * MIB) is None


def test_names_are_safe_and_none_is_hidden() -> None:
    volume = FakeVolume()
    for path in ("../up", "a\nb", "twice", "twice", "x" * 300):
        volume.add(path, path.encode())
    mounted = tree(volume)
    names = [name for name, _ in mounted.names(1)]
    assert len(names) == len(set(names)) == 5
    assert all(name.isprintable() and name not in (".", "..") and len(name) < 256 for name in names)


def test_what_a_sparse_file_takes() -> None:
    volume = FakeVolume()
    volume.add("thin", Runs(60 << 40, [Run(MIB, MIB, Bytes(bytes(MIB)))]))
    mounted = tree(volume)
    node = mounted.node(at(mounted, "thin"))
    assert node is not None
    assert (node.size, node.allocated) == (60 << 40, MIB)


def test_a_folder_with_a_hundred_thousand_files() -> None:
    volume = FakeVolume()
    empty = Runs(0, [])
    for number in range(100_000):
        volume.add(f"many/file{number}", empty)
    mounted = tree(volume)
    many = at(mounted, "many")
    listed = mounted.names(many)
    assert len(listed) == 100_000
    assert mounted.names(many) is listed
    assert mounted.find(many, "file99999") is not None


@pytest.mark.live
def test_a_real_mount(image: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if shutil.which("fusermount3") is None or not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("hardware: no FUSE here")
    path, folder = str(image("vmfs6")), tmp_path / "mounted"
    folder.mkdir()
    assert main(["rescue", "mount", path, str(folder)]) == 0
    try:
        assert "triune rescue umount" in capsys.readouterr().out
        assert (folder / "small").read_bytes() == b"tiny\n"
        disk = folder / "normal-flat.vmdk"
        assert disk.stat().st_size > 1 << 36
        assert disk.stat().st_blocks < 1 << 20
        assert len(list((folder / "directory").iterdir())) == 100
        assert (folder / "symlink").readlink() == Path("/vmfs/volumes/vmfs6/small")
    finally:
        assert main(["rescue", "umount", str(folder)]) == 0
    assert not folder.is_mount()
