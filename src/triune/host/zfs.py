"""ZFS by its own tool: datasets and their quotas. Names are checked by the caller."""

from __future__ import annotations

from pathlib import Path

from triune.domain.errors import Unsupported
from triune.host import syscalls
from triune.host.run import run

_MODULE = Path("/sys/module/zfs")
_MAGIC = 0x2FC12FC1  # ZFS_SUPER_MAGIC of OpenZFS


def require() -> None:
    """Raise Unsupported("no_zfs") where this host has no ZFS."""
    if not _MODULE.exists():
        raise Unsupported(
            "no_zfs",
            "this host's kernel has no ZFS",
            hint="Install zfsutils-linux (and zfs-dkms) and make a zpool, or use --driver btrfs.",
        )
    run(["zfs", "version"])


def is_zfs(path: Path) -> bool:
    """Whether this path is on ZFS. Gone: False."""
    return syscalls.file_system(path) == _MAGIC


def exists(dataset: str) -> bool:
    """Whether there is such a dataset."""
    return run(["zfs", "list", "-H", "-o", "name", dataset], check=False).status == 0


def create(dataset: str, mountpoint: Path | None) -> None:
    """Make one, mounted at `mountpoint`, or (None) below its parent's, whose settings it has.

    ACLs are switched on, which ZFS on Linux has off: a system's journal and shared folders use them.
    """
    own = ("acltype=posixacl", "xattr=sa", f"mountpoint={mountpoint}")
    where = [] if mountpoint is None else [word for setting in own for word in ("-o", setting)]
    run(["zfs", "create", *where, dataset])


def mount(dataset: str) -> None:
    """Mount it at its own place."""
    run(["zfs", "mount", dataset])


def destroy(dataset: str) -> None:
    """Remove it with its children and snapshots."""
    run(["zfs", "destroy", "-r", dataset], timeout=600)


def set_quota(dataset: str, size: int | None) -> None:
    """Limit what it refers to, in bytes; None lifts it."""
    run(["zfs", "set", f"refquota={'none' if size is None else size}", dataset])


def referenced(dataset: str) -> int | None:
    """Bytes it refers to."""
    text = run(["zfs", "get", "-H", "-p", "-o", "value", "referenced", dataset], check=False).text.strip()
    return int(text) if text.isascii() and text.isdigit() else None
