"""The trees behind a container's root: made, copied, changed for others and removed.

Below `Mark.data`, the container's own folder or its place in a pool:

    upper, work       layers: what the container changed, with mapped ids (see `layers`)
    root              instead of these, the whole root with ids as seen inside; on a btrfs pool a subvolume
    snapshots/NAME    see `points`
    incoming          a tree that is being made
    outgoing          one that is being removed

On a btrfs pool the image's tree lies once below POOL/images/lxc/KEY, a read-only subvolume that every root from it is
a snapshot of. It goes with the last of them.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from triune.domain.errors import Failed, Invalid, TriuneError
from triune.domain.pool import PoolDriver, PoolPlace
from triune.engines.lxc import layers, places
from triune.engines.lxc.mark import Mark
from triune.host import beneath, btrfs, copytree, idmap, overlay, quotas, subvolumes
from triune.host.idmap import IdRange

# Where a layer is mounted for a moment with the ids of another container.
SHIFTED = "shifted"

Check = Callable[[], None]


def image_path(pool: PoolPlace | None, tree: Path) -> Path:
    """Where the image's tree is in a pool of subvolumes."""
    assert pool is not None  # noqa: S101 - the engine's own place has no subvolumes
    key = hashlib.sha256(f"{tree}\0{tree.stat().st_ino}".encode()).hexdigest()[:16]
    return pool.path / "images" / "lxc" / key


def make(folder: Path, mark: Mark, check: Check) -> None:
    """Make an empty layer, or a root from the image's tree. Raises Failed, Invalid("disk_too_small")."""
    own = mark.own(folder)
    if not mark.whole:
        own.mkdir(exist_ok=True)
        return
    with layers.locked(mark.state_dir):
        if not mark.lower.is_dir():
            _import(mark.tree, mark.lower, check)
        _subvolume(lambda: subvolumes.snapshot(mark.lower, own), own)
    set_limit(own, mark.disk)


def _import(tree: Path, image: Path, check: Check) -> None:
    """Copy the image's tree into the pool, once; blocks are shared where both are on one file system."""
    image.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    fresh = image.with_name(f".{image.name}.new")
    remove(fresh)
    try:
        btrfs.create(fresh)
        copytree.copy_tree(tree, fresh, check)
        btrfs.set_read_only(fresh, True)
        fresh.rename(image)
    except BaseException:
        remove(fresh)
        raise


def release_image(lxc_path: Path, mark: Mark, leaving: Path) -> None:
    """Remove the image's tree from the pool if no container but the one in `leaving` was made from it."""
    if mark.pool is None or mark.pool.driver is not PoolDriver.BTRFS:
        return
    with layers.locked(mark.state_dir):
        # One from a backup has no image behind it.
        if mark.lower.parent == mark.pool.path / "images" / "lxc" and all(
            other.lower != mark.lower for other in layers.all_marks(lxc_path, leaving)
        ):
            remove(mark.lower)


def set_limit(own: Path, disk: int | None) -> None:
    """Limit a subvolume to `disk` bytes. Raises Invalid("disk_too_small") where it holds more, Unsupported."""
    if disk is None:
        return
    used = btrfs.usage(own)
    if used is not None and used.referenced >= disk:
        raise Invalid(
            "disk_too_small",
            f"the root takes {used.referenced // 2**20} MiB already, more than it may: {disk // 2**20} MiB",
            hint="Give it a larger --disk.",
        )
    btrfs.limit(own, disk)


def copy(source: Path, target: Path, check: Check, *, read_only: bool = False) -> None:
    """Copy a tree of ours to `target`, which must not exist; of a subvolume it is a snapshot.

    The tree must be held still. What was copied stays when it raises; `remove` takes it. Raises Failed("no_space").
    """
    if btrfs.is_subvolume(source):
        _subvolume(lambda: subvolumes.snapshot(source, target, read_only=read_only), target)
    else:
        copytree.copy_tree(source, target, check)


def copy_shifted(source: Path, target: Path, shift: IdRange, view: Path, check: Check) -> None:
    """Copy a layer for a container of another id range, from an id-mapped view of it that is mounted at `view`."""
    view.mkdir(exist_ok=True)
    idmap.bind(source, view, shift, read_only=True)
    try:
        copytree.copy_tree(view, target, check)
    finally:
        overlay.unmount(view)
        view.rmdir()


@contextmanager
def telling(path: Path) -> Iterator[None]:
    """A full disk inside the block is told as what it is. Raises Failed("no_space")."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise Failed(
            "no_space", f"no space is left for {path}", hint=f"Make room and repeat; see: df -h {path.parent}"
        ) from None


def _subvolume(action: Callable[[], None], path: Path) -> None:
    try:
        with telling(path):
            action()
    except OSError as error:
        raise Failed(
            "subvolume_failed", f"the subvolume {path} failed: {error.strerror}", hint="Look at: dmesg"
        ) from None


def remove(path: Path) -> None:
    """Remove a tree of ours, a subvolume too. Gone: succeed. Raises Failed("not_removed")."""
    try:
        if btrfs.is_subvolume(path):
            subvolumes.delete(path)
            quotas.tidy(path.parent)
        else:
            beneath.remove_tree(path)
    except OSError as error:
        raise Failed(
            "not_removed",
            f"{path} can't be removed: {error.strerror}",
            hint=f"Look for mounts or immutable files in it (findmnt, lsattr -R {path}), then remove it again.",
        ) from None


def remove_data(folder: Path, mark: Mark) -> None:
    """Remove a container's trees and snapshots; its mounts are gone already. Gone: succeed. Raises Failed."""
    if mark.pool is not None:
        places.require(mark.pool)
    data = mark.data(folder)
    for point in folders(data / "snapshots"):
        for tree in folders(point):
            remove(tree)
    for entry in folders(data):
        remove(entry)
    if data != folder:
        remove(data)


def folders(path: Path) -> list[Path]:
    """The folders in a folder. Gone: none."""
    try:
        return [Path(entry.path) for entry in os.scandir(path) if entry.is_dir(follow_symlinks=False)]
    except (FileNotFoundError, NotADirectoryError):
        return []


def remove_quietly(path: Path) -> None:
    """Remove a tree that is no longer of use; what can't be removed now is tried again with the next change."""
    try:
        remove(path)
    except TriuneError:
        return
