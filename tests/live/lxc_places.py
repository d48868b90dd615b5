"""Containers in each place their roots can have: the engine's own, a pool of folders, a btrfs pool."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.live.daemon import CACHE
from tests.live.lxc_fixtures import LXC_PATH, Lab
from triune.domain.pool import PoolDriver, PoolPlace
from triune.engines.lxc import mark as marks
from triune.engines.lxc.mark import Mark
from triune.host import btrfs, loop
from triune.host.beneath import remove_tree
from triune.host.idmap import IdRange
from triune.host.run import run

PREFIX = "tsnap-"
KINDS = ("own", "dir", "btrfs")
ROOT = Path(__file__).parents[2]


def let_go(mounted: Path) -> None:
    """Wait until deleted subvolumes are gone: soon after a commit, which else comes every 30 s."""
    run(["btrfs", "filesystem", "sync", mounted], check=False)
    run(["btrfs", "subvolume", "sync", mounted], check=False, timeout=600)


@contextmanager
def _on_a_file(kind: str, size: int, below: Path = CACHE) -> Iterator[Path]:
    """Where a fresh file system of that kind is mounted, which lies in a file."""
    folder = below / f"lxc-{kind}.{os.getpid()}.{size >> 20}"
    folder.mkdir(parents=True)
    image, target = folder / "image", folder / "mounted"
    loop.make_file(image, size)
    run([f"mkfs.{kind}", "-q", image])
    target.mkdir()
    loop.mount(image, target, kind)
    try:
        yield target
    finally:
        loop.unmount(image, target)
        remove_tree(folder)


@contextmanager
def btrfs_pool(size: int = 1 << 30) -> Iterator[PoolPlace]:
    """A btrfs in a file, with quotas."""
    with _on_a_file("btrfs", size) as target:
        try:
            btrfs.enable_quota(target)
            yield PoolPlace(name="fast", driver=PoolDriver.BTRFS, path=target)
        finally:
            let_go(target)


@contextmanager
def ext4_pool(size: int, below: Path = CACHE) -> Iterator[PoolPlace]:
    """A folder on an ext4 with a journal, in a file."""
    with _on_a_file("ext4", size, below) as target:
        yield PoolPlace(name="plain", driver=PoolDriver.DIR, path=target)


@contextmanager
def dir_pool() -> Iterator[PoolPlace]:
    """A folder of the host."""
    folder = CACHE / f"lxc-dir.{os.getpid()}"
    folder.mkdir(parents=True)
    try:
        yield PoolPlace(name="plain", driver=PoolDriver.DIR, path=folder)
    finally:
        remove_tree(folder)


def mark_of(name: str) -> Mark:
    found = marks.read(LXC_PATH / name)
    assert found is not None
    return found


def own_of(name: str) -> Path:
    """What the container itself wrote, on disk."""
    return mark_of(name).own(LXC_PATH / name)


def inside(ids: IdRange, code: str, *argv: str | Path) -> str:
    """Run Python of the host as the mapped root."""
    words = [f"{kind}:0:{ids.base}:{ids.count}" for kind in ("u", "g")]
    done = subprocess.run(
        ["lxc-usernsexec", "-m", words[0], "-m", words[1], "--", sys.executable, "-c", code, *map(str, argv)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# What the mapped root may make; capabilities and ACLs of its files name ids of its own range.
MAKE_INSIDE = """
import os, struct, sys
top = sys.argv[1]
os.makedirs(top + "/folder")
for name, mode, owner in (("suid", 0o4755, 0), ("sgid", 0o2755, 1000), ("plain", 0o644, 65533)):
    with open(f"{top}/{name}", "w") as file:
        file.write(name)
    os.chown(f"{top}/{name}", owner, owner)
    os.chmod(f"{top}/{name}", mode)
os.setxattr(top + "/suid", "security.capability", struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0))
entries = ((1, 7, 2**32 - 1), (2, 5, 1005), (4, 5, 2**32 - 1), (0x10, 5, 2**32 - 1), (0x20, 4, 2**32 - 1))
acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
os.setxattr(top + "/plain", "system.posix_acl_access", acl)
os.setxattr(top + "/folder", "system.posix_acl_default", acl)
os.link(top + "/plain", top + "/folder/hard")
os.symlink("/etc/passwd", top + "/link")
os.lchown(top + "/link", 1234, 1234)
os.mkfifo(top + "/pipe")
"""
# What it sees of them.
LOOK_INSIDE = """
import os, sys
top = sys.argv[1]
for folder, folders, files in sorted(os.walk(top)):
    for name in sorted(folders + files):
        path = os.path.join(folder, name)
        info = os.lstat(path)
        names = sorted(os.listxattr(path, follow_symlinks=False))
        values = [(key, os.getxattr(path, key, follow_symlinks=False).hex()) for key in names]
        print(os.path.relpath(path, top), oct(info.st_mode), info.st_uid, info.st_gid, info.st_mtime_ns, info.st_nlink,
              info.st_size if not folders else 0, values)
"""


def traces(lab: Lab) -> list[str]:
    """What deleted containers must not leave."""
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return [
        *map(str, LXC_PATH.glob(f"{lab.prefix}*")),
        *(path for path in mounts if f"/{lab.prefix}" in path or path.startswith(str(lab.state_dir))),
    ]


def subvolumes_of(pool: PoolPlace) -> list[str]:
    return run(["btrfs", "subvolume", "list", pool.path]).text.splitlines()
