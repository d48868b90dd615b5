"""Where a container's root may live: the engine's own place, or a pool."""

from __future__ import annotations

from pathlib import Path

from triune.domain.errors import Failed, Unsupported
from triune.domain.pool import PoolDriver, PoolPlace
from triune.host import btrfs


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
    if pool.driver is PoolDriver.ZFS:
        raise Unsupported(
            "pool_driver",
            f"system containers can't live in the zfs pool {pool.name} yet",
            hint="Use a pool of the driver dir or btrfs.",
        )
    if not pool.path.is_dir():
        raise Failed("pool_away", f"the pool {pool.name} is not at {pool.path}", hint="Mount it there.")
    if pool.driver is PoolDriver.BTRFS and not btrfs.is_btrfs(pool.path):
        raise Failed(
            "pool_away", f"{pool.path} of the pool {pool.name} is not on btrfs", hint="Mount the pool's file system."
        )


def whole(pool: PoolPlace | None) -> bool:
    """Whether roots there are whole trees, not layers."""
    return pool is not None and pool.driver is PoolDriver.BTRFS


def folder(pool: PoolPlace | None, lxc_path: Path) -> Path:
    """The folder that has containers' data."""
    return pool.path / "instances" / "lxc" if pool else lxc_path
