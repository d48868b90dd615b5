"""System containers whose roots are on pools: subvolumes and quotas of btrfs, full disks, backups' views of roots."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests import nasty
from tests.live.daemon import CACHE
from tests.live.lxc_fixtures import LXC_PATH, Lab, eventually, tree
from tests.live.lxc_places import (
    LOOK_INSIDE,
    MAKE_INSIDE,
    btrfs_pool,
    dir_pool,
    inside,
    let_go,
    mark_of,
    own_of,
    subvolumes_of,
    traces,
)
from triune.domain.errors import Conflict, Failed, Invalid, Unsupported
from triune.domain.instance import InstanceSpec, State
from triune.domain.operation import Silent
from triune.domain.pool import PoolDriver, PoolPlace
from triune.domain.snapshot import Consistency, Snapshot
from triune.engines.archiving import RestorePlan
from triune.engines.base import ClonePlan
from triune.host import btrfs, quotas
from triune.host.beneath import remove_tree

__all__ = ["tree"]
pytestmark = [pytest.mark.live, pytest.mark.lxc]
MIB = 1 << 20


@pytest.fixture(scope="module")
def made(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    lab = Lab(tmp_path_factory.mktemp("lxc-state"), tree, "tpool-")
    lab.clean()
    try:
        yield lab
    finally:
        lab.clean()
    assert traces(lab) == []


@pytest.fixture(scope="module")
def pool(made: Lab) -> Iterator[PoolPlace]:
    with btrfs_pool() as place:
        try:
            yield place
            made.clean()
            assert subvolumes_of(place) == []
        finally:
            made.clean()


def stop(lab: Lab, name: str) -> None:
    lab.engine.stop(name, timeout=0, force=True, progress=Silent())


def take(lab: Lab, name: str, snapshot: str) -> Snapshot:
    assert lab.engine.snapshots
    wanted = Snapshot(name=snapshot, created=datetime.now(UTC), consistency=Consistency.CRASH)
    return lab.engine.snapshots.create(name, wanted, Silent())


def clone(lab: Lab, name: str, new: str) -> str:
    assert lab.engine.cloning
    plan = ClonePlan(name=name, new=lab.prefix + new, created=datetime.now(UTC), machine_id=os.urandom(16).hex())
    lab.engine.cloning.clone(plan, Silent())
    return plan.new


def test_roots_of_one_image_share_it(made: Lab, pool: PoolPlace) -> None:
    names = [made.launch(f"share{index}", place=pool, ready=index == 0) for index in range(2)]
    owns = [own_of(name) for name in names]
    assert all(btrfs.is_subvolume(own) for own in owns)
    assert len(list((pool.path / "images/lxc").iterdir())) == 1
    os.sync()
    usage = btrfs.usage(owns[1])
    assert usage and usage.exclusive < 20 * MIB < usage.referenced
    assert (owns[0] / "etc/hostname").stat().st_uid == 0  # ids as seen inside
    assert made.exec(names[0], "stat", "-c", "%u", "/etc/hostname", "/bin")[1].split() == [b"0", b"0"]
    assert made.exec(names[0], "systemctl", "is-system-running")[1].strip() == b"running"
    device = next(one for one in made.engine.get(names[0]).devices if one["target"] == "/")
    assert device["pool"] == pool.name
    for name in names:
        made.engine.delete(name)
    assert subvolumes_of(pool) == []


def test_a_quota_holds_and_goes_with_snapshots_and_clones(made: Lab, pool: PoolPlace) -> None:
    with pytest.raises(Invalid) as small:
        made.launch("small", place=pool, disk=20 * MIB)
    assert small.value.code == "disk_too_small"
    assert not (LXC_PATH / "tpool-small").exists()
    name = made.launch("quota", place=pool, disk=300 * MIB, ready=False)
    fill = "head -c 300M /dev/urandom > /root/big; sync"
    code, _, err = made.exec(name, "sh", "-c", fill)
    assert b"Disk quota exceeded" in err, (code, err)
    assert made.exec(name, "sh", "-c", "rm /root/big; sync; head -c 10M /dev/zero > /root/small")[0] == 0
    stop(made, name)
    take(made, name, "s1")
    assert made.engine.snapshots
    made.engine.snapshots.restore(name, "s1", Silent())
    new = clone(made, name, "quota2")
    for one in (name, new):
        usage = btrfs.usage(own_of(one))
        assert usage and usage.limit == 300 * MIB
    # Where the kernel loses count with the tree that the restore replaced, it counts anew.
    let_go(pool.path)
    made.engine.start(new, Silent())
    state = quotas.folder(pool.path)
    assert state and eventually(lambda: not quotas.inconsistent(state))
    code, _, err = made.exec(new, "sh", "-c", fill)
    assert b"Disk quota exceeded" in err, (code, err)
    for one in (name, new):
        made.engine.delete(one)


def test_limits_and_pools_that_cannot_be_are_refused(made: Lab, pool: PoolPlace, tmp_path: Path) -> None:
    with dir_pool() as folder, pytest.raises(Unsupported) as refused:
        made.launch("refused", place=folder, disk=1 << 30)
    assert refused.value.code == "no_disk_limit"
    for driver in (PoolDriver.BTRFS, PoolDriver.ZFS):
        with pytest.raises(Failed) as away:
            made.launch("refused", place=PoolPlace(name="gone", driver=driver, path=tmp_path))
        assert away.value.code == "pool_away"
    assert not (LXC_PATH / "tpool-refused").exists()


def test_subvolumes_made_inside_are_part_of_it(made: Lab, pool: PoolPlace) -> None:
    name = made.launch("inner", place=pool, ready=False)
    stop(made, name)
    own = own_of(name)
    btrfs.create(own / "srv/volume")
    (own / "srv/volume/file").write_text("inside")
    before = nasty.fingerprint(own)
    take(made, name, "s1")
    new = clone(made, name, "inner2")
    assert (own_of(new) / "srv/volume/file").read_text() == "inside"
    (own / "srv/volume/file").write_text("changed")
    assert made.engine.snapshots
    made.engine.snapshots.restore(name, "s1", Silent())
    assert nasty.fingerprint(own) == before
    for one in (name, new):
        made.engine.delete(one)
    assert subvolumes_of(pool) == []


def test_renamed_its_data_has_the_new_name(made: Lab, pool: PoolPlace) -> None:
    name = made.launch("first", place=pool, ready=False)
    stop(made, name)
    take(made, name, "s1")
    assert made.engine.renaming and made.engine.snapshots
    new = made.prefix + "second"
    made.engine.renaming.rename(name, new)
    assert sorted(path.name for path in (pool.path / "instances/lxc").iterdir()) == [new]
    made.engine.start(new, Silent())
    stop(made, new)
    again = made.launch("first", place=pool, ready=False)
    assert [one.name for one in made.engine.snapshots.list(new)] == ["s1"]
    made.engine.delete(new)
    assert made.engine.get(again).instance.state is State.RUNNING
    # Cut off between its two halves.
    stop(made, again)
    from triune.engines.lxc import mark as marks

    marks.write_file(LXC_PATH / again / "config.renamed", f"lxc.uts.name = {new}\n".encode())
    own_of(again).parent.rename(pool.path / "instances/lxc" / new)
    made.engine.start(again, Silent())
    made.engine.delete(again)


def test_destroyed_by_hand_it_leaves_nothing(made: Lab, pool: PoolPlace) -> None:
    name = made.launch("byhand", place=pool, ready=False)
    take(made, name, "s1")
    subprocess.run(["lxc-destroy", "-f", "-n", name], check=True, capture_output=True)
    assert not (LXC_PATH / name).exists()
    assert subvolumes_of(pool) == []
    assert not (pool.path / "instances/lxc" / name).exists()


@pytest.mark.parametrize("driver", ["dir", "btrfs"])
def test_on_a_full_pool_nothing_is_lost(made: Lab, driver: str) -> None:
    """A dir pool on a file system of its own, and a btrfs one, both too small for what is asked."""
    with btrfs_pool(480 * MIB) as place:
        if driver == "dir":
            place = PoolPlace(name="tiny", driver=PoolDriver.DIR, path=place.path)
        name = made.launch("full", place=place, ready=False)
        try:
            stop(made, name)
            _fill_up(made, name, place)
        finally:
            made.engine.delete(name)


def _fill_up(made: Lab, name: str, place: PoolPlace) -> None:
    assert made.engine.snapshots and made.engine.cloning
    own = own_of(name)
    (own / "srv").mkdir(exist_ok=True)
    (own / "srv/data").write_bytes(b"precious" * 1000)
    os.sync()
    take(made, name, "before")
    before = nasty.fingerprint(own)
    ballast = place.path / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while file.write(os.urandom(MIB)):
                pass
        except OSError:
            pass
    done = []
    for index in range(2000):
        try:
            take(made, name, f"s{index}")
        except (Failed, OSError) as error:
            refused = error
            break
        done.append(f"s{index}")
    else:
        pytest.skip("by design: snapshots of this file system take next to nothing")
    assert isinstance(refused, Failed) and refused.code in ("no_space", "disk_full"), refused
    assert [one.name for one in made.engine.snapshots.list(name)] == ["before", *done]
    with pytest.raises((Failed, OSError)):
        for index in range(2000):
            made.engine.snapshots.restore(name, "before", Silent())
            clone(made, name, f"full{index}")
    assert nasty.fingerprint(own) == before
    ballast.unlink()
    for one in done:
        made.engine.snapshots.delete(name, one, Silent())
    for row in made.engine.list():
        if row.name.startswith(made.prefix + "full") and row.name != name:
            made.engine.delete(row.name)

    def works() -> bool:
        let_go(place.path)  # btrfs gives room back in the background
        try:
            made.engine.snapshots.restore(name, "before", Silent())
        except Failed:
            return False
        return True

    assert eventually(works, 60)
    assert nasty.fingerprint(own) == before
    made.engine.start(name, Silent())


@pytest.mark.parametrize("driver", ["own", "btrfs"])
def test_a_backup_reads_the_whole_root_and_a_restore_makes_it_again(made: Lab, pool: PoolPlace, driver: str) -> None:
    place = pool if driver == "btrfs" else None
    name = made.launch("saved", place=place)
    assert made.exec(name, "sh", "-c", "rm -r /usr/share/doc; echo mine > /root/mine; mknod /root/w c 0 0; :")[0] == 0
    mark = mark_of(name)
    assert mark.id_map and made.engine.archiving
    inside(mark.id_map, MAKE_INSIDE, LXC_PATH / name / "rootfs/srv/made")
    seen = inside(mark.id_map, LOOK_INSIDE, LXC_PATH / name / "rootfs/srv/made")
    described = made.engine.archiving.describe(name)
    folder = CACHE / f"lxc-restored.{os.getpid()}"
    remove_tree(folder)
    archive = made.engine.archiving.open(name, None, Silent())
    try:
        (part,) = archive.parts
        assert part.path
        inodes = {
            path: (part.path / path).lstat().st_ino for path in ("root/mine", "bin", "etc/hostname", "usr/bin/env")
        }
        archive.hold()
        assert made.engine.get(name).instance.state is (State.RUNNING if archive.still else State.PAUSED)
        assert archive.consistency == Consistency.FROZEN
        assert {path: (part.path / path).lstat().st_ino for path in inodes} == inodes
        assert (part.path / "root/mine").stat().st_uid == 0 and (part.path / "usr/bin/env").stat().st_uid == 0
        assert not (part.path / "usr/share/doc").exists()
        before = nasty.fingerprint(part.path)
        subprocess.run(["cp", "-a", part.path, folder], check=True)
    finally:
        archive.close()
        archive.close()
    assert made.engine.get(name).instance.state is State.RUNNING
    assert not (LXC_PATH / name / "archive").exists()
    _restored(made, place, name, described, folder, before, seen)
    made.engine.delete(name)


def _restored(made, place, name, described, folder, before, seen) -> None:
    plan = RestorePlan(
        spec=InstanceSpec(name=made.prefix + "again", image="debian/12", engine="lxc", network=None),
        image="debian/12",
        created=datetime.now(UTC),
        described=described,
        machine_id=os.urandom(16).hex(),
        pool=place,
        parts={"root": folder},
    )
    assert made.engine.archiving
    assert made.engine.archiving.place(plan).is_dir()
    made.engine.archiving.restore(plan, Silent())
    new = plan.spec.name
    own = own_of(new)
    after = nasty.fingerprint(own)
    changed = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
    identity = ("etc", "var/lib/systemd", "var/lib/dbus", "var/log/journal")  # and reserved blocks of the journal
    assert {path for path in changed if path != "b'.'" and not path[2:].startswith(identity)} == set()
    ids = mark_of(new).id_map
    assert ids
    assert inside(ids, LOOK_INSIDE, LXC_PATH / new / "rootfs/srv/made") == seen
    made.engine.start(new, Silent())
    made.engine.wait_ready(new, 60, Silent())
    assert made.exec(new, "hostname")[1].decode().strip() == new
    assert made.exec(new, "cat", "/etc/machine-id")[1].decode().strip() == plan.machine_id
    assert made.exec(new, "cat", "/root/mine")[1] == b"mine\n"
    stop(made, new)
    take(made, new, "s1")
    (own / "root/mine").unlink()
    assert made.engine.snapshots
    made.engine.snapshots.restore(new, "s1", Silent())
    assert (own / "root/mine").read_text() == "mine\n"
    with pytest.raises(Conflict):
        made.engine.archiving.restore(plan, Silent())
    made.engine.archiving.discard(new)
    made.engine.archiving.discard(new)
    assert not (LXC_PATH / new).exists() and not own.exists()
    remove_tree(folder)


def test_a_backup_that_died_is_let_go(made: Lab) -> None:
    name = made.launch("died", ready=False)
    assert made.engine.archiving
    archive = made.engine.archiving.open(name, None, Silent())
    archive.hold()
    assert made.engine.get(name).instance.state is State.PAUSED
    held = archive._hold  # type: ignore[attr-defined]
    os.close(held._fd)
    held._fd = None
    made.engine.archiving.abandon(name, running=True)
    made.engine.archiving.abandon(name, running=True)
    assert made.engine.get(name).instance.state is State.RUNNING
    assert not (LXC_PATH / name / "archive").exists()
    # One that nobody abandoned goes with its container.
    made.engine.archiving.open(name, None, Silent())
    made.engine.delete(name)
    made.engine.archiving.abandon(name, running=True)


def test_one_made_by_hand_is_read_too(made: Lab, tree: Path) -> None:
    name = "tpool-adopted"
    folder = LXC_PATH / name
    folder.mkdir(mode=0o755)
    (folder / "rootfs/etc").mkdir(parents=True)
    (folder / "rootfs/etc/hostname").write_text("adopted\n")
    os.chown(folder / "rootfs/etc/hostname", 1_000_000, 1_000_000)
    config = ["lxc.rootfs.path = dir:" + str(folder / "rootfs"), "lxc.uts.name = " + name]
    config += [f"lxc.idmap = {kind} 0 1000000 65536" for kind in ("u", "g")]
    (folder / "config").write_text("\n".join([*config, ""]))
    try:
        assert made.engine.archiving and made.engine.snapshots
        described = made.engine.archiving.describe(name)
        assert described["spec"] == asdict(InstanceSpec(name=name, image="", engine="lxc"))
        archive = made.engine.archiving.open(name, None, Silent())
        assert archive.parts[0].path
        assert (archive.parts[0].path / "etc/hostname").stat().st_uid == 0
        archive.close()
        assert made.engine.snapshots.list(name) == []
        with pytest.raises(Unsupported) as refused:
            take(made, name, "s1")
        assert refused.value.code == "adopted_unsupported"
    finally:
        subprocess.run(["lxc-destroy", "-n", name], check=True, capture_output=True)
