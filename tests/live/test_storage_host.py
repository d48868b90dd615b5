"""What storage is made of, on real file systems: copies that lose nothing, subvolumes, quotas, loop files."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests import nasty
from tests.live.daemon import CACHE
from tests.live.lxc_fixtures import eventually
from tests.live.lxc_places import let_go
from tests.patience import PATIENCE
from triune.domain.errors import Cancelled, Failed
from triune.host import btrfs, copytree, loop, overlay, quotas
from triune.host.beneath import remove_tree
from triune.host.run import run

pytestmark = [pytest.mark.live]

MIB = 1 << 20


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A folder of the host's own file system."""
    path = CACHE / f"storage-host.{os.getpid()}"
    path.mkdir(parents=True)
    yield path
    remove_tree(path)


@pytest.fixture(scope="module")
def mounted(folder: Path) -> Iterator[Path]:
    """A btrfs of 160 MiB with quotas."""
    image, target = folder / "image", folder / "mounted"
    loop.make_file(image, 160 * MIB)
    run(["mkfs.btrfs", "-q", image])
    target.mkdir()
    loop.mount(image, target, "btrfs")
    btrfs.enable_quota(target)
    yield target
    loop.unmount(image, target)
    wait_until_free(image)
    image.unlink()


def wait_until_free(image: Path) -> None:
    """The kernel may hold an unmounted file system for a moment longer, and what copied our mounts meanwhile (a virtual
    machine's namespace, on a host whose root is not shared) as long as it lives."""
    deadline = time.monotonic() + PATIENCE
    while loop.devices(image) and not held_elsewhere(image):
        assert time.monotonic() < deadline, "its loop device is still there"
        time.sleep(0.1)


def held_elsewhere(image: Path) -> bool:
    """Whether another mount namespace has the loop device mounted."""
    found = False
    for path in Path("/proc").glob("[0-9]*/mountinfo"):
        with suppress(OSError):
            text = path.read_text()
            found = found or any(f" {device} " in text for device in loop.devices(image))
    return found


@pytest.mark.parametrize("place", ["own", "btrfs", "across"])
def test_a_copy_of_a_nasty_tree_loses_nothing(folder: Path, mounted: Path, place: str) -> None:
    source = (mounted if place == "btrfs" else folder) / f"nasty-{place}"
    target = (folder if place == "own" else mounted) / f"copy-{place}"
    source.mkdir()
    nasty.make(source)
    before = nasty.fingerprint(source)
    copytree.copy_tree(source, target)
    assert nasty.fingerprint(target) == before
    (target / "plain").write_bytes(b"changed")
    assert nasty.fingerprint(source) == before


def test_a_copy_can_be_stopped_and_a_full_disk_is_told(folder: Path, mounted: Path) -> None:
    source = folder / "large"
    source.mkdir()
    (source / "data").write_bytes(os.urandom(200 * MIB))

    def stop() -> None:
        raise Cancelled("cancelled", "enough", hint="")

    with pytest.raises(Cancelled):
        copytree.copy_tree(source, folder / "stopped", stop)
    with pytest.raises(Failed) as full:
        copytree.copy_tree(source, mounted / "full")
    assert full.value.code == "no_space"
    remove_tree(mounted / "full")


def test_reflinks_are_found_where_they_are(folder: Path, mounted: Path) -> None:
    assert copytree.clones(mounted)
    assert not copytree.clones(Path("/dev/shm"))
    assert list(mounted.glob(".triune*")) == []


def test_subvolumes_and_snapshots(mounted: Path) -> None:
    first, second = mounted / "first", mounted / "second"
    btrfs.create(first)
    assert btrfs.is_subvolume(first)
    assert not btrfs.is_subvolume(mounted.parent)
    (first / "file").write_text("before")
    btrfs.create(first / "inner")
    btrfs.create(first / "inner" / "deeper")
    btrfs.snapshot(first, second, read_only=True)
    (first / "file").write_text("after")
    assert (second / "file").read_text() == "before"
    with pytest.raises(OSError) as denied:
        (second / "file").write_text("no")
    assert denied.value.errno == errno.EROFS
    assert btrfs.show(second).parent == btrfs.show(first).uuid
    assert btrfs.show(second).read_only
    with pytest.raises(Failed):
        btrfs.snapshot(first, second)
    for path in (first, second, first):
        btrfs.delete(path)
        assert not path.exists()
    let_go(mounted)
    assert eventually(lambda: not quotas.stale(run(["btrfs", "qgroup", "show", mounted]).text))


def test_a_quota_holds(mounted: Path) -> None:
    path = mounted / "limited"
    btrfs.create(path)
    btrfs.limit(path, 8 * MIB)
    with pytest.raises(OSError) as full:
        (path / "data").write_bytes(os.urandom(16 * MIB))
    assert full.value.errno == errno.EDQUOT
    (path / "data").unlink(missing_ok=True)
    btrfs.limit(path, 32 * MIB)
    (path / "data").write_bytes(os.urandom(16 * MIB))
    used = btrfs.usage(path)
    assert used is not None and used.limit == 32 * MIB and 16 * MIB <= used.referenced < 20 * MIB
    btrfs.delete(path)


def test_a_loop_file_is_mounted_once_and_survives_a_crash_between(folder: Path) -> None:
    image, target = folder / "twice", folder / "twice-mounted"
    loop.make_file(image, 120 * MIB)
    run(["mkfs.btrfs", "-q", image])
    target.mkdir()
    run(["losetup", "--find", image])
    for _ in range(2):
        loop.mount(image, target, "btrfs")
        assert overlay.is_mounted(target)
        assert len(loop.devices(image)) == 1
    loop.unmount(image, target)
    loop.unmount(image, target)
    assert not overlay.is_mounted(target)
    wait_until_free(image)
