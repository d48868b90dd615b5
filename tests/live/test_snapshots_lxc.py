"""Snapshots and clones of system containers on real LXC, wherever their roots live: exact, whole or not at all."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests import nasty
from tests.live.lxc_fixtures import LXC_PATH, Lab, bridge, lab, mounts_below, tree
from tests.live.lxc_places import (
    KINDS,
    LOOK_INSIDE,
    MAKE_INSIDE,
    PREFIX,
    btrfs_pool,
    dir_pool,
    inside,
    mark_of,
    own_of,
    subvolumes_of,
    traces,
)
from triune.domain.errors import Cancelled, Conflict, NotFound, Unsupported
from triune.domain.instance import State
from triune.domain.network import Network
from triune.domain.operation import Silent
from triune.domain.pool import PoolPlace
from triune.domain.snapshot import Consistency, Snapshot
from triune.engines.base import ClonePlan
from triune.engines.lxc import holding, restoring
from triune.engines.lxc.engine import LxcEngine
from triune.host import cgroup

__all__ = ["bridge", "lab", "tree"]
pytestmark = [pytest.mark.live, pytest.mark.lxc]


@pytest.fixture(scope="module", params=KINDS)
def place(request: pytest.FixtureRequest) -> Iterator[PoolPlace | None]:
    """Where roots live: None is the engine's own place."""
    with ExitStack() as stack:
        match request.param:
            case "dir":
                yield stack.enter_context(dir_pool())
            case "btrfs":
                pool = stack.enter_context(btrfs_pool())
                yield pool
                assert subvolumes_of(pool) == []
            case _:
                yield None


@pytest.fixture(scope="module")
def here(place: PoolPlace | None, tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A lab whose containers are all in the place."""
    made = Lab(tmp_path_factory.mktemp("lxc-state"), tree, PREFIX)
    made.clean()
    try:
        yield made
    finally:
        made.clean()
    assert traces(made) == []


@pytest.fixture(scope="module")
def one(here: Lab, place: PoolPlace | None) -> str:
    """A container that was started once, stopped."""
    name = here.launch("one", place=place)
    stop(here, name)
    return name


@pytest.fixture
def stopped(here: Lab, one: str) -> Iterator[str]:
    stop(here, one)
    yield one
    for snapshot in snapshots(here).list(one):
        snapshots(here).delete(one, snapshot.name, Silent())
    for row in here.engine.list():
        if row.name.startswith(PREFIX) and row.name != one:
            here.engine.delete(row.name)


def snapshots(lab: Lab):
    assert lab.engine.snapshots
    return lab.engine.snapshots


def stop(lab: Lab, name: str) -> None:
    lab.engine.stop(name, timeout=0, force=True, progress=Silent())


def take(lab: Lab, name: str, snapshot: str = "s1") -> Snapshot:
    wanted = Snapshot(name=snapshot, created=datetime.now(UTC), consistency=Consistency.CRASH, comment="of a test")
    return snapshots(lab).create(name, wanted, Silent())


def clone(lab: Lab, name: str, new: str, *, nics: tuple[object, ...] = (), snapshot: str | None = None) -> str:
    assert lab.engine.cloning
    plan = ClonePlan(
        name=name,
        new=PREFIX + new,
        created=datetime.now(UTC),
        machine_id=os.urandom(16).hex(),
        nics=nics,  # type: ignore[arg-type]
        snapshot=snapshot,
    )
    lab.engine.cloning.clone(plan, Silent())
    return plan.new


def test_a_restore_puts_back_exactly_what_was_there(here: Lab, stopped: str) -> None:
    own = own_of(stopped)
    # Its blocks are reserved and unwritten: a copy has holes there.
    subprocess.run(["rm", "-rf", own / "var/log/journal"], check=True)
    (own / "srv/nasty").mkdir(parents=True)
    nasty.make(own / "srv/nasty")
    before = nasty.fingerprint(own)
    taken = take(here, stopped)
    assert taken.consistency is Consistency.STOPPED
    assert snapshots(here).list(stopped) == [taken]
    subprocess.run(["rm", "-rf", own / "srv/nasty", own / "etc"], check=True)
    (own / "srv/new").write_text("later")
    snapshots(here).restore(stopped, "s1", Silent())
    assert nasty.fingerprint(own) == before
    # And the snapshot is as it was, to be restored again.
    (own / "srv/nasty/plain").write_text("changed")
    snapshots(here).restore(stopped, "s1", Silent())
    assert nasty.fingerprint(own) == before
    subprocess.run(["rm", "-rf", own / "srv/nasty"], check=True)
    here.engine.start(stopped, Silent())
    here.engine.wait_ready(stopped, 60, Silent())
    assert here.exec(stopped, "hostname")[1].decode().strip() == stopped


def test_of_a_running_one_with_deletions_and_replacements(here: Lab, stopped: str) -> None:
    here.engine.start(stopped, Silent())
    here.engine.wait_ready(stopped, 60, Silent())
    script = (
        "rm -r /usr/share/doc; rm -r /usr/share/common-licenses; mkdir /usr/share/common-licenses; echo 1 > /root/n"
    )
    assert here.exec(stopped, "sh", "-c", script)[0] == 0
    ticking = here.exec(stopped, "sh", "-c", "i=0; (while :; do i=$((i+1)); echo $i; done > /root/ticks) & echo $!")
    assert ticking[0] == 0
    taken = take(here, stopped)
    assert taken.consistency is Consistency.FROZEN
    assert here.engine.get(stopped).instance.state is State.RUNNING
    grown = own_of(stopped) / "root/ticks"
    size = grown.stat().st_size
    time.sleep(0.3)
    assert grown.stat().st_size > size
    with pytest.raises(Conflict) as refused:
        snapshots(here).restore(stopped, "s1", Silent())
    assert refused.value.code == "instance_running"
    assert (
        here.exec(stopped, "sh", "-c", "rm -r /usr/share/common-licenses; echo 2 > /root/n; ls / > /usr/share/doc")[0]
        == 0
    )
    stop(here, stopped)
    snapshots(here).restore(stopped, "s1", Silent())
    here.engine.start(stopped, Silent())
    here.engine.wait_ready(stopped, 60, Silent())
    code, out, _ = here.exec(
        stopped, "sh", "-c", "cat /root/n; ls -A /usr/share/common-licenses; ls /usr/share/doc || :"
    )
    assert (code, out) == (0, b"1\n")
    lines = (own_of(stopped) / "root/ticks").read_text().splitlines()
    assert [int(line) for line in lines] == list(range(1, len(lines) + 1)) or lines[-1].isdigit()


def test_one_that_its_user_paused_stays_paused(here: Lab, stopped: str) -> None:
    here.engine.start(stopped, Silent())
    assert here.engine.pausing
    here.engine.pausing.pause(stopped)
    take(here, stopped)
    assert here.engine.get(stopped).instance.state is State.PAUSED
    here.engine.pausing.resume(stopped)


def test_settings_come_back_and_identity_stays(here: Lab, stopped: str) -> None:
    config = LXC_PATH / stopped / "config"
    before = config.read_text()
    take(here, stopped)
    config.write_text(before + "lxc.environment = LATER=1\n")
    snapshots(here).restore(stopped, "s1", Silent())
    assert sorted(config.read_text().splitlines()) == sorted(before.splitlines())
    assert here.engine.renaming
    new = f"{PREFIX}other"
    here.engine.renaming.rename(stopped, new)
    try:
        assert [one.name for one in snapshots(here).list(new)] == ["s1"]
        snapshots(here).restore(new, "s1", Silent())
        here.engine.start(new, Silent())
        here.engine.wait_ready(new, 60, Silent())
        assert here.exec(new, "cat", "/etc/hostname")[1].decode().strip() == new
        assert here.exec(new, "hostname")[1].decode().strip() == new
    finally:
        stop(here, new)
        here.engine.renaming.rename(new, stopped)


def test_names_are_taken_once_and_missing_ones_told(here: Lab, stopped: str) -> None:
    take(here, stopped)
    with pytest.raises(Conflict) as taken:
        take(here, stopped)
    assert taken.value.code == "snapshot_exists"
    with pytest.raises(NotFound) as missing:
        snapshots(here).restore(stopped, "s2", Silent())
    assert missing.value.code == "snapshot_not_found"
    snapshots(here).delete(stopped, "s2", Silent())
    with pytest.raises(NotFound):
        snapshots(here).restore(stopped, "../../s1", Silent())
    wanted = Snapshot(name="m", created=datetime.now(UTC), consistency=Consistency.CRASH, memory=True)
    with pytest.raises(Unsupported) as refused:
        snapshots(here).create(stopped, wanted, Silent())
    assert refused.value.message == here.engine.probe().missing["snapshots.memory"]
    assert not snapshots(here).memory


def test_deleted_in_any_order(here: Lab, stopped: str) -> None:
    for number in range(4):
        (own_of(stopped) / "srv").mkdir(exist_ok=True)
        (own_of(stopped) / "srv/n").write_text(str(number))
        take(here, stopped, f"s{number}")
    for gone in ("s1", "s3", "s0"):
        snapshots(here).delete(stopped, gone, Silent())
        snapshots(here).delete(stopped, gone, Silent())
    assert [one.name for one in snapshots(here).list(stopped)] == ["s2"]
    (own_of(stopped) / "srv/n").write_text("9")
    snapshots(here).restore(stopped, "s2", Silent())
    assert (own_of(stopped) / "srv/n").read_text() == "2"


class _Cut(BaseException):
    """Stands for a kill -9 at some call."""


@pytest.mark.parametrize("step", range(12))
def test_cut_off_anywhere_a_restore_is_done_or_was_not(
    here: Lab, stopped: str, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = own_of(stopped)
    (own / "srv").mkdir(exist_ok=True)
    (own / "srv/n").write_text("then")
    take(here, stopped)
    (own / "srv/n").write_text("now")
    calls = iter(range(100))

    def cut(function):
        def call(*argv, **given):
            if next(calls) == step:
                raise _Cut
            return function(*argv, **given)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(restoring, "_forget", lambda *_: None)  # a dead process cleans nothing up
        for name in ("rename", "unlink"):
            patch.setattr(Path, name, cut(getattr(Path, name)))
        patch.setattr(restoring.roots, "copy", cut(restoring.roots.copy))
        try:
            snapshots(here).restore(stopped, "s1", Silent())
            finished = True
        except _Cut:
            finished = False
    restoring.settle(LXC_PATH / stopped, mark_of(stopped))
    assert (own / "srv/n").read_text() in ({"then"} if finished else {"then", "now"})
    left = {entry.name for entry in mark_of(stopped).data(LXC_PATH / stopped).iterdir()}
    left |= {entry.name for entry in (LXC_PATH / stopped).iterdir()}
    assert not {name for name in left if name in ("incoming", "outgoing", "restoring") or "restored" in name}
    if step in (2, 6):
        here.engine.start(stopped, Silent())
        assert here.engine.get(stopped).instance.state is State.RUNNING


def test_cancelled_it_leaves_nothing(here: Lab, stopped: str) -> None:
    class Stop(Silent):
        def step(self, name: str, text: str) -> None:
            if name == "lxc-keep":
                raise Cancelled("cancelled", "cancelled")

    wanted = Snapshot(name="s1", created=datetime.now(UTC), consistency=Consistency.CRASH)
    with pytest.raises(Cancelled):
        snapshots(here).create(stopped, wanted, Stop())
    assert snapshots(here).list(stopped) == []
    assert list((mark_of(stopped).data(LXC_PATH / stopped) / "snapshots").iterdir()) == []


def test_what_a_dead_daemon_held_still_goes_on(here: Lab, stopped: str) -> None:
    here.engine.start(stopped, Silent())
    client = here.engine._client
    hold = holding.Hold(client, stopped)
    other = LxcEngine(LXC_PATH, state_dir=here.state_dir)
    holding.let_all_go(other._client)
    assert here.engine.get(stopped).instance.state is State.PAUSED  # who froze it is alive
    assert hold._fd is not None
    os.close(hold._fd)
    hold._fd = None
    assert other.snapshots
    other.snapshots.delete(stopped, "s1", Silent())
    assert here.engine.get(stopped).instance.state is State.RUNNING
    assert not (LXC_PATH / stopped / "held").exists()


def test_clones_are_others(here: Lab, one: str, stopped: str, bridge: Network) -> None:
    here.engine.start(one, Silent())
    here.engine.wait_ready(one, 60, Silent())
    script = "mkdir -p /etc/ssh; echo secret > /etc/ssh/ssh_host_ed25519_key; printf precious > /root/data"
    assert here.exec(one, "sh", "-c", script)[0] == 0
    nics = [here.nic(), here.nic()]
    made = [clone(here, one, f"c{index}", nics=(nic,)) for index, nic in enumerate(nics)]
    assert here.engine.get(one).instance.state is State.RUNNING
    for name in made:
        here.engine.start(name, Silent())
        here.engine.wait_ready(name, 60, Silent())
    everyone = [one, *made]
    assert [here.exec(name, "hostname")[1].decode().strip() for name in everyone] == everyone
    assert len({here.exec(name, "cat", "/etc/machine-id")[1] for name in everyone}) == 3
    for name, nic in zip(made, nics, strict=True):
        assert here.exec(name, "cat", "/root/data")[1] == b"precious"
        assert here.exec(name, "ls", "/etc/ssh")[1] == b""
        assert nic.mac.encode() in here.exec(name, "cat", "/sys/class/net/eth0/address")[1]
        assert here.engine.get(name).instance.addresses == (nic.address,)
        assert f"{nic.address}\t{name}." in here.exec(name, "cat", "/etc/hosts")[1].decode()
        assert here.exec(name, "systemctl", "is-system-running")[1].strip() == b"running"
    assert here.exec(made[0], "sh", "-c", "echo mine > /root/data")[0] == 0
    assert here.exec(made[1], "cat", "/root/data")[1] == b"precious"
    # Each lives on without the other.
    here.engine.delete(made[0])
    assert here.exec(made[1], "cat", "/root/data")[1] == b"precious"
    assert here.exec(one, "rm", "/etc/ssh/ssh_host_ed25519_key")[0] == 0


def test_a_clone_of_a_snapshot_has_what_was_then(here: Lab, stopped: str) -> None:
    own = own_of(stopped)
    (own / "srv").mkdir(exist_ok=True)
    (own / "srv/n").write_text("then")
    take(here, stopped)
    (own / "srv/n").write_text("now")
    name = clone(here, stopped, "old", snapshot="s1")
    assert (own_of(name) / "srv/n").read_text() == "then"
    assert snapshots(here).list(name) == []
    with pytest.raises(Conflict):
        clone(here, stopped, "old")


def test_a_clone_is_itself_whoever_uses_it_first(here: Lab, stopped: str) -> None:
    own = own_of(stopped)
    (own / "etc/ssh").mkdir(parents=True, exist_ok=True)
    (own / "etc/ssh/ssh_host_rsa_key").write_text("secret")
    by_hand, looked_into, copied, renamed = (clone(here, stopped, name) for name in ("h", "l", "k", "r"))
    subprocess.run(["lxc-start", "-n", by_hand], check=True)
    here.engine.wait_ready(by_hand, 60, Silent())
    assert here.engine.files and here.engine.renaming
    assert b"".join(here.engine.files.read(looked_into, "/etc/hostname")).count(looked_into.encode()) == 1
    again = clone(here, copied, "again")
    here.engine.renaming.rename(renamed, f"{PREFIX}r2")
    for name in (looked_into, copied, again, f"{PREFIX}r2"):
        here.engine.start(name, Silent())
        here.engine.wait_ready(name, 60, Silent())
    everyone = [by_hand, looked_into, copied, again, f"{PREFIX}r2"]
    assert [here.exec(name, "hostname")[1].decode().strip() for name in everyone] == everyone
    assert len({here.exec(name, "cat", "/etc/machine-id")[1] for name in everyone}) == 5
    for name in everyone:
        assert here.exec(name, "ls", "/etc/ssh")[1] == b""
        hosts = here.exec(name, "cat", "/etc/hosts")[1].decode().splitlines()
        assert [line.split()[-1] for line in hosts if line.startswith("127.0.1.1")] == [name]
        here.engine.delete(name)
    assert (own / "etc/ssh/ssh_host_rsa_key").read_text() == "secret"
    (own / "etc/ssh/ssh_host_rsa_key").unlink()


def test_an_isolated_clone_gets_ids_of_its_own(here: Lab, place: PoolPlace | None) -> None:
    name = here.launch("iso", place=place, settings={"idmap": "isolated"}, ready=False)
    stop(here, name)
    mark = mark_of(name)
    assert mark.id_map
    root = LXC_PATH / name / "rootfs"
    inside(mark.id_map, MAKE_INSIDE, root / "srv/made")
    seen = inside(mark.id_map, LOOK_INSIDE, root / "srv/made")
    assert "security.capability" in seen and "posix_acl" in seen
    new = clone(here, name, "iso2")
    other = mark_of(new)
    assert other.id_map and other.id_map != mark.id_map
    assert here.engine.files
    assert here.engine.files.stat(new, "/srv/made").folder  # its root is mounted for whoever looks into it first
    assert inside(other.id_map, LOOK_INSIDE, LXC_PATH / new / "rootfs/srv/made") == seen
    here.engine.start(new, Silent())
    here.engine.wait_ready(new, 60, Silent())
    assert here.exec(new, "cat", "/proc/self/uid_map")[1].split()[1].decode() == str(other.id_map.base)
    for gone in (name, new):
        here.engine.delete(gone)


def test_started_by_hand_after_a_reboot(here: Lab, one: str, stopped: str) -> None:
    from triune.engines.lxc import layers

    layers.unmount_root(LXC_PATH / one)
    assert mounts_below(LXC_PATH / one) == []
    subprocess.run(["lxc-start", "-n", one], check=True)
    assert here.engine.get(one).instance.state is State.RUNNING
    assert b"debian" in here.exec(one, "cat", "/etc/os-release")[1]


def test_freezing_is_brief(here: Lab, stopped: str) -> None:
    here.engine.start(stopped, Silent())
    here.engine.wait_ready(stopped, 60, Silent())
    pid = here.engine._client.init_pid(stopped)
    assert pid
    frozen = 0
    done = threading.Event()

    def look() -> None:
        nonlocal frozen
        while not done.is_set():
            if here.engine._client.raw_state(stopped) == "FROZEN":
                frozen += 1
            time.sleep(0.005)

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        take(here, stopped)
    finally:
        done.set()
        watcher.join()
    assert frozen * 0.005 < 2
    assert cgroup.group_of(pid)


def test_the_last_one_leaves_no_trace(here: Lab, place: PoolPlace | None) -> None:
    name = here.launch("gone", place=place, ready=False)
    take(here, name, "a")
    take(here, name, "b")
    new = clone(here, name, "gone2", snapshot="a")
    data = mark_of(name).data(LXC_PATH / name)
    here.engine.delete(name)
    assert not data.exists() and not (LXC_PATH / name).exists()
    here.engine.start(new, Silent())
    here.engine.delete(new)
    assert not mark_data_left(place, new)


def mark_data_left(place: PoolPlace | None, name: str) -> bool:
    return place is not None and (place.path / "instances/lxc" / name).exists()
