"""Where a container's root may live: the engine's own place, or a pool."""

from __future__ import annotations

import functools
from pathlib import Path

from triune.domain.errors import Failed, Unsupported
from triune.domain.pool import PoolDriver, PoolPlace
from triune.host import btrfs, overlay, zfs


def check(pool: PoolPlace | None, disk: int | None, name: str) -> None:
    """Raise Unsupported or Failed where a root can't be there, or can't be limited to `disk` bytes."""
    if pool is not None:
        require(pool)
    if disk is None:
        return
    if pool is None or pool.driver is not PoolDriver.BTRFS:
        raise Unsupported(
            "no_disk_limit",
            f"the size of {name}'s root can't be limited: it lives in a folder of the host",
            hint="Leave out --disk, launch it in a btrfs pool (--pool), or launch a virtual machine: --engine kvm.",
        )
    if not btrfs.has_quota(pool.path):
        raise Unsupported(
            "no_quota",
            f"quotas are off in the pool {pool.name}",
            hint=f"Turn them on: btrfs quota enable {pool.path}",
        )


def require(pool: PoolPlace) -> None:
    """Raise Failed("pool_away") or Unsupported where a pool can't be used now."""
    if not pool.path.is_dir():
        raise Failed("pool_away", f"the pool {pool.name} is not at {pool.path}", hint="Mount it there.")
    if pool.driver is PoolDriver.BTRFS and not btrfs.is_btrfs(pool.path):
        raise Failed(
            "pool_away", f"{pool.path} of the pool {pool.name} is not on btrfs", hint="Mount the pool's file system."
        )
    if pool.driver is PoolDriver.ZFS:
        _require_zfs(pool)


def _require_zfs(pool: PoolPlace) -> None:
    if not zfs.is_zfs(pool.path):
        raise Failed("pool_away", f"{pool.path} of the pool {pool.name} is not on zfs", hint="Mount its dataset.")
    if not _holds_layers(pool.path):
        raise Unsupported(
            "pool_driver",
            f"system containers can't live in the zfs pool {pool.name}: this ZFS holds no layers of an overlay",
            hint="Use OpenZFS 2.2 or newer, or a pool of the driver dir or btrfs.",
        )


# What a file system can is asked once: each time costs a mount.
_holds_layers = functools.cache(overlay.holds_layers)


def whole(pool: PoolPlace | None) -> bool:
    """Whether roots there are whole trees, not layers."""
    return pool is not None and pool.driver is PoolDriver.BTRFS


def folder(pool: PoolPlace | None, lxc_path: Path) -> Path:
    """The folder that has containers' data."""
    return pool.path / "instances" / "lxc" if pool else lxc_path
