"""Engines that are away or hang, a daemon that is down, a full disk, and what others did while nobody listened."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.live.bad_world import CACHE, DOCKER, PARAMS, PREFIX, Lodger, begin, hosts, out, own_daemon, refused, until
from tests.live.daemon import Daemon
from tests.live.kvm_fixtures import put_small
from tests.live.system_fixtures import ENGINES, IMAGE, built_image
from tests.patience import Awake

pytestmark = [
    pytest.mark.alone,
    pytest.mark.live,
    pytest.mark.net,
    pytest.mark.kvm,
    pytest.mark.lxc,
    pytest.mark.docker,
]

NAMES = {engine: f"{PREFIX}{engine}" for engine in ENGINES}
DAMAGED = {
    "docker": ("docker_url", "unix://{socket}"),
    "kvm": ("libvirt_uri", "qemu+unix:///system?socket={socket}"),
}


@pytest.fixture(scope="module")
def inhabited() -> Iterator[Daemon]:
    """A stopped daemon whose data folder knows an instance of each engine; lxc's and docker's run."""
    with own_daemon() as daemon:
        built_image(daemon)
        daemon.remove_all(PREFIX)
        for engine, name in NAMES.items():
            daemon.launch(IMAGE, name, engine, "--wait", "running", *(["--no-start"] if engine == "kvm" else []))
        daemon.stop()
        yield daemon
        own_daemon()  # its settings, which other daemons in its place have changed
        daemon.start()
        daemon.remove_all(PREFIX)
        daemon.stop()


@pytest.fixture
def silent(tmp_path: Path) -> Iterator[Path]:
    """A socket that takes connections and never says anything."""
    path = tmp_path / "silent.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(100)
        yield path


@pytest.mark.parametrize("hangs", [False, True], ids=["dead", "hung"])
@pytest.mark.parametrize("engine", list(DAMAGED))
def test_an_engine_that_is_away(inhabited: Daemon, engine: str, hangs: bool, silent: Path) -> None:
    key, url = DAMAGED[engine]
    name = NAMES[engine]
    damage = {key: url.format(socket=silent if hangs else "/nonexistent.sock")}
    with own_daemon(engines=damage, kind=Lodger) as daemon:
        for _ in range(2):
            with Awake() as awake:
                listed = daemon.run("list", "-q")
            assert awake.seconds < 2.5  # two seconds, and the program's own start on a busy host
            there = set(listed.stdout.decode().split())
            assert set(NAMES.values()) - {name} <= there and name not in there
            (warning,) = listed.stderr.decode().splitlines()
            assert warning.startswith(f"warning: {engine}: ") and "systemctl start" in warning
        for command in (("start", name), ("stop", name), ("show", name), ("logs", name), ("rm", "--yes", name)):
            assert "systemctl start" in refused(daemon, 7, "engine_unreachable", *command)
        refused(daemon, 125, "engine_unreachable", "exec", name, "--", "true")
        refused(daemon, 7, "engine_unreachable", "show", f"{PREFIX}nobody")
        refused(daemon, 6, "engine_unavailable", "launch", IMAGE, f"{PREFIX}x", "--engine", engine)
        refused(daemon, 4, "image_use_unknown", "image", "rm", "--yes", IMAGE)
        # Its names stay taken.
        assert engine in refused(daemon, 4, "instance_exists", "launch", IMAGE, name, "--engine", "lxc")
        # The others go on.
        daemon.run("stop", NAMES["lxc"], "--force")
        daemon.run("start", NAMES["lxc"])
        assert daemon.exec(NAMES["lxc"], "hostname").strip() == NAMES["lxc"]
        daemon.launch(IMAGE, f"{PREFIX}x", "auto", "--wait", "running")
        daemon.run("rm", "--yes", "--force", f"{PREFIX}x")
        assert hosts() == set(NAMES.values())
        daemon.stop()


def test_a_daemon_that_is_down_or_hangs(inhabited: Daemon, silent: Path) -> None:
    for command in (("list",), ("start", "x"), ("launch", IMAGE, f"{PREFIX}x"), ("image", "list"), ("ops", "list")):
        assert "triune" in refused(inhabited, 7, "daemon_unreachable", *command)
    refused(inhabited, 125, "daemon_unreachable", "exec", "x", "--", "true")


def test_what_others_removed_while_the_daemon_was_down_is_forgotten(inhabited: Daemon) -> None:
    gone = {engine: f"{PREFIX}g{engine}" for engine in ENGINES}
    with own_daemon(kind=Lodger) as daemon:
        for engine, name in gone.items():
            daemon.launch(IMAGE, name, engine, "--wait", "running")
        daemon.stop()
        out("virsh", "destroy", gone["kvm"])
        out("virsh", "undefine", "--nvram", gone["kvm"])
        out("lxc-destroy", "-f", "-n", gone["lxc"])
        out(DOCKER, "rm", "-f", gone["docker"])
        assert set(gone.values()) <= hosts()
        daemon.start()
        until(lambda: hosts() == set(NAMES.values()))
        assert daemon.names().keys() & set(gone.values()) == set()
        daemon.stop()


@pytest.fixture
def small(inhabited: Daemon) -> Iterator[Path]:
    """A disk of 40 MiB."""
    del inhabited  # it must not run: there is one bridge for all daemons
    folder = CACHE / "data-small"
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40m,mode=755", PREFIX, str(folder)], check=True)
    yield folder
    subprocess.run(["umount", str(folder)], check=True)
    folder.rmdir()


@contextmanager
def clean(daemon: Daemon, folder: Path) -> Iterator[Daemon]:
    """A running daemon; at the end there is room and no instance of the trial, whatever happened."""
    with daemon:
        try:
            yield daemon
        finally:
            (folder / "ballast").unlink(missing_ok=True)
            for name in ("full", "first"):
                daemon.run("rm", "--yes", "--force", f"{PREFIX}{name}", check=False)
        daemon.stop()


def fill(folder: Path, leave: int) -> None:
    """Leave so many KiB of the folder's disk free."""
    ballast = folder / "ballast"
    ballast.unlink(missing_ok=True)
    free = int(out("df", "--output=avail", "-k", str(folder)).split()[-1])
    subprocess.run(["fallocate", "-l", f"{free - leave}k", str(ballast)], check=True)


@pytest.mark.parametrize("engine", [PARAMS[0], PARAMS[2]])
def test_the_disk_of_an_engines_instances_is_full(small: Path, engine: str) -> None:
    """Docker's own data can't be made scarce here without making it so for everyone."""
    name = f"{PREFIX}full"
    (small / "lxc").mkdir()
    settings = {"lxc_path": str(small / "lxc"), "state_dir": str(small / "state")}
    with clean(own_daemon(engines=settings, kind=Lodger), small) as daemon:
        refusals = 0
        for leave in (0, 8, 60, 250):
            fill(small, leave)
            argv = ("launch", IMAGE, name, "--engine", engine, "--wait", "running")
            done = daemon.run(*argv, check=False, timeout=60)
            if done.returncode:
                refusals += 1
                said = done.stderr.decode()
                assert done.returncode == 1 and ("no space is left" in said or "No space left" in said), said
                assert "hint: " in said and "unexpected" not in said and "left over" not in said
                assert name not in daemon.names() and name not in hosts(), "nothing half-made is left"
            else:
                daemon.run("rm", "--yes", "--force", name)
        assert refusals
        (small / "ballast").unlink()
        daemon.run(*argv)
        daemon.run("rm", "--yes", "--force", name)
        assert list((small / "lxc").iterdir()) == []


def test_the_disk_of_the_daemons_data_is_full(small: Path) -> None:
    """Nothing new begins, what runs can be looked at, stopped and removed, and with room all is as before."""
    (small / "images").symlink_to(CACHE / "data-bad/images")
    first, name = f"{PREFIX}first", f"{PREFIX}full"
    with clean(own_daemon(small, kind=Lodger), small) as daemon:
        daemon.launch(IMAGE, first, "lxc")
        time.sleep(6)  # the database takes its reserve now and then
        daemon.run("stop", first, "--force")
        fill(small, 0)
        for engine in ENGINES:
            assert "df -h" in refused(daemon, 1, "no_space", "launch", IMAGE, name, "--engine", engine)
        assert daemon.names()[first]["state"] == "stopped"
        assert daemon.json("image", "list") and daemon.json("ops", "list")
        for command in (("start", first), ("stop", first, "--force"), ("rm", "--yes", first)):
            daemon.run(*command)
        assert first not in daemon.names() and first not in hosts() and name not in hosts()
        (small / "ballast").unlink()
        daemon.run("launch", IMAGE, name, "--engine", "lxc")
        assert daemon.json("ops", "list")[0]["state"] == "done"


def test_a_guest_that_fills_the_hosts_disk_is_told(small: Path) -> None:
    """The virtual machine stands still and says why; it can be removed as full as the disk is."""
    (small / "images").symlink_to(CACHE / "data-bad/images")
    name = f"{PREFIX}full"
    with clean(own_daemon(small, kind=Lodger), small) as daemon:
        daemon.launch(put_small(small / "images"), name, "kvm", "--memory", "256MiB", "--network", "none")
        with begin(daemon, "exec", name, "--", "dd", "if=/dev/urandom", "of=/big", "bs=1M", "count=100") as client:
            until(lambda: daemon.names()[name]["state"] == "error", 90)
            client.kill()
        assert "disk" in daemon.names()[name]["error"]
        refused(daemon, 1, "no_space", "launch", IMAGE, f"{PREFIX}first")
        daemon.run("rm", "--yes", "--force", name)
        assert name not in daemon.names() and name not in hosts()
