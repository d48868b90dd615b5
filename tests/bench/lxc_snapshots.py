"""Snapshots and clones of a stopped system container, against the bare tool on the same trees.

Measured in the engine, without the command line's start and the daemon's bookkeeping: the tools below take
milliseconds, and what is compared is what we do about the data. The container has written 3,000 files, 300 MiB.

An ext4 without a journal, as disks of some rented machines have, gives no inode out again for a minute and more
(`recently_deleted` of Linux' fs/ext4/ialloc.c): whoever makes files where others were removed is slow at passing over
them, now the one side, now the other. So overlays are measured on an ordinary ext4 too, and restores come last.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from tests.bench.place import steady, words
from tests.live.daemon import CACHE
from tests.live.lxc_fixtures import LXC_PATH, Lab, root_tree
from tests.live.lxc_places import btrfs_pool, ext4_pool, mark_of, own_of
from triune.domain.operation import Silent
from triune.domain.pool import PoolPlace
from triune.domain.snapshot import Consistency, Snapshot
from triune.engines.base import ClonePlan, Engine
from triune.engines.lxc import points
from triune.host import btrfs
from triune.host.beneath import remove_tree

PREFIX = "tbsnap-"
Pair = tuple[str, str, Callable[[int], object], Callable[[int], object]]


@dataclass
class Subject:
    """One stopped instance."""

    engine: Engine
    name: str

    def create(self, number: int) -> None:
        assert self.engine.snapshots
        wanted = Snapshot(name=f"s{number}", created=datetime.now(UTC), consistency=Consistency.CRASH)
        self.engine.snapshots.create(self.name, wanted, Silent())

    def restore(self, number: int) -> None:
        del number
        assert self.engine.snapshots
        self.engine.snapshots.restore(self.name, "s0", Silent())

    def clone(self, number: int) -> None:
        assert self.engine.cloning
        plan = ClonePlan(
            name=self.name, new=f"{self.name}-c{number}", created=datetime.now(UTC), machine_id=secrets.token_hex(16)
        )
        self.engine.cloning.clone(plan, Silent())


@dataclass
class Bench(Subject):
    """One container, and a folder beside its data for the bare tool's copies."""

    own: Path
    beside: Path


def pairs(bench: Bench, where: str, *, btrfs: bool) -> Iterator[Pair]:
    """(what, the tool's name, ours, theirs) of each measurement."""
    source, base = bench.own, bench.beside / "base"

    def copy(origin: Path, target: Path) -> None:
        argv = ["btrfs", "subvolume", "snapshot"] if btrfs else ["cp", "-a", "--reflink=auto"]
        subprocess.run([*argv, str(origin), str(target)], check=True, capture_output=True)

    def put_back(number: int) -> None:
        old = bench.beside / f"r{number - 1}" if number else bench.beside / "r"
        copy(base, bench.beside / f"r{number}")
        argv = ["btrfs", "subvolume", "delete"] if btrfs else ["rm", "-rf"]
        subprocess.run([*argv, str(old)], check=True, capture_output=True)

    copy(source, base)
    copy(source, bench.beside / "r")
    tool = "`btrfs subvolume snapshot`" if btrfs else "`cp -a --reflink=auto`"
    remove = "`btrfs subvolume delete`" if btrfs else "`rm -rf`"
    yield f"snapshot LXC, {where}", tool, bench.create, lambda n: copy(source, bench.beside / f"s{n}")
    yield f"clone LXC, {where}", tool, bench.clone, lambda n: copy(source, bench.beside / f"c{n}")
    yield f"restore LXC, {where}", f"{tool} and {remove}", bench.restore, put_back


@contextmanager
def prepared(pool: PoolPlace | None) -> Iterator[Bench]:
    """A container with something in it; nothing of it stays."""
    with tempfile.TemporaryDirectory(dir=LXC_PATH) as beside, tempfile.TemporaryDirectory() as state:
        lab = Lab(Path(state), root_tree(), PREFIX)
        lab.clean()
        try:
            name = lab.launch("one", place=pool, ready=False)
            lab.engine.stop(name, timeout=0, force=True, progress=Silent())
            own = own_of(name)
            for number in range(3000):
                folder = own / f"srv/{number // 100}"
                folder.mkdir(parents=True, exist_ok=True)
                (folder / str(number)).write_bytes(os.urandom(100 << 10))
            os.sync()
            place = Path(beside)
            if pool is not None:
                place = pool.path / "bare"
                place.mkdir()
            yield Bench(lab.engine, name, own, place)
        finally:
            lab.clean()


@contextmanager
def benches() -> Iterator[Iterator[Pair]]:
    """Every measurement: on the engine's own place, on an ext4 of 16 GiB, and on a btrfs pool of 3 GiB."""
    below = steady(12 << 30, CACHE / "bench-ext4")
    with ExitStack() as ends, btrfs_pool(3 << 30) as btrfs_place, ext4_pool(16 << 30, below) as plain:
        ends.callback(remove_tree, below)
        journal = f"overlay on ext4 with a journal {words(below)}"
        places = (("overlay", None), (journal, plain), ("btrfs pool", btrfs_place))

        def each() -> Iterator[Pair]:
            for where, place in places:
                with prepared(place) as bench:
                    yield from pairs(bench, where, btrfs=place is btrfs_place)

        yield each()


def multiplied(name: str, snapshot: str, count: int) -> Path:
    """Make `count` snapshots of one, each a btrfs snapshot of its own, as the engine does it but without writing each
    out to disk; returns the folder they are in."""
    data = mark_of(name).data(LXC_PATH / name)
    first = points.require(data, snapshot, name)
    taken = next(one for one in points.read_all(data) if one.name == snapshot)
    for number in range(1, count):
        made = replace(taken, name=f"{snapshot}-{number}")
        fresh = points.fresh_folder(data, made.name)
        fresh.mkdir(mode=0o700)
        btrfs.snapshot(first / points.TREE, fresh / points.TREE, read_only=True)
        for file in (one for one in first.iterdir() if one.is_file()):
            text = points.dump(made) if file.name == points.FILE else file.read_bytes()
            (fresh / file.name).write_bytes(text)
        fresh.rename(points.folder_of(data, made.name))
    return first.parent
