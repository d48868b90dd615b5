"""What pools are made of. Each backend makes, opens and erases a pool, and its trees. All calls may be repeated."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from triune.domain.errors import Conflict, Failed, Invalid, Unsupported
from triune.domain.pool import PoolDriver
from triune.domain.units import format_size
from triune.host import btrfs, loop, overlay, zfs
from triune.host.beneath import disk_usage, remove_tree
from triune.host.run import run, tool_missing
from triune.services.storage.records import PoolRecord

SMALLEST_LOOP = 128 << 20  # mkfs.btrfs wants some 109 MiB, and something must fit in
_PATIENCE = 2.0
_DATASET = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]*(?:/[A-Za-z0-9][A-Za-z0-9_.:-]*)*", re.ASCII)
_MKFS_SECONDS = 600


class Backend(Protocol):
    """One driver."""

    def check(self, record: PoolRecord, size: int | None) -> None:
        """Raise Invalid or Unsupported if `make` would refuse; changes nothing."""

    def make(self, record: PoolRecord, size: int | None) -> None:
        """Make what the pool's folders will be in; the folder itself is there and empty."""

    def open(self, record: PoolRecord) -> None:
        """Mount it where it is not mounted. Raises Failed."""

    def erase(self, record: PoolRecord) -> None:
        """Undo `make`, with everything in it. Gone: succeed."""

    def quota(self, record: PoolRecord) -> str:
        """Why trees in it can't be limited, or "" where they can."""

    def make_tree(self, record: PoolRecord, path: Path) -> None:
        """An empty folder that can be limited where the driver can."""

    def drop_tree(self, record: PoolRecord, path: Path) -> None:
        """Remove it with everything in it. Gone: succeed."""

    def limit(self, record: PoolRecord, path: Path, size: int | None) -> None:
        """Limit a tree, in bytes; None lifts it. Raises Unsupported."""

    def used(self, record: PoolRecord, path: Path) -> int | None:
        """Bytes that a tree takes; None where that takes too long to tell."""


class Folder:
    """`dir`: a folder of any file system."""

    def check(self, record: PoolRecord, size: int | None) -> None:
        """A folder has the size of its file system."""
        if size is not None:
            raise Invalid(
                "bad_pool",
                f"the size of the pool {record.name} can't be set: it is a folder",
                hint="Leave --size out, or make a pool of its own size: --driver btrfs --size 10GiB",
            )

    def make(self, record: PoolRecord, size: int | None) -> None:
        """Nothing is needed."""

    def open(self, record: PoolRecord) -> None:
        """Nothing is needed."""

    def erase(self, record: PoolRecord) -> None:
        """The folder's contents are removed by the caller."""

    def quota(self, record: PoolRecord) -> str:
        """Never."""
        return f"the pool {record.name} is a plain folder, which can't limit what is in it"

    def make_tree(self, record: PoolRecord, path: Path) -> None:
        """A folder."""
        path.mkdir(mode=0o755)

    def drop_tree(self, record: PoolRecord, path: Path) -> None:
        """Without following anything in it."""
        remove_tree(path)

    def limit(self, record: PoolRecord, path: Path, size: int | None) -> None:
        """Never."""
        if size is not None:
            raise Unsupported("no_quota", self.quota(record), hint="Use a btrfs pool, or leave the size out.")

    def used(self, record: PoolRecord, path: Path) -> int | None:
        """Counted, for as long as patience lasts."""
        return disk_usage(path, deadline=time.monotonic() + _PATIENCE)


class Btrfs:
    """`btrfs`: subvolumes, in a folder of a btrfs, or in a loop file of our own."""

    def check(self, record: PoolRecord, size: int | None) -> None:
        """A loop file needs a size and room, a folder must be on btrfs."""
        for program in ("btrfs", "mkfs.btrfs"):
            if run([program, "--version"], check=False).status != 0:
                raise tool_missing(program)
        if record.loop is None:
            self._check_folder(record, size)
            return
        if size is None:
            raise Invalid(
                "size_needed",
                f"{record.path.parent} is not on btrfs, so the pool {record.name} needs a file of its own",
                hint="Say how large: --size 10GiB; or name a folder on btrfs: --path",
            )
        if size < SMALLEST_LOOP:
            raise Invalid(
                "pool_too_small",
                f"{format_size(size)} are too little for a btrfs",
                hint=f"Give it at least {format_size(SMALLEST_LOOP)}.",
            )

    def _check_folder(self, record: PoolRecord, size: int | None) -> None:
        if size is not None:
            raise Invalid(
                "bad_pool", "a pool in an existing folder has no size of its own", hint="Leave out --size or --path."
            )
        nearest = next(path for path in (record.path, *record.path.parents) if path.exists())
        if not btrfs.is_btrfs(nearest):
            raise Unsupported(
                "not_btrfs",
                f"{record.path} is not on btrfs",
                hint="Leave --path out and give a --size: a file with a btrfs in it is made.",
            )

    def make(self, record: PoolRecord, size: int | None) -> None:
        """The loop file, its file system, quotas."""
        if record.loop is None or size is None:
            return
        loop.make_file(record.loop, size)
        run(["mkfs.btrfs", "-q", "-f", "-L", record.name, "--", record.loop], timeout=_MKFS_SECONDS)
        self.open(record)
        btrfs.enable_quota(record.path)

    def open(self, record: PoolRecord) -> None:
        """Mount the loop file."""
        if record.loop is None or overlay.is_mounted(record.path):
            return
        if not record.loop.is_file():
            raise Failed(
                "pool_unavailable",
                f"its file {record.loop} is missing",
                hint="Put it back (from a backup), or remove the pool.",
            )
        record.path.mkdir(parents=True, exist_ok=True)
        loop.mount(record.loop, record.path, "btrfs")

    def erase(self, record: PoolRecord) -> None:
        """The mount, the device and the file."""
        if record.loop is not None:
            loop.unmount(record.loop, record.path)
            record.loop.unlink(missing_ok=True)

    def quota(self, record: PoolRecord) -> str:
        """Where quotas are on: always on a file system of ours."""
        if btrfs.has_quota(record.path):
            return ""
        return f"quotas are off on the btrfs at {record.path} (turn them on: btrfs quota enable {record.path})"

    def make_tree(self, record: PoolRecord, path: Path) -> None:
        """A subvolume."""
        btrfs.create(path)
        path.chmod(0o755)

    def drop_tree(self, record: PoolRecord, path: Path) -> None:
        """The subvolume; what is left of one half-made may be a folder."""
        if btrfs.is_subvolume(path):
            btrfs.delete(path)
        else:
            remove_tree(path)

    def limit(self, record: PoolRecord, path: Path, size: int | None) -> None:
        """By its quota group."""
        reason = self.quota(record)
        if not reason:
            btrfs.limit(path, size)
        elif size is not None:
            raise Unsupported("no_quota", reason, hint="Turn quotas on, or leave the size out.")

    def used(self, record: PoolRecord, path: Path) -> int | None:
        """From its quota group, else counted."""
        usage = btrfs.usage(path)
        return usage.referenced if usage else disk_usage(path, deadline=time.monotonic() + _PATIENCE)


class Zfs:
    """`zfs`: a dataset of an existing zpool, a child dataset for each tree."""

    def check(self, record: PoolRecord, size: int | None) -> None:
        """Needs zfs on this host, and a dataset's name."""
        zfs.require()
        if size is not None:
            raise Invalid("bad_pool", "a dataset has the size of its zpool", hint="Leave --size out.")
        if not _DATASET.fullmatch(record.dataset):
            raise Invalid(
                "bad_dataset",
                f"{record.dataset!r} is not the name of a dataset to make",
                hint="Write it like --dataset tank/triune.",
            )
        if zfs.exists(record.dataset):
            raise Conflict(
                "dataset_exists", f"there is a dataset {record.dataset} already", hint="Name one that is to be made."
            )

    def make(self, record: PoolRecord, size: int | None) -> None:
        """The dataset, mounted in the pool's folder, and the parent of the trees."""
        zfs.create(record.dataset, record.path)
        zfs.create(f"{record.dataset}/trees", None)

    def open(self, record: PoolRecord) -> None:
        """zfs mounts what it has by itself."""
        if not overlay.is_mounted(record.path):
            zfs.mount(record.dataset)

    def erase(self, record: PoolRecord) -> None:
        """The dataset with all in it."""
        if zfs.exists(record.dataset):
            zfs.destroy(record.dataset)

    def quota(self, record: PoolRecord) -> str:
        """Always."""
        return ""

    def make_tree(self, record: PoolRecord, path: Path) -> None:
        """A child dataset."""
        zfs.create(self._dataset(record, path), None)

    def drop_tree(self, record: PoolRecord, path: Path) -> None:
        """Destroy it."""
        dataset = self._dataset(record, path)
        if zfs.exists(dataset):
            zfs.destroy(dataset)
        with suppress(FileNotFoundError):
            path.rmdir()

    def limit(self, record: PoolRecord, path: Path, size: int | None) -> None:
        """refquota: what snapshots keep does not count."""
        zfs.set_quota(self._dataset(record, path), size)

    def used(self, record: PoolRecord, path: Path) -> int | None:
        """As the dataset says."""
        return zfs.referenced(self._dataset(record, path))

    def _dataset(self, record: PoolRecord, path: Path) -> str:
        return f"{record.dataset}/{path.relative_to(record.path)}"


BACKENDS: Mapping[PoolDriver, Backend] = {
    PoolDriver.DIR: Folder(),
    PoolDriver.BTRFS: Btrfs(),
    PoolDriver.ZFS: Zfs(),
}
