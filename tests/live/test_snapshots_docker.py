"""Snapshots and clones of containers, on the Docker of this host: exactly what was there, and nothing half-made."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.contract.adapters import TESTS, DockerAdapter
from tests.contract.conftest import Ended, finish
from tests.live import nasty_tree
from triune.domain.errors import Conflict, Failed, NotFound, Unsupported
from triune.domain.instance import State, VolumeMount
from triune.domain.operation import Silent
from triune.domain.snapshot import Consistency, Snapshot
from triune.engines.base import ClonePlan, Command
from triune.engines.docker.engine import DockerEngine

pytestmark = [pytest.mark.live, pytest.mark.docker]

STATE = TESTS / "snap-docker"
SILENT = Silent()
# Of every program but the one that a test of crashes starts by itself.
_numbers = itertools.count(1)


class SnapAdapter(DockerAdapter):
    """With a folder, names and an image of these tests' own."""

    reference = "tsnap-live:1"

    def make(self) -> DockerEngine:
        engine = DockerEngine(state_dir=STATE)
        if not engine.probe().available:
            pytest.skip("no Docker")
        return engine


ADAPTER = SnapAdapter()


def docker(*argv: str) -> str:
    done = subprocess.run(["/usr/bin/docker", *argv], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def inspect(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(docker("inspect", name))[0]
    return found


def clear(engine: DockerEngine) -> None:
    for row in engine.list():
        if row.name.startswith("tsnap-"):
            engine.delete(row.name)
    for volume in docker("volume", "ls", "-q").split():
        if "tsnap-" in volume:
            docker("volume", "rm", volume)


def left() -> list[str]:
    """What snapshots of these tests are made of."""
    images = [line for line in docker("images", "--format", "{{.Repository}}:{{.Tag}}").split() if "tsnap-" in line]
    folders = [str(path) for path in (STATE / "snapshots").glob("*")]
    names = docker("ps", "-a", "--format", "{{.Names}}").split()
    return [
        *(one for one in images if one.startswith("triune-snapshot/")),
        *folders,
        *(one for one in names if one.startswith("tsnap-") and one.endswith((".triune-new", ".triune-old"))),
    ]


@pytest.fixture(scope="module")
def engine() -> Iterator[DockerEngine]:
    made = ADAPTER.make()
    clear(made)
    shutil.rmtree(STATE, ignore_errors=True)
    ADAPTER.form(made)
    yield made
    clear(made)
    assert made.oci is not None
    made.oci.remove(ADAPTER.reference)
    assert left() == []


@pytest.fixture
def name(engine: DockerEngine) -> Iterator[str]:
    text = f"tsnap-{next(_numbers)}"
    yield text
    engine.delete(text)


def make(engine: DockerEngine, name: str, **changes: Any) -> None:
    engine.create(ADAPTER.plan(engine, name, **changes), SILENT)
    engine.start(name, SILENT)


def inside(name: str) -> Path:
    """The root of a running container."""
    return Path(f"/proc/{inspect(name)['State']['Pid']}/root")


def sh(engine: DockerEngine, name: str, script: str) -> str:
    assert engine.commands is not None
    ended: Ended = finish(engine.commands.open(name, Command(argv=("sh", "-c", script))))
    assert ended.code == 0, ended.err
    return ended.out.decode()


def take(engine: DockerEngine, name: str, snapshot: str) -> Snapshot:
    assert engine.snapshots is not None
    wanted = Snapshot(name=snapshot, created=datetime.now(UTC), consistency=Consistency.CRASH, comment="a test's")
    return engine.snapshots.create(name, wanted, SILENT)


def restore(engine: DockerEngine, name: str, snapshot: str) -> None:
    assert engine.snapshots is not None
    engine.stop(name, timeout=0, force=True, progress=SILENT)
    engine.snapshots.restore(name, snapshot, SILENT)


def names(engine: DockerEngine, name: str) -> list[str]:
    assert engine.snapshots is not None
    return [one.name for one in engine.snapshots.list(name)]


CONFIGURATION = ("Cmd", "Entrypoint", "Env", "Hostname", "Image", "Labels", "User", "WorkingDir", "ExposedPorts")
HOST = ("Memory", "NanoCpus", "RestartPolicy", "NetworkMode", "Init", "PortBindings", "Dns", "DnsSearch", "PidsLimit")


def configuration(name: str) -> dict[str, object]:
    found = inspect(name)
    mounts = sorted((one["Destination"], one.get("Name"), one["Source"], one["RW"]) for one in found["Mounts"])
    networks = {key: value["IPAMConfig"] for key, value in found["NetworkSettings"]["Networks"].items()}
    return {
        **{key: found["Config"].get(key) for key in CONFIGURATION},
        **{key: found["HostConfig"].get(key) for key in HOST},
        "mounts": mounts,
        "networks": networks,
        "mac": found["Config"].get("MacAddress"),
    }


def test_a_restore_puts_back_a_nasty_tree_in_the_layer_and_in_volumes(engine: DockerEngine, name: str) -> None:
    volume = f"{name}-named"
    made = ADAPTER.plan(engine, name, memory=64 << 20, volumes=(VolumeMount(source=volume, target="/named"),))
    engine.create(made, SILENT)
    docker("rm", name)
    # An anonymous volume too, which only Docker's own command makes.
    labels = [
        word
        for key in ("managed=1", "image=tdoc/1", "settings={}", "command=[]", f"memory={64 << 20}")
        for word in ("--label", f"triune.{key}")
    ]
    docker(
        "create",
        "--name",
        name,
        "-v",
        "/anonymous",
        "-v",
        f"{volume}:/named",
        "--memory",
        "64m",
        *labels,
        ADAPTER.reference,
    )
    engine.start(name, SILENT)
    places = ("opt", "named", "anonymous")
    skipped: list[str] = []
    for place in places:
        (inside(name) / place).mkdir(exist_ok=True)
        skipped += nasty_tree.make(inside(name) / place)
    assert {line.partition(":")[0] for line in skipped} <= {"overlay whiteout", "owners"}, skipped
    before = {place: nasty_tree.digest(inside(name) / place) for place in places}
    assert all(len(one) > 60 for one in before.values())
    was = configuration(name)
    taken = take(engine, name, "one")
    assert (taken.consistency, taken.memory) == (Consistency.FROZEN, False)
    assert inspect(name)["State"]["Status"] == "running"
    for place in places:
        nasty_tree.spoil(inside(name) / place)
        assert nasty_tree.differences(before[place], nasty_tree.digest(inside(name) / place))
    sh(engine, name, "rm -r /opt/nasty/deep; echo new > /etc/new-file; rm /bin/wget; mkdir /tmp/more")
    for _ in range(2):  # a restored one can be put back again
        restore(engine, name, "one")
        assert engine.get(name).instance.state is State.STOPPED
        engine.start(name, SILENT)
        for place in places:
            assert nasty_tree.differences(before[place], nasty_tree.digest(inside(name) / place)) == []
        assert (
            sh(engine, name, "ls /bin/wget; test ! -e /etc/new-file && test ! -e /tmp/more && echo gone")
            == "/bin/wget\ngone\n"
        )
        assert configuration(name) == was
        nasty_tree.spoil(inside(name) / "opt")
    assert engine.get(name).instance.image == "tdoc/1"
    anonymous = next(one["Name"] for one in inspect(name)["Mounts"] if one["Destination"] == "/anonymous")
    engine.delete(name)
    assert anonymous not in docker("volume", "ls", "-q").split(), "it goes with its container, as before"
    assert volume in docker("volume", "ls", "-q").split(), "a named one stays"
    docker("volume", "rm", volume)


def test_snapshots_are_listed_from_docker_and_go_with_the_instance(engine: DockerEngine, name: str) -> None:
    make(engine, name)
    for snapshot in ("one", "two"):
        sh(engine, name, f"echo {snapshot} > /what")
        take(engine, name, snapshot)
    assert names(DockerEngine(state_dir=STATE), name) == ["one", "two"]
    assert f"triune-snapshot/{name}" in docker("images", "--format", "{{.Repository}}")
    assert engine.snapshots is not None
    with pytest.raises(Conflict) as exists:
        take(engine, name, "one")
    assert exists.value.code == "snapshot_exists"
    engine.snapshots.delete(name, "one", SILENT)
    engine.snapshots.delete(name, "one", SILENT)
    assert names(engine, name) == ["two"]
    restore(engine, name, "two")
    engine.start(name, SILENT)
    assert sh(engine, name, "cat /what") == "two\n"
    with pytest.raises(NotFound):
        engine.snapshots.restore(name, "one", SILENT)
    engine.delete(name)
    assert left() == []


def test_renaming_keeps_them_and_a_new_one_of_the_old_name_has_none(engine: DockerEngine, name: str) -> None:
    make(engine, name)
    sh(engine, name, "echo before > /what")
    take(engine, name, "one")
    new = f"{name}-new"
    assert engine.renaming is not None
    try:
        engine.renaming.rename(name, new)
        assert names(engine, new) == ["one"]
        make(engine, name)
        assert names(engine, name) == []
        engine.delete(name)
        sh(engine, new, "echo after > /what")
        restore(engine, new, "one")
        engine.start(new, SILENT)
        assert sh(engine, new, "cat /what") == "before\n"
    finally:
        engine.delete(new)
    assert left() == []


def test_a_running_container_is_not_put_back(engine: DockerEngine, name: str) -> None:
    make(engine, name)
    take(engine, name, "one")
    assert engine.snapshots is not None
    with pytest.raises(Conflict) as caught:
        engine.snapshots.restore(name, "one", SILENT)
    assert caught.value.code == "instance_running"


def test_what_fails_in_the_middle_leaves_all_as_before(
    engine: DockerEngine, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = f"{name}-data"
    make(engine, name, volumes=(VolumeMount(source=volume, target="/data"),))
    sh(engine, name, "echo one > /data/what; echo one > /what")
    take(engine, name, "one")
    sh(engine, name, "echo two > /data/what; echo two > /what")
    engine.stop(name, timeout=0, force=True, progress=SILENT)
    before = inspect(name)["Id"]
    snapshots: Any = engine.snapshots

    def fails(*_: object) -> None:
        raise Failed("broken", "a test said so", hint="Stop it.")

    monkeypatch.setattr(snapshots, "_switch", fails)
    with pytest.raises(Failed):
        snapshots.restore(name, "one", SILENT)
    monkeypatch.undo()
    assert inspect(name)["Id"] == before
    engine.start(name, SILENT)
    assert sh(engine, name, "cat /what /data/what; ls -A /data") == "two\ntwo\nwhat\n"
    monkeypatch.setattr(snapshots, "_commit", fails)
    with pytest.raises(Failed):
        take(engine, name, "two")
    monkeypatch.undo()
    assert names(engine, name) == ["one"]
    assert inspect(name)["State"]["Status"] == "running"
    assert len(list((STATE / "snapshots").glob("*"))) == 1
    engine.delete(name)
    docker("volume", "rm", volume)


def test_a_full_disk_in_the_middle_of_a_snapshot(engine: DockerEngine, name: str, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", small], check=True)
    try:
        tight = DockerEngine(state_dir=small)
        make(tight, name)
        sh(tight, name, "head -c 8000000 /dev/urandom > /big")
        with pytest.raises(Failed) as caught:
            take(tight, name, "one")
        assert caught.value.code == "no_space"
        assert names(tight, name) == []
        assert list((small / "snapshots").glob("*")) == []
        assert inspect(name)["State"]["Status"] == "running"
    finally:
        subprocess.run(["umount", small], check=True)


def test_a_volume_that_another_uses_is_not_changed_under_it(engine: DockerEngine, name: str) -> None:
    volume = f"{name}-shared"
    shared = (VolumeMount(source=volume, target="/data"),)
    make(engine, name, volumes=shared)
    sh(engine, name, "echo one > /data/what")
    take(engine, name, "one")
    other = f"{name}-other"
    make(engine, other, volumes=shared)
    try:
        sh(engine, other, "echo other > /data/what")
        take(engine, name, "two")
        assert inspect(other)["State"]["Status"] == "running"
        engine.stop(name, timeout=0, force=True, progress=SILENT)
        assert engine.snapshots is not None
        with pytest.raises(Conflict) as caught:
            engine.snapshots.restore(name, "one", SILENT)
        assert caught.value.code == "volume_in_use"
        assert other in caught.value.message
        assert sh(engine, other, "cat /data/what") == "other\n"
    finally:
        engine.delete(other)
    restore(engine, name, "one")
    engine.start(name, SILENT)
    assert sh(engine, name, "cat /data/what") == "one\n"
    engine.delete(name)
    docker("volume", "rm", volume)


def test_one_that_removes_itself_can_have_none(engine: DockerEngine, name: str) -> None:
    docker("run", "-d", "--rm", "--name", name, ADAPTER.reference)
    with pytest.raises(Unsupported):
        take(engine, name, "one")


def test_memory_says_why_not(engine: DockerEngine) -> None:
    assert engine.snapshots is not None
    assert engine.snapshots.memory is False
    assert engine.probe().missing["snapshots.memory"]


def cloned(engine: DockerEngine, name: str, new: str, snapshot: str | None = None) -> ClonePlan:
    plan = ClonePlan(name=name, new=new, created=datetime.now(UTC), machine_id="0" * 31 + "1", snapshot=snapshot)
    assert engine.cloning is not None
    engine.cloning.clone(plan, SILENT)
    return plan


def test_a_clone_has_its_own_data_and_identity(engine: DockerEngine, name: str) -> None:
    volume = f"{name}-data"
    make(engine, name, volumes=(VolumeMount(source=volume, target="/data"),))
    sh(engine, name, "echo one > /data/what; echo one > /what; mkdir -p /etc/ssh; echo abc > /etc/machine-id")
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", inside(name) / "etc/ssh/ssh_host_ed25519_key"], check=True
    )
    take(engine, name, "one")
    sh(engine, name, "echo two > /data/what; echo two > /what")
    keys = (inside(name) / "etc/ssh/ssh_host_ed25519_key").read_text()
    now, then = f"{name}-now", f"{name}-then"
    try:
        cloned(engine, name, now)
        cloned(engine, name, then, "one")
        assert inspect(name)["State"]["Status"] == "running"
        for new, said in ((now, "two"), (then, "one")):
            assert engine.get(new).instance.state is State.STOPPED
            engine.start(new, SILENT)
            assert sh(engine, new, "cat /what /data/what; hostname") == f"{said}\n{said}\n{new}\n"
            assert sh(engine, new, "cat /etc/machine-id").strip() == "0" * 31 + "1"
            key = (inside(new) / "etc/ssh/ssh_host_ed25519_key").read_text()
            assert key != keys
            assert key.startswith("-----BEGIN OPENSSH PRIVATE KEY-----")
            assert engine.get(new).instance.image == "tdoc/1"
        sh(engine, now, "echo changed > /data/what; echo changed > /what")
        assert sh(engine, name, "cat /what /data/what") == "two\ntwo\n"
        with pytest.raises(Conflict):
            cloned(engine, name, now)
        assert sh(engine, now, "cat /what") == "changed\n"
    finally:
        for new in (now, then):
            engine.delete(new)
    volumes = [one for one in docker("volume", "ls", "-q").split() if name in one]
    assert volumes == [volume], "the volumes of the clones went with them"
    engine.delete(name)
    docker("volume", "rm", volume)


# Killed at a step, as by kill -9, in a process of its own.
PROGRAM = """
import os, sys
from tests.live import test_snapshots_docker as tests
from triune.domain.operation import Silent

class Mortal(Silent):
    def step(self, name, text):
        if name == sys.argv[3]:
            os.kill(os.getpid(), 9)

tests.SILENT = Mortal()
engine = tests.ADAPTER.make()
action, name = sys.argv[1:3]
if action == "create":
    tests.take(engine, name, "two")
elif action == "restore":
    engine.snapshots.restore(name, "one", tests.SILENT)
else:
    tests.cloned(engine, name, name + "-clone")
"""


def killed(action: str, name: str, step: str) -> None:
    argv = [sys.executable, "-c", PROGRAM, action, name, step]
    done = subprocess.run(argv, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, f"{done.returncode} {done.stderr}"


@pytest.fixture
def worn(engine: DockerEngine, name: str) -> Iterator[Callable[[], str]]:
    """An instance at "two" with a snapshot "one"; says what it is at."""
    volume = f"{name}-data"
    make(engine, name, volumes=(VolumeMount(source=volume, target="/data"),))
    sh(engine, name, "echo one > /data/what; echo one > /what")
    take(engine, name, "one")
    sh(engine, name, "echo two > /data/what; echo two > /what")

    def at() -> str:
        engine.start(name, SILENT)
        return sh(engine, name, "cat /what /data/what; ls -A /data")

    yield at
    engine.delete(name)
    docker("volume", "rm", volume)


@pytest.mark.parametrize("step", ["docker-layer", "docker-volume", "docker-commit"])
def test_killed_while_it_takes_one(engine: DockerEngine, name: str, worn: Callable[[], str], step: str) -> None:
    killed("create", name, step)
    assert inspect(name)["State"]["Status"] == "paused"
    assert engine.snapshots is not None
    engine.snapshots.delete(name, "two", SILENT)
    assert inspect(name)["State"]["Status"] == "running"
    assert names(engine, name) == ["one"]
    assert len(list((STATE / "snapshots").glob("*"))) == 1
    assert worn() == "two\ntwo\nwhat\n"


@pytest.mark.parametrize("step", ["docker-restore", "docker-volumes", "docker-switch"])
def test_killed_while_it_is_put_back(engine: DockerEngine, name: str, worn: Callable[[], str], step: str) -> None:
    engine.stop(name, timeout=0, force=True, progress=SILENT)
    killed("restore", name, step)
    assert name in [row.name for row in engine.list()]
    assert not any(row.name.startswith(f"{name}.") for row in engine.list())
    restore(engine, name, "one")
    assert worn() == "one\none\nwhat\n"
    assert [one for one in left() if "triune-new" in one or "triune-old" in one] == []


def test_killed_between_the_two_renames(engine: DockerEngine, name: str, worn: Callable[[], str]) -> None:
    engine.stop(name, timeout=0, force=True, progress=SILENT)
    docker("rename", name, f"{name}.triune-old")
    docker("create", "--name", f"{name}.triune-new", ADAPTER.reference)
    assert engine.snapshots is not None
    engine.snapshots.restore(name, "one", SILENT)
    assert worn() == "one\none\nwhat\n"
    assert [one for one in left() if "triune-new" in one or "triune-old" in one] == []


def test_killed_while_it_is_copied(engine: DockerEngine, name: str, worn: Callable[[], str]) -> None:
    killed("clone", name, "docker-clone-data")
    engine.delete(f"{name}-clone")
    assert inspect(name)["State"]["Status"] == "running"
    assert not [one for one in docker("volume", "ls", "-q").split() if f"{name}-clone" in one]
    assert len(list((STATE / "snapshots").glob("*"))) == 1
    assert worn() == "two\ntwo\nwhat\n"


def test_owners_of_files_are_as_before_for_everyone(engine: DockerEngine, name: str) -> None:
    make(engine, name)
    sh(engine, name, "mkdir /srv; echo x > /srv/x")
    os.chown(inside(name) / "srv/x", 1000, 1000)
    take(engine, name, "one")
    sh(engine, name, "rm /srv/x")
    restore(engine, name, "one")
    engine.start(name, SILENT)
    facts = (inside(name) / "srv/x").stat()
    assert (facts.st_uid, facts.st_gid) == (1000, 1000)
