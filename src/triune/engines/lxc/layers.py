"""The layers of a managed container's root, and their mounts.

    state_dir/lower/KEY          the image's tree, id-mapped, read-only: one per (tree, id range), shared
    DATA/upper, work             what this container changed; owned by the mapped root (DATA: see `roots`)
    LXC_PATH/NAME/rootfs         the overlay of both: what lxc.rootfs.path names. Of a container with a whole root of
                                 its own (DATA/root, ids as inside) an id-mapped view of that
    LXC_PATH/NAME/volumes/N      a host folder, id-mapped: liblxc binds it inside. It would look up the folder itself as
                                 the mapped root, who may not pass through private folders of the host

All mounts are in the host's mount namespace, so that `lxc-start` run by anyone finds them. A file lock orders
mounting and unmounting of shared layers among threads and processes (the daemon, and the pre-start hook).
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from triune.domain.errors import Failed, Unsupported
from triune.engines.lxc import mark as marks
from triune.engines.lxc.mark import Mark
from triune.engines.lxc.spec import volume_path
from triune.host import idmap, overlay
from triune.host.idmap import IdRange


def lower_path(state_dir: Path, tree: Path, ids: IdRange | None) -> Path:
    """Where the shared layer is mounted; a privileged container uses the tree as it is."""
    if ids is None:
        return tree
    key = hashlib.sha256(f"{tree}\0{ids.base}\0{ids.count}".encode()).hexdigest()[:16]
    return state_dir / "lower" / key


@contextmanager
def locked(state_dir: Path) -> Iterator[None]:
    """Hold the lock on shared layers and id ranges."""
    state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    fd = os.open(state_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def make_folders(folder: Path, mark: Mark) -> None:
    """Make the container's own folders. The outer one lets the mapped root through, and nobody else."""
    base = mark.id_map.base if mark.id_map else 0
    data = mark.data(folder)
    if data != folder:
        data.mkdir(parents=True, exist_ok=True, mode=0o700)
    (folder / "rootfs").mkdir(exist_ok=True)
    for part in () if mark.whole else ("upper", "work"):
        (data / part).mkdir(exist_ok=True)
        os.chown(data / part, base, base)
        (data / part).chmod(0o755)
    os.chown(folder, 0, base)
    folder.chmod(0o710)


def mount_lower(mark: Mark) -> None:
    """Mount the shared layer if there is one and it is not. The lock must be held. Raises Failed, Unsupported."""
    if mark.whole or mark.id_map is None or overlay.is_mounted(mark.lower):
        return
    mark.lower.mkdir(parents=True, exist_ok=True)
    _bind(mark.tree, mark.lower, mark.id_map, read_only=True)


def _bind(source: Path, target: Path, ids: IdRange | None, *, read_only: bool, devices: bool = True) -> None:
    try:
        idmap.bind(source, target, ids, read_only=read_only, devices=devices)
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
            raise Unsupported(
                "no_idmapped_mounts",
                f"the file system of {source} has no id-mapped mounts on this kernel",
                hint="Keep it on ext4, xfs or btrfs with Linux 5.19 or newer, or set privileged=true.",
            ) from None
        raise Failed(
            "lower_mount", f"{source} can't be mounted at {target}: {error.strerror}", hint="Run: triune doctor"
        ) from None


def mount_volumes(folder: Path, mark: Mark) -> None:
    """Show the container its volumes, id-mapped; those shown already stay. Raises Failed, Unsupported."""
    if mark.id_map is None:
        return
    for volume in mark.volumes:
        source, target = Path(volume.source), volume_path(folder, volume.place)
        target.parent.mkdir(exist_ok=True)
        if overlay.is_mounted(target):
            continue
        if source.is_dir():
            target.mkdir(exist_ok=True)
        else:
            target.touch()
        _bind(source, target, mark.id_map, read_only=volume.read_only)


def mount_root(folder: Path, mark: Mark) -> None:
    """Mount everything the container needs that is not mounted. Raises Failed, Unsupported."""
    target = folder / "rootfs"
    if overlay.is_mounted(target):
        return
    with locked(mark.state_dir):
        if overlay.is_mounted(target):
            return
        mount_lower(mark)
        mount_volumes(folder, mark)
        # Last: the pre-start hook takes a mounted root for a sign that all is there.
        _mount_own(folder, mark, target)


def _mount_own(folder: Path, mark: Mark, target: Path) -> None:
    data = mark.data(folder)
    if mark.pool and not data.is_dir():
        raise Failed(
            "pool_away",
            f"{folder.name} lives in the pool {mark.pool.name}, and {data} is not there",
            hint=f"Mount the pool at {mark.pool.path}.",
        )
    if mark.whole:
        _bind(mark.own(folder), target, mark.id_map, read_only=False, devices=mark.id_map is None)
        return
    try:
        overlay.mount(mark.lower, data / "upper", data / "work", target, devices=mark.id_map is None)
    except OSError as error:
        raise Failed(
            "root_mount",
            f"the root of {folder.name} can't be mounted: {error.strerror}",
            hint=f"See whether {mark.tree} is there, and: triune doctor",
        ) from None


def unmount_root(folder: Path) -> None:
    """Take the container's own mounts away. Not there: succeed."""
    overlay.unmount(folder / "rootfs")
    volumes = folder / "volumes"
    for target in volumes.iterdir() if volumes.is_dir() else ():
        overlay.unmount(target)


def unmount_archive(folder: Path) -> None:
    """Take away what a backup mounted (see `archiving`). Not there: succeed."""
    for part in ("root", "own"):
        overlay.unmount(folder / "archive" / part)


def release_lower(lxc_path: Path, mark: Mark, leaving: Path) -> None:
    """Take the shared layer away if no container but the one in `leaving` uses it."""
    if mark.whole or mark.id_map is None:
        return
    with locked(mark.state_dir):
        if any(other.lower == mark.lower and not other.whole for other in all_marks(lxc_path, leaving)):
            return
        overlay.unmount(mark.lower)
        if mark.lower.is_dir():
            mark.lower.rmdir()


def all_marks(lxc_path: Path, leaving: Path | None = None) -> Iterator[Mark]:
    """Marks of every container below the path, but of one folder; unreadable ones left out."""
    try:
        entries = list(os.scandir(lxc_path))
    except FileNotFoundError:
        return
    for entry in entries:
        if leaving is not None and entry.name == leaving.name:
            continue
        try:
            found = marks.read(Path(entry.path))
        except Failed:
            continue
        if found:
            yield found
