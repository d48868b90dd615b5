"""System containers on real LXC: launch, stop, pause, rename, delete, identity, limits, adopted ones."""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.live.lxc_fixtures import BRIDGE, LXC_PATH, PREFIX, Lab, bridge, eventually, lab, mounts_below, tree
from tests.patience import Awake
from triune.domain.errors import Conflict, Failed, Invalid, NotFound, Unsupported
from triune.domain.instance import Origin, State, VolumeMount
from triune.domain.limits import Limits
from triune.domain.network import Network
from triune.domain.operation import Silent
from triune.engines.base import EngineEvent
from triune.host import cgroup

__all__ = ["bridge", "lab", "tree"]
pytestmark = [pytest.mark.live, pytest.mark.lxc]


def lxc(*argv: str) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


def traces(name: str) -> list[str]:
    """What a deleted container must not leave."""
    return [
        *map(str, LXC_PATH.glob(f"{name}*")),
        *mounts_below(LXC_PATH / name),
        *(str(path) for path in Path("/sys/fs/cgroup").glob(f"*/lxc.payload.{name}")),
    ]


def test_launched_it_is_an_ordinary_running_container(lab: Lab, bridge: Network) -> None:
    nic = lab.nic()
    name = lab.launch("plain", nics=(nic,), env={"GREETING": "good day"})
    (row,) = [row for row in lab.engine.list() if row.name == name]
    assert (row.state, row.origin, row.image) == (State.RUNNING, Origin.MANAGED, "debian/12")
    assert row.addresses == (nic.address,)
    assert "RUNNING" in lxc("lxc-ls", "-f", f"--filter={name}")
    assert lxc("lxc-attach", "-n", name, "--", "hostname").strip() == name
    assert lab.exec(name, "systemctl", "is-system-running")[1].strip() == b"running"
    assert lab.exec(name, "sh", "-c", "echo $GREETING")[1] == b"good day\n"
    # A closed port of a machine that is there refuses at once.
    with socket.socket() as probe:
        probe.settimeout(3)
        assert probe.connect_ex((nic.address, 9)) == errno.ECONNREFUSED
    assert lab.exec(name, "cat", "/etc/resolv.conf")[1] == b"nameserver 10.99.1.1\nsearch tlxc.test\n"
    detail = lab.engine.get(name)
    assert detail.isolation["boundary"] == "user namespace"
    assert detail.isolation["seccomp"] == "filter"
    assert detail.isolation["id_map"][0][0] == 0
    assert detail.isolation["id_map"][0][1] >= 65536
    assert detail.memory_used_bytes and detail.memory_used_bytes > 1 << 20
    assert detail.disk_used_bytes is not None and detail.disk_used_bytes < 100 << 20
    assert detail.uptime_s is not None and 0 <= detail.uptime_s < 60
    assert detail.kernel == os.uname().release
    assert (Path("/sys/class/net") / str(detail.network[0]["interface"]) / "master").resolve().name == BRIDGE
    stats = lab.engine.stats()[name]
    assert stats.cpu_time_s > 0 and stats.net_rx_bytes > 0 and stats.pids
    lab.engine.delete(name)
    assert traces(name) == []
    assert not (Path("/sys/class/net") / str(detail.network[0]["interface"])).exists()


def test_its_files_belong_to_the_mapped_root_and_nobody_else_may_look(lab: Lab) -> None:
    name = lab.launch("owner", ready=False)
    folder = LXC_PATH / name
    assert (folder / "triune.json").stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o007 == 0
    hostname = folder / "upper/etc/hostname"
    assert hostname.stat().st_uid == json.loads((folder / "triune.json").read_text())["id_map"][0]
    assert (lab.tree / "etc/hostname").stat().st_uid == 0
    lab.engine.delete(name)


def test_identity_is_fresh_in_two_containers_of_one_tree(lab: Lab, tmp_path: Path) -> None:
    names = [lab.launch("twin-a"), lab.launch("twin-b")]
    ids = [lab.exec(name, "cat", "/etc/machine-id")[1] for name in names]
    assert len(set(ids)) == 2 and all(len(text.strip()) == 32 for text in ids)
    assert [lab.exec(name, "hostname")[1].decode().strip() for name in names] == names
    lowers = [json.loads((LXC_PATH / name / "triune.json").read_text())["lower"] for name in names]
    assert lowers[0] == lowers[1]
    lab.engine.delete(names[0])
    assert mounts_below(Path(lowers[0])) == [lowers[0]]
    lab.engine.delete(names[1])
    assert mounts_below(Path(lowers[0])) == []


def test_host_keys_of_a_tree_are_hidden(lab: Lab, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "etc/ssh").mkdir(parents=True)
    (tree / "usr/bin").mkdir(parents=True)
    (tree / "usr/lib/systemd").mkdir(parents=True)
    for path in ("etc/ssh/ssh_host_rsa_key", "etc/ssh/ssh_host_rsa_key.pub", "usr/bin/ssh-keygen"):
        (tree / path).write_text("everybody's")
    (tree / "usr/lib/systemd/systemd").write_text("")
    plan = lab.plan("keys", tree=tree)
    lab.engine.create(plan, Silent())
    rootfs = LXC_PATH / plan.spec.name / "rootfs"
    assert list((rootfs / "etc/ssh").iterdir()) == []
    assert (rootfs / "etc/systemd/system/triune-ssh-host-keys.service").is_file()
    assert (tree / "etc/ssh/ssh_host_rsa_key").read_text() == "everybody's"
    lab.engine.delete(plan.spec.name)


@pytest.mark.parametrize("link", ["etc", "etc/systemd", "var"])
def test_a_hostile_tree_reaches_nothing_outside(lab: Lab, tmp_path: Path, link: str) -> None:
    outside, tree = tmp_path / "outside", tmp_path / "tree"
    outside.mkdir()
    (tree / "usr/lib/systemd").mkdir(parents=True)
    (tree / "usr/lib/systemd/systemd").write_text("")
    (tree / link).parent.mkdir(parents=True, exist_ok=True)
    (tree / link).symlink_to(outside)
    plan = lab.plan("hostile", tree=tree, cloud_init=True)
    try:
        lab.engine.create(plan, Silent())
    except Failed as error:
        assert error.code == "hostile_tree"
        assert traces(plan.spec.name) == []
    assert list(outside.iterdir()) == []
    lab.engine.delete(plan.spec.name)
    assert outside.is_dir() and (tree / link).is_symlink()


def test_user_data_becomes_a_cloud_init_seed(lab: Lab, bridge: Network) -> None:
    with pytest.raises(Unsupported, match="no cloud-init"):
        lab.engine.check(lab.plan("ci", user_data="#cloud-config\n"))
    plan = lab.plan("ci", user_data="#cloud-config\nhostname: x\n", cloud_init=True, nics=(lab.nic(),))
    lab.engine.create(plan, Silent())
    seed = LXC_PATH / plan.spec.name / "rootfs/var/lib/cloud/seed/nocloud"
    assert (seed / "user-data").read_text() == "#cloud-config\nhostname: x\n"
    assert json.loads((seed / "meta-data").read_text())["local-hostname"] == plan.spec.name
    assert json.loads((seed / "network-config").read_text())["ethernets"]["eth0"]["addresses"]
    lab.engine.delete(plan.spec.name)


def test_stop_start_and_freeze(lab: Lab) -> None:
    assert lab.engine.pausing and lab.engine.commands
    name = lab.launch("cycle")
    lab.exec(name, "sh", "-c", "echo kept > /root/kept")
    lab.engine.start(name, Silent())
    lab.engine.pausing.pause(name)
    assert lab.engine.get(name).instance.state is State.PAUSED
    with pytest.raises(Conflict) as refused:
        lab.exec(name, "true")
    assert refused.value.code == "instance_paused"
    lab.engine.pausing.resume(name)
    assert lab.engine.get(name).instance.state is State.RUNNING
    lab.engine.stop(name, timeout=30, force=False, progress=Silent())
    lab.engine.stop(name, timeout=30, force=False, progress=Silent())
    assert lab.engine.get(name).instance.state is State.STOPPED
    with pytest.raises(Conflict) as refused:
        lab.exec(name, "true")
    assert refused.value.code == "instance_not_running"
    lab.engine.start(name, Silent())
    assert lab.exec(name, "cat", "/root/kept")[1] == b"kept\n"
    lab.engine.pausing.pause(name)
    lab.engine.stop(name, timeout=30, force=False, progress=Silent())
    lab.engine.start(name, Silent())
    lab.engine.pausing.pause(name)
    lab.engine.delete(name)
    assert traces(name) == []


@pytest.mark.parametrize("pause", [0.0, 0.05, 0.15])
def test_a_guest_asked_to_stop_while_it_starts(lab: Lab, pause: float) -> None:
    name = lab.launch("early", ready=False)
    time.sleep(pause)
    lab.engine.stop(name, timeout=30, force=False, progress=Silent())
    assert lab.engine.get(name).instance.state is State.STOPPED
    lab.engine.delete(name)


def test_a_guest_that_ignores_shutdown(lab: Lab) -> None:
    name = lab.launch("deaf")
    units = ("systemd-poweroff.service", "poweroff.target", "halt.target", "reboot.target", "shutdown.target")
    lab.exec(name, "sh", "-c", f"cd /etc/systemd/system && for u in {' '.join(units)}; do ln -sf /dev/null $u; done")
    lab.exec(name, "systemctl", "daemon-reload")
    with pytest.raises(Failed) as refused:
        lab.engine.stop(name, timeout=1.5, force=False, progress=Silent())
    assert refused.value.code == "stop_timeout" and "--force" in refused.value.hint
    assert lab.engine.get(name).instance.state is State.RUNNING
    lab.engine.stop(name, timeout=0.5, force=True, progress=Silent())
    assert lab.engine.get(name).instance.state is State.STOPPED
    lab.engine.start(name, Silent())
    with Awake() as awake:
        lab.engine.stop(name, timeout=0, force=True, progress=Silent())
    assert awake.seconds < 5
    lab.engine.delete(name)


def test_limits_reach_the_control_groups(lab: Lab) -> None:
    name = lab.launch("limits", memory=200 << 20, cpus=0.75, limits=Limits(pids=300), ready=False)
    row = lab.engine.get(name).instance
    assert (row.cpus, row.memory_bytes) == (0.75, 200 << 20)
    pid = int(lxc("lxc-info", "-n", name, "-pH"))
    group = cgroup.group_of(pid, "lxc.payload")
    assert group.memory_limit() == 200 << 20
    version, folder = group.folder("cpu") or (0, Path())
    if version == 1:
        assert (folder / "cpu.cfs_quota_us").read_text().strip() == "75000"
    else:
        assert (folder / "cpu.max").read_text().split() == ["75000", "100000"]
    _, folder = group.folder("pids") or (0, Path())
    assert (folder / "pids.max").read_text().strip() == "300"
    lab.engine.delete(name)


def test_volumes_settings_and_an_isolated_range(lab: Lab, tmp_path: Path) -> None:
    folder = tmp_path / "with space"
    folder.mkdir()
    (folder / "file").write_text("from the host")
    volumes = (
        VolumeMount(source=str(folder), target="/srv/in side"),
        VolumeMount(source=str(folder), target="/srv/ro", read_only=True),
    )
    name = lab.launch("volumes", volumes=volumes, settings={"idmap": "isolated", "autostart": "yes"})
    assert lab.exec(name, "cat", "/srv/in side/file")[1] == b"from the host"
    assert lab.exec(name, "sh", "-c", "echo x > '/srv/in side/new'")[0] == 0
    assert (folder / "new").stat().st_uid == 0
    assert lab.exec(name, "touch", "/srv/ro/new2")[0] != 0
    other = lab.launch("shared", ready=False)
    maps = [lab.engine.get(each).isolation["id_map"][0][1] for each in (name, other)]
    assert abs(maps[0] - maps[1]) >= 65536
    assert {"type": "mount", "source": str(folder), "target": "/srv/ro", "read_only": True} in lab.engine.get(
        name
    ).devices
    lab.engine.delete(name)
    lab.engine.delete(other)


def test_privileged_has_no_boundary_and_says_so(lab: Lab) -> None:
    name = lab.launch("priv", settings={"privileged": "true"})
    assert lab.engine.get(name).isolation["boundary"] == "none (privileged)"
    assert lab.exec(name, "cat", "/proc/self/uid_map")[1].split()[1] == b"0"
    lab.engine.delete(name)
    assert traces(name) == []


def test_nesting_opens_proc_and_sys_for_containers_inside(lab: Lab) -> None:
    name = lab.launch("nest", settings={"nesting": "true"})
    assert lab.exec(name, "test", "-d", "/dev/.lxc/proc/self")[0] == 0
    lab.engine.delete(name)


def test_a_guest_that_lies_about_its_startup_is_cut_short(lab: Lab) -> None:
    name = lab.launch("liar")
    script = "#!/bin/sh\nyes starting\n"
    lab.exec(
        name,
        "sh",
        "-c",
        "rm /usr/bin/systemctl; cat > /usr/bin/systemctl; chmod +x /usr/bin/systemctl",
        stdin=script.encode(),
    )
    with Awake() as awake, pytest.raises(Failed) as refused:
        lab.engine.wait_ready(name, 0.5, Silent())
    assert refused.value.code == "not_ready" and len(refused.value.message) < 300
    assert awake.seconds < 10
    lab.engine.delete(name)


def test_rename_moves_everything(lab: Lab, bridge: Network) -> None:
    assert lab.engine.renaming
    name, new = lab.launch("old", nics=(lab.nic(),)), f"{PREFIX}new"
    with pytest.raises(Conflict) as refused:
        lab.engine.renaming.rename(name, new)
    assert refused.value.code == "instance_running"
    lab.exec(name, "sh", "-c", "echo kept > /root/kept")
    lab.engine.stop(name, timeout=30, force=True, progress=Silent())
    lab.engine.renaming.rename(name, new)
    with pytest.raises(NotFound):
        lab.engine.get(name)
    lab.engine.start(new, Silent())
    assert lab.exec(new, "hostname")[1].decode().strip() == new
    assert new in lab.exec(new, "cat", "/etc/hosts")[1].decode()
    assert lab.exec(new, "cat", "/root/kept")[1] == b"kept\n"
    again = lab.launch("old", nics=(lab.nic(),), ready=False)
    assert {row.name for row in lab.engine.list()} >= {new, again}
    lab.engine.delete(new)
    lab.engine.delete(again)
    assert traces(name) == [] and traces(new) == []


def test_a_rename_cut_off_is_finished_by_the_next_start(lab: Lab) -> None:
    plan = lab.plan("cut")
    lab.engine.create(plan, Silent())
    name, new = plan.spec.name, f"{PREFIX}cut2"
    folder, target = LXC_PATH / name, LXC_PATH / new
    subprocess.run(["umount", str(folder / "rootfs")], check=True)
    text = (folder / "config").read_text().replace(name, new)
    (folder / "config.renamed").write_text(text)
    folder.rename(target)
    lab.engine.start(new, Silent())
    assert lab.engine.get(new).instance.state is State.RUNNING
    lab.engine.delete(new)
    assert traces(new) == []


def test_lxc_start_by_hand_after_a_reboot_mounts_by_the_hook(lab: Lab) -> None:
    plan = lab.plan("hook")
    lab.engine.create(plan, Silent())
    name = plan.spec.name
    # A reboot takes all mounts with it.
    subprocess.run(["umount", str(LXC_PATH / name / "rootfs")], check=True)
    subprocess.run(["umount", *mounts_below(lab.state_dir)], check=True)
    subprocess.run(["lxc-start", "-n", name], check=True, timeout=30)
    assert lab.exec(name, "hostname")[1].decode().strip() == name
    lab.engine.delete(name)
    assert traces(name) == [] and mounts_below(lab.state_dir) == []


def test_a_failed_start_gives_lxcs_own_reason(lab: Lab) -> None:
    plan = lab.plan("broken")
    lab.engine.create(plan, Silent())
    config = LXC_PATH / plan.spec.name / "config"
    config.write_text(config.read_text() + "lxc.net.0.type = veth\nlxc.net.0.link = tlxc-none0\n")
    with pytest.raises(Failed) as refused:
        lab.engine.start(plan.spec.name, Silent())
    assert refused.value.code == "start_failed"
    assert "tlxc-none0" in refused.value.message
    lab.engine.delete(plan.spec.name)
    assert traces(plan.spec.name) == []


class Crash(BaseException):
    pass


class CrashAt(Silent):
    def __init__(self, step: str) -> None:
        self.at = step
        self.steps: list[str] = []

    def step(self, name: str, text: str) -> None:
        self.steps.append(name)
        if name == self.at:
            raise Crash


@pytest.mark.parametrize("step", ["lxc-lower", "lxc-upper", "lxc-mount", "lxc-config"])
def test_cut_off_at_any_step_delete_removes_all(lab: Lab, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = lab.plan("half")
    undo = lab.engine._lifecycle.delete
    # As a crash: nobody is left to undo.
    monkeypatch.setattr(lab.engine._lifecycle, "delete", lambda name: None)
    with pytest.raises(Crash):
        lab.engine.create(plan, CrashAt(step))
    monkeypatch.setattr(lab.engine._lifecycle, "delete", undo)
    assert plan.spec.name not in {row.name for row in lab.engine.list()}
    lab.engine.delete(plan.spec.name)
    assert traces(plan.spec.name) == [] and mounts_below(lab.state_dir) == []
    lab.engine.delete(plan.spec.name)


def test_create_after_a_crash_begins_anew_and_a_failed_one_leaves_nothing(lab: Lab) -> None:
    plan = lab.plan("again")
    with pytest.raises(Crash):
        lab.engine.create(plan, CrashAt("lxc-config"))
    assert traces(plan.spec.name) == []
    lab.engine.create(plan, Silent())
    with pytest.raises(Conflict):
        lab.engine.create(plan, Silent())
    lab.engine.delete(plan.spec.name)


def test_an_adopted_container(lab: Lab) -> None:
    name = f"{PREFIX}adopted"
    folder = LXC_PATH / name
    (folder / "delta").mkdir(parents=True)
    (folder / "config").write_text(
        "# by hand\nlxc.include = /usr/share/lxc/config/common.conf\n"
        f"lxc.uts.name = {name}\nlxc.rootfs.path = overlayfs:{lab.tree}:{folder}/delta\n"
        "lxc.apparmor.profile = unconfined\nlxc.net.0.type = empty\nlxc.cgroup.memory.limit_in_bytes = 164M\n"
    )
    (row,) = [row for row in lab.engine.list() if row.name == name]
    assert (row.state, row.origin, row.image, row.memory_bytes) == (State.STOPPED, Origin.ADOPTED, None, 164 << 20)
    lab.engine.start(name, Silent())
    lab.engine.wait_ready(name, 30, Silent())
    assert lab.exec(name, "cat", "/proc/1/comm")[1].strip() == b"systemd"
    assert lab.engine.get(name).isolation["privileged"] is True
    assert lab.engine.renaming
    lab.engine.stop(name, timeout=0, force=True, progress=Silent())
    lab.engine.renaming.rename(name, f"{name}2")
    assert (LXC_PATH / f"{name}2" / "config").read_text().startswith("# by hand")
    lab.engine.start(f"{name}2", Silent())
    lab.engine.delete(f"{name}2")
    assert traces(name) == [] and (lab.tree / "etc").is_dir()


def test_events(lab: Lab) -> None:
    heard: list[EngineEvent] = []
    watch = lab.engine.watch(heard.append)
    try:
        time.sleep(0.3)
        name = lab.launch("events", ready=False)
        assert lab.engine.pausing and lab.engine.renaming
        lab.engine.pausing.pause(name)
        lab.engine.pausing.resume(name)
        lab.engine.stop(name, timeout=0, force=True, progress=Silent())
        assert eventually(lambda: "stopped" in [event.action for event in heard])
        lab.engine.renaming.rename(name, f"{name}2")
        lab.engine.delete(f"{name}2")
        assert eventually(lambda: "deleted" in [event.action for event in heard])
    finally:
        watch.close()
    actions = [event.action for event in heard]
    assert sorted(actions) == sorted(["created", "started", "paused", "resumed", "stopped", "renamed", "deleted"])
    assert [event for event in heard if event.action == "renamed"] == [
        EngineEvent(engine="lxc", action="renamed", name=f"{name}2", data={"old": name})
    ]


def test_twenty_at_once(lab: Lab, bridge: Network) -> None:
    nics = [lab.nic() for _ in range(20)]
    with ThreadPoolExecutor(8) as pool:
        names = list(pool.map(lambda n: lab.launch(f"many-{n}", ready=False, nics=(nics[n],)), range(20)))
    running = {row.name for row in lab.engine.list() if row.state is State.RUNNING}
    assert running >= set(names)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lab.engine.delete, names))
    assert [trace for name in names for trace in traces(name)] == []
    assert mounts_below(lab.state_dir) == []


@pytest.mark.parametrize(
    ("given", "kind", "code"),
    [
        ({"disk": 1 << 30}, Unsupported, "no_disk_limit"),
        ({"settings": {"privilege": "true"}}, Invalid, "unknown_setting"),
        ({"settings": {"privileged": "maybe"}}, Invalid, "bad_setting"),
        ({"env": {"A": "x\nlxc.cap.drop ="}}, Invalid, "control_character"),
        ({"env": {"A B": "x"}}, Invalid, "bad_variable"),
        ({"volumes": (VolumeMount(source="/nowhere", target="/x"),)}, Invalid, "volume_missing"),
        ({"volumes": (VolumeMount(source="/etc", target="../x"),)}, Invalid, "bad_volume"),
        ({"volumes": (VolumeMount(source="/etc\n", target="/x"),)}, Invalid, "control_character"),
    ],
)
def test_bad_plans_are_refused_before_anything_happens(lab: Lab, given: dict, kind: type, code: str) -> None:
    plan = lab.plan("bad", **given)
    with pytest.raises(kind) as refused:
        lab.engine.check(plan)
    assert refused.value.code == code and refused.value.hint
    with pytest.raises(kind):
        lab.engine.create(plan, Silent())
    assert traces(plan.spec.name) == []
