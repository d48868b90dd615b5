"""Pools and volumes on real engines: shared without a chown, attached live, limited, converted, kept over crashes."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.live.daemon import CACHE, Daemon
from tests.live.system_fixtures import IMAGE, built_image, data_folder
from tests.patience import until
from triune.host import btrfs, loop, overlay

pytestmark = [pytest.mark.live, pytest.mark.net]

PREFIX = "tstor-"
LXC, DOCKER, KVM = f"{PREFIX}lxc", f"{PREFIX}docker", f"{PREFIX}kvm"


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    data = data_folder("storage")
    with Daemon(
        data, bridge="tstor0", table="triune_tstor", domain="tstor.internal", candidates=("10.157.0.0/16",)
    ) as daemon:
        built_image(daemon)
        clear(daemon)
        yield daemon
        daemon.kill()
        daemon.start()
        clear(daemon)
        daemon.stop()
        for image in (data / "pools").glob("*.btrfs"):
            raise AssertionError(f"{image} was left")


def clear(daemon: Daemon) -> None:
    daemon.remove_all(PREFIX)
    for volume in daemon.json("volume", "list"):
        daemon.run("volume", "rm", volume["name"], "--yes")
    for pool in daemon.json("pool", "list"):
        if pool["name"] != "default":
            daemon.run("pool", "rm", pool["name"], "--yes")


def refused(daemon: Daemon, code: int, *argv: str) -> str:
    done = daemon.run(*argv, check=False)
    said = done.stderr.decode()
    assert done.returncode == code, f"{argv}: {done.returncode} {said}"
    assert "hint:" in said
    return said


@pytest.fixture(scope="module")
def system(daemon: Daemon) -> str:
    daemon.launch(IMAGE, LXC, "lxc")
    return LXC


def volume(daemon: Daemon, name: str, *options: str) -> Path:
    """A fresh volume."""
    daemon.run("volume", "rm", name, "--yes", check=False)
    daemon.run("volume", "create", name, *options)
    return Path(daemon.json("volume", "show", name)["path"])


@pytest.mark.lxc
@pytest.mark.docker
def test_one_volume_is_shared_with_the_same_owners(daemon: Daemon, system: str) -> None:
    path = volume(daemon, "shared")
    daemon.run("volume", "attach", system, "shared:/shared")
    daemon.launch(IMAGE, DOCKER, "docker", "--volume", "shared:/shared", command=("sleep", "infinity"))
    try:
        assert path.stat().st_uid == 0
        daemon.exec(
            system, "sh", "-c", "echo root > /shared/lxc-root; install -o 1000 -g 1000 /dev/null /shared/lxc-user"
        )
        daemon.exec(
            DOCKER, "sh", "-c", "echo root > /shared/app-root; install -o 1000 -g 1000 /dev/null /shared/app-user"
        )
        names = ["app-root", "app-user", "lxc-root", "lxc-user"]
        seen = {
            instance: daemon.exec(instance, "sh", "-c", "cd /shared && stat -c '%n %u %g' *").split("\n")[:-1]
            for instance in (system, DOCKER)
        }
        expected = [f"{name} {uid} {uid}" for name in names for uid in [1000 if name.endswith("user") else 0]]
        assert seen == {system: expected, DOCKER: expected}
        assert {name: (path / name).stat().st_uid for name in names} == {
            name: 1000 if name.endswith("user") else 0 for name in names
        }
        # A user of the one writes what the same user of the other owns.
        daemon.exec(
            system, "setpriv", "--reuid=1000", "--regid=1000", "--clear-groups", "sh", "-c", "echo a > /shared/app-user"
        )
        assert daemon.exec(DOCKER, "cat", "/shared/app-user") == "a\n"
        assert system in refused(daemon, 4, "volume", "rm", "shared", "--yes")
    finally:
        daemon.run("rm", DOCKER, "--yes", "--force")
        daemon.run("volume", "detach", system, "shared")
    assert daemon.json("volume", "show", "shared")["used_by"] == []


@pytest.mark.lxc
def test_a_volume_comes_and_goes_while_a_system_runs(daemon: Daemon, system: str) -> None:
    path = volume(daemon, "live")
    (path / "from-host").write_text("seen")
    daemon.run("volume", "attach", system, "live:/mnt/a b:ro")
    assert daemon.exec(system, "cat", "/mnt/a b/from-host") == "seen"
    assert daemon.exec(system, "sh", "-c", "echo x > '/mnt/a b/new' || echo refused", check=False).strip() == "refused"
    daemon.run("volume", "detach", system, "live")
    assert daemon.exec(system, "ls", "/mnt/a b") == ""

    daemon.run("volume", "attach", system, "live:/mnt/live")
    holder = subprocess.Popen(daemon_exec(daemon, system, "sleep", "infinity", cwd="/mnt/live"), env=daemon.env)
    try:
        wait_for(lambda: "live" in daemon.exec(system, "sh", "-c", "readlink /proc/[0-9]*/cwd", check=False))
        assert "uses /mnt/live" in refused(daemon, 4, "volume", "detach", system, "live")
        assert daemon.json("volume", "show", "live")["used_by"] == [system]
    finally:
        holder.kill()
        holder.wait()
    daemon.exec(system, "sh", "-c", "pkill -x sleep", check=False)
    daemon.run("restart", system)
    assert daemon.exec(system, "cat", "/mnt/live/from-host") == "seen"
    daemon.run("volume", "detach", system, "live")
    daemon.run("restart", system)
    assert daemon.exec(system, "sh", "-c", "ls /mnt/live") == ""


def daemon_exec(daemon: Daemon, name: str, *argv: str, cwd: str) -> list[str]:
    from tests.live.daemon import TRIUNE

    return [str(TRIUNE), "exec", name, "--cwd", cwd, "--", *argv]


def wait_for(what: Callable[[], object], seconds: float = 60) -> None:
    until(what, within=seconds, pause=0.2)


@pytest.mark.lxc
def test_a_hostile_place_stays_inside(daemon: Daemon, system: str) -> None:
    path = volume(daemon, "hostile")
    daemon.exec(system, "sh", "-c", "rm -rf /evil /evil2; ln -s /proc/1/root/etc /evil; ln -s /../../../../etc /evil2")
    before = sorted(Path("/etc").iterdir())
    for target in ("/evil/x", "/evil2/triune-x"):
        done = daemon.run("volume", "attach", system, f"hostile:{target}", check=False)
        if done.returncode == 0:
            daemon.run("volume", "detach", system, "hostile")
    assert sorted(Path("/etc").iterdir()) == before
    assert not any(
        str(path) in line and " /etc" in line for line in Path("/proc/self/mountinfo").read_text().splitlines()
    )
    assert daemon.json("volume", "show", "hostile")["used_by"] == []


@pytest.mark.docker
def test_an_app_container_says_why_not(daemon: Daemon) -> None:
    volume(daemon, "app")
    volume(daemon, "appdisk", "--format", "raw", "--size", "8MiB")
    daemon.launch(IMAGE, DOCKER, "docker", "--volume", "app:/data:ro", command=("sleep", "infinity"))
    try:
        assert "mount" in refused(daemon, 6, "volume", "attach", DOCKER, "app:/x")
        assert "/data" in daemon.exec(DOCKER, "cat", "/proc/mounts")
    finally:
        daemon.run("rm", DOCKER, "--yes", "--force")
    launch = ("launch", IMAGE, DOCKER, "--engine", "docker")
    assert "volumes of the pool" in refused(daemon, 6, *launch, "--pool", "default")
    assert "is a disk" in refused(daemon, 6, *launch, "--volume", "appdisk")
    assert "'app'" in refused(daemon, 3, *launch, "--volume", "ap:/x")


@pytest.mark.kvm
def test_a_vm_in_a_pool_with_disks_and_folders(daemon: Daemon) -> None:
    daemon.run("pool", "create", "fast", "--driver", "btrfs", "--size", "400MiB")
    place = Path(daemon.json("pool", "show", "fast")["path"])
    disk = volume(daemon, "extra", "--format", "qcow2", "--size", "64MiB", "--pool", "fast")
    hot = volume(daemon, "hot", "--format", "raw", "--size", "32MiB")
    tree = volume(daemon, "vmtree", "--pool", "fast")
    (tree / "from-host").write_text("seen")
    daemon.launch(IMAGE, KVM, "kvm", "--pool", "fast", "--volume", "extra", "--volume", "vmtree:/srv/tree")
    try:
        (own,) = (place / "instances" / "kvm").iterdir()
        assert own.name.startswith(KVM) and (own / "disk.qcow2").stat().st_size > 0
        assert daemon.exec(KVM, "cat", "/srv/tree/from-host") == "seen"
        by_id = "/dev/disk/by-id/virtio-extra"
        daemon.exec(
            KVM, "sh", "-c", f"mkfs.ext4 -q {by_id} && mount {by_id} /mnt && echo kept > /mnt/file && umount /mnt"
        )
        refused(daemon, 4, "volume", "resize", "extra", "96MiB")
        refused(daemon, 4, "pool", "rm", "fast", "--yes")

        daemon.run("volume", "attach", KVM, "hot")
        wait_for(
            lambda: (
                daemon.run("exec", KVM, "--", "test", "-b", "/dev/disk/by-id/virtio-hot", check=False).returncode == 0
            )
        )
        assert daemon.exec(KVM, "sh", "-c", "blockdev --getsize64 /dev/disk/by-id/virtio-hot").strip() == str(32 << 20)
        assert "two systems" in refused(
            daemon, 4, "launch", IMAGE, f"{PREFIX}second", "--engine", "kvm", "--volume", "hot"
        )
        hot_id = "/dev/disk/by-id/virtio-hot"
        # A guest would let a mounted disk go, and lose what it has not written yet.
        daemon.exec(KVM, "sh", "-c", f"mkfs.ext4 -q {hot_id} && mount {hot_id} /mnt && echo kept > /mnt/file")
        assert "did not let go" in refused(daemon, 4, "volume", "detach", KVM, "hot")
        assert daemon.exec(KVM, "sh", "-c", "sync && cat /mnt/file && umount /mnt").strip() == "kept"
        daemon.exec(KVM, "sh", "-c", f"mkswap -q {hot_id} && swapon {hot_id}")
        assert "did not let go" in refused(daemon, 4, "volume", "detach", KVM, "hot")
        daemon.exec(KVM, "swapoff", hot_id)
        daemon.run("volume", "detach", KVM, "hot")
        assert daemon.run("exec", KVM, "--", "test", "-e", "/dev/disk/by-id/virtio-hot", check=False).returncode == 1
        assert hot.stat().st_uid == 0

        daemon.run("volume", "detach", KVM, "vmtree")
        assert daemon.exec(KVM, "ls", "/srv/tree") == ""
        daemon.run("volume", "attach", KVM, "vmtree:/srv/again")
        assert daemon.exec(KVM, "cat", "/srv/again/from-host") == "seen"
        daemon.run("stop", KVM, "--force", "--timeout", "0")
        daemon.run("rename", KVM, f"{KVM}-renamed")
        daemon.run("rename", f"{KVM}-renamed", KVM)
        assert (own / "disk.qcow2").exists()
    finally:
        daemon.run("rm", KVM, "--yes", "--force")
    assert not own.exists()
    shrinks(daemon, disk)
    for name in ("extra", "vmtree", "hot"):
        daemon.run("volume", "rm", name, "--yes")
    daemon.run("pool", "rm", "fast", "--yes")
    assert not place.exists()


def shrinks(daemon: Daemon, disk: Path) -> None:
    """A disk with an ext4 grows, converts, and shrinks as far as its files allow."""
    daemon.run("volume", "resize", "extra", "96MiB")
    assert "at least" in refused(daemon, 4, "volume", "resize", "extra", "1MiB")
    daemon.run("volume", "resize", "extra", "48MiB")
    daemon.run("volume", "convert", "extra", "--format", "raw")
    raw = disk.with_suffix(".raw")
    assert raw.stat().st_size == 48 << 20 and not disk.exists()
    with mounted(raw) as folder:
        assert (folder / "file").read_text() == "kept\n"


def mounted(raw: Path) -> object:
    import contextlib
    import tempfile

    @contextlib.contextmanager
    def work() -> Iterator[Path]:
        with tempfile.TemporaryDirectory() as name:
            subprocess.run(["mount", "-o", "loop,ro", raw, name], check=True)
            try:
                yield Path(name)
            finally:
                subprocess.run(["umount", name], check=True)

    return work()


@pytest.mark.lxc
def test_limits_of_volumes_hold_and_shrink_only_where_it_fits(daemon: Daemon, system: str) -> None:
    daemon.run("pool", "create", "small", "--driver", "btrfs", "--size", "256MiB")
    volume(daemon, "limited", "--pool", "small", "--size", "16MiB")
    daemon.run("volume", "attach", system, "limited:/limited")
    try:
        fill = "dd if=/dev/urandom of=/limited/data bs=1M count=32 2>&1; true"
        assert "quota exceeded" in daemon.exec(system, "sh", "-c", fill)
        daemon.run("volume", "resize", "limited", "64MiB")
        assert "quota exceeded" not in daemon.exec(system, "sh", "-c", fill)
        assert "holds 32" in refused(daemon, 4, "volume", "resize", "limited", "16MiB")
        daemon.exec(system, "rm", "/limited/data")
        daemon.run("volume", "resize", "limited", "16MiB")
        assert daemon.json("volume", "show", "limited")["size"] == 16 << 20
    finally:
        daemon.run("volume", "detach", system, "limited")
        daemon.run("volume", "rm", "limited", "--yes")
        daemon.run("pool", "rm", "small", "--yes")


def test_a_full_pool_is_told_and_nothing_half_made_stays(daemon: Daemon) -> None:
    daemon.run("pool", "create", "full", "--driver", "btrfs", "--size", "128MiB")
    place = Path(daemon.json("pool", "show", "full")["path"])
    large = daemon.data / "large"
    large.mkdir(exist_ok=True)
    (large / "data").write_bytes(os.urandom(160 << 20))
    try:
        for source, options in ((large, ()), (large / "data", ("--format", "raw"))):
            argv = ("volume", "import", str(source), "--name", "toolarge", "--pool", "full", *options)
            assert "no space is left in the pool full" in refused(daemon, 1, *argv)
            assert "toolarge" not in {volume["name"] for volume in daemon.json("volume", "list")}
            assert [entry.name for part in ("trees", "disks", "tmp") for entry in (place / part).iterdir()] == []
        daemon.run("volume", "create", "small", "--pool", "full", "--size", "16MiB")
        daemon.run("volume", "rm", "small", "--yes")
    finally:
        (large / "data").unlink()
        large.rmdir()
        daemon.run("pool", "rm", "full", "--yes")


def test_a_pool_without_its_file_is_unavailable_and_the_daemon_starts(daemon: Daemon) -> None:
    daemon.run("pool", "create", "lost", "--driver", "btrfs", "--size", "128MiB")
    daemon.run("volume", "create", "inside", "--pool", "lost")
    found = daemon.json("pool", "show", "lost")
    path, image = Path(found["path"]), Path(found["loop"])
    (path / "trees" / "inside" / "file").write_text("kept")
    daemon.kill()
    loop.unmount(image, path)
    image.rename(image.with_suffix(".away"))
    daemon.start()
    found = daemon.json("pool", "show", "lost")
    assert not found["available"] and str(image) in found["reason"]
    assert b"unavailable" in daemon.run("pool", "list").stdout
    refused(daemon, 4, "volume", "create", "more", "--pool", "lost")
    refused(daemon, 4, "volume", "rm", "inside", "--yes")
    image.with_suffix(".away").rename(image)
    assert daemon.json("pool", "show", "lost")["available"]
    assert (path / "trees" / "inside" / "file").read_text() == "kept"
    daemon.run("volume", "rm", "inside", "--yes")
    daemon.run("pool", "rm", "lost", "--yes")


def test_a_pool_on_a_btrfs_that_is_there(daemon: Daemon) -> None:
    image, target = CACHE / "storage" / "given.img", CACHE / "storage" / "given"
    image.unlink(missing_ok=True)
    target.mkdir(exist_ok=True)
    loop.make_file(image, 160 << 20)
    subprocess.run(["mkfs.btrfs", "-q", image], check=True)
    loop.mount(image, target, "btrfs")
    try:
        refused(daemon, 2, "pool", "create", "given", "--driver", "btrfs", "--path", str(target))
        outside = Path("/mnt/triune-tstor")
        outside.mkdir()
        subprocess.run(["mount", "--bind", target, outside], check=True)
        try:
            daemon.run("pool", "create", "given", "--driver", "btrfs", "--path", str(outside / "pool"))
            found = daemon.json("pool", "show", "given")
            assert found["reflink"] and not found["quota"] and "btrfs quota enable" in found["quota_reason"]
            refused(daemon, 6, "volume", "create", "one", "--pool", "given", "--size", "16MiB")
            subprocess.run(["btrfs", "quota", "enable", outside], check=True)
            path = volume(daemon, "one", "--pool", "given", "--size", "16MiB")
            assert btrfs.is_subvolume(path)
            daemon.run("volume", "rm", "one", "--yes")
            daemon.run("pool", "rm", "given", "--yes")
            assert list(outside.iterdir()) == []
        finally:
            subprocess.run(["umount", outside], check=True)
            outside.rmdir()
    finally:
        loop.unmount(image, target)
        image.unlink()
        target.rmdir()


CRASHES = {
    "pool": (
        ("pool", "create", "crash", "--driver", "btrfs", "--size", "128MiB"),
        ["pool-create:intend-pool", "pool-create:make", "pool-create:before-keep"],
    ),
    "volume": (
        ("volume", "create", "crash"),
        ["volume-create:intend-volume", "volume-create:make", "volume-create:before-keep"],
    ),
}


@pytest.mark.parametrize("what", CRASHES)
def test_killed_while_making_leaves_nothing(daemon: Daemon, what: str) -> None:
    argv, points = CRASHES[what]
    data = daemon.data / "pools"
    before = everything(data)
    for point in points:
        daemon.crash(point)
        daemon.run(*argv, check=False)
        daemon.died()
        daemon.start()
        assert everything(data) == before, point
        assert daemon.run(what, "show", "crash", check=False).returncode == 3
    daemon.run(*argv)
    daemon.run(what, "rm", "crash", "--yes")
    assert everything(data) == before


def test_killed_while_converting_leaves_one_whole_disk(daemon: Daemon) -> None:
    disk = volume(daemon, "conv", "--format", "raw", "--size", "16MiB")
    content = os.urandom(1 << 20)
    with disk.open("r+b") as file:
        file.write(content)
    before = everything(daemon.data / "pools")
    for point in ("intend-volume-convert", "convert", "compare", "replace"):
        daemon.crash(f"volume-convert:{point}")
        daemon.run("volume", "convert", "conv", "--format", "qcow2", check=False)
        daemon.died()
        daemon.start()
        assert everything(daemon.data / "pools") == before, point
        assert disk.read_bytes()[: len(content)] == content
    for point in ("intend-volume", "remove"):
        daemon.crash(f"volume-remove:{point}")
        daemon.run("volume", "rm", "conv", "--yes", check=False)
        daemon.died()
        daemon.start()
        assert not disk.exists()
        assert daemon.run("volume", "show", "conv", check=False).returncode == 3
        disk = volume(daemon, "conv", "--format", "raw", "--size", "16MiB")
    daemon.run("volume", "rm", "conv", "--yes")


@pytest.mark.lxc
def test_killed_while_attaching_leaves_it_attached_or_not(daemon: Daemon, system: str) -> None:
    volume(daemon, "halfway")
    for point in ("attach:intend-attach", "attach:attach", "attach:lxc-attach", "attach:before-keep"):
        daemon.crash(point)
        daemon.run("volume", "attach", system, "halfway:/halfway", check=False)
        daemon.died()
        daemon.start()
        assert daemon.json("volume", "show", "halfway")["used_by"] == [], point
        assert "/halfway" not in daemon.exec(system, "cat", "/proc/mounts"), point
    daemon.run("volume", "attach", system, "halfway:/halfway")
    for point in ("detach:intend-attach", "detach:lxc-detach"):
        daemon.crash(point)
        daemon.run("volume", "detach", system, "halfway", check=False)
        daemon.died()
        daemon.start()
        assert daemon.json("volume", "show", "halfway")["used_by"] == [], point
        assert "/halfway" not in daemon.exec(system, "cat", "/proc/mounts"), point
        daemon.run("volume", "attach", system, "halfway:/halfway")
    daemon.run("volume", "detach", system, "halfway")


def everything(folder: Path) -> dict[str, object]:
    """What is below a folder, and what is mounted there."""
    found: dict[str, object] = {
        str(path): path.stat().st_size if path.is_file() else overlay.is_mounted(path)
        for path in folder.rglob("*")
        if path.name != "lock"
    }
    found["loops"] = [
        line for line in json.dumps(loops()).split(",") if str(folder) in line and "(deleted)" not in line
    ]
    return found


def loops() -> list[str]:
    text = subprocess.run(["losetup", "-a"], capture_output=True, text=True, check=True).stdout
    return text.splitlines()
