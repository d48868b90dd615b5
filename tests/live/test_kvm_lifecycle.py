"""The life of a virtual machine, adopted ones, half-made ones, and a libvirt that is not there."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import threading
import time
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest

from tests.live.kvm_fixtures import BOOT, PREFIX, Lab, kvm_form, lab, run  # noqa: F401 - fixtures
from tests.patience import PATIENCE, Awake, until
from triune.domain.errors import Conflict, Failed, NotFound, Unreachable, Unsupported
from triune.domain.instance import VolumeMount
from triune.domain.operation import Silent
from triune.engines.base import Command, EngineEvent, Terminal
from triune.engines.kvm.engine import KvmEngine
from triune.engines.kvm.spec import Files, HostFacts, build

pytestmark = [pytest.mark.live, pytest.mark.kvm]


class Cut(Exception):
    """Thrown at a step, where a crash would be."""


class CutAt(Silent):
    def __init__(self, step: str) -> None:
        self.at = step

    def step(self, name: str, text: str) -> None:
        if name == self.at:
            raise Cut


def test_a_whole_life(lab: Lab) -> None:  # noqa: F811
    seen: list[EngineEvent] = []
    watch = lab.engine.watch(seen.append)
    time.sleep(0.5)
    name = lab.launch("life")
    assert lab.row(name).state == "running"
    assert lab.row(name).origin == "managed"
    assert lab.row(name).image == "debian/12"
    lab.engine.start(name, Silent())
    with pytest.raises(Conflict):
        lab.engine.create(lab.plan("life"), Silent())
    with pytest.raises(Conflict):
        lab.engine.renaming.rename(name, PREFIX + "other")
    lab.engine.stop(name, timeout=60, force=False, progress=Silent())
    lab.engine.stop(name, timeout=60, force=False, progress=Silent())
    assert lab.row(name).state == "stopped"
    with pytest.raises(Conflict) as caught:
        lab.engine.commands.open(name, Command(argv=("true",)))
    assert caught.value.code == "instance_not_running"
    new = PREFIX + "renamed"
    lab.engine.renaming.rename(name, new)
    assert not (lab.state_dir / name).exists()
    lab.engine.start(new, Silent())
    lab.engine.wait_ready(new, BOOT, Silent())
    assert run(lab, new, "hostname")[1].decode().strip() == new
    lab.engine.delete(new)
    lab.engine.delete(new)
    assert lab.row(new) is None
    assert not (lab.state_dir / new).exists()
    until(lambda: ("deleted", new) in [(event.action, event.name) for event in seen])
    watch.close()
    actions = [(event.action, event.name) for event in seen if event.name in (name, new)]
    for action in ("created", "started", "stopped"):
        assert (action, name) in actions
    assert ("renamed", new) in actions
    assert ("deleted", new) in actions


def test_a_guest_that_ignores_shutdown(lab: Lab, tmp_path: Path) -> None:  # noqa: F811
    # The kernel waits for a disk that never comes: nothing in it hears the button.
    deaf = replace(lab.form, cmdline="root=/dev/none rootwait console=ttyS0", agent=False)
    plan = lab.plan("deaf", deaf)
    name = plan.spec.name
    lab.engine.create(plan, Silent())
    lab.engine.start(name, Silent())
    lab.engine.wait_ready(name, 5, Silent())
    with pytest.raises(Failed) as caught:
        lab.engine.stop(name, timeout=2, force=False, progress=Silent())
    assert caught.value.code == "stop_timeout"
    assert caught.value.hint
    with pytest.raises(Unsupported) as no_agent:
        lab.engine.commands.open(name, Command(argv=("true",)))
    assert no_agent.value.code == "no_guest_agent"
    lab.engine.stop(name, timeout=1, force=True, progress=Silent())
    assert lab.row(name).state == "stopped"
    lab.engine.delete(name)


def test_a_guest_that_dies_is_told_at_once(lab: Lab) -> None:  # noqa: F811
    plan = lab.plan("dies")
    lab.engine.create(plan, Silent())
    lab.engine.start(plan.spec.name, Silent())
    threading.Timer(1.0, lab.client.domain(plan.spec.name).destroy).start()
    with Awake() as awake, pytest.raises(Failed) as caught:
        lab.engine.wait_ready(plan.spec.name, 120, Silent())
    assert caught.value.code == "not_ready"
    assert "console" in caught.value.details
    assert awake.seconds < 20
    lab.engine.delete(plan.spec.name)


@pytest.mark.parametrize("step", ["kvm-disk", "kvm-define"])
def test_create_cut_off_leaves_nothing(lab: Lab, step: str) -> None:  # noqa: F811
    plan = lab.plan("cut")
    with pytest.raises(Cut):
        lab.engine.create(plan, CutAt(step))
    assert lab.row(plan.spec.name) is None
    assert not (lab.state_dir / plan.spec.name).exists()


def test_half_made_things_are_deleted(lab: Lab) -> None:  # noqa: F811
    plan = lab.plan("half")
    folder = lab.state_dir / plan.spec.name
    folder.mkdir(parents=True)
    (folder / "disk.qcow2").write_bytes(b"")
    lab.engine.delete(plan.spec.name)
    assert not folder.exists()
    folder.mkdir()
    lab.engine.create(plan, Silent())
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    lab.engine.delete(plan.spec.name)
    assert lab.row(plan.spec.name) is None


def test_an_adopted_domain(lab: Lab, tmp_path: Path) -> None:  # noqa: F811
    """Made by virsh: no mark, no command ports, an own disk that we leave alone."""
    plan = lab.plan("adopted")
    name = plan.spec.name
    folder = lab.state_dir / "elsewhere"
    folder.mkdir(parents=True, exist_ok=True)
    files = Files(folder=folder)
    root = ET.fromstring(build(plan, files, HostFacts(accelerated=False, memory=2**40, cpus=64)))
    root.remove(root.find("metadata"))
    devices = root.find("devices")
    for channel in devices.findall("channel"):
        if channel.find("target").get("name").startswith("triune"):
            devices.remove(channel)
    disk = devices.find("disk")
    disk.remove(disk.find("backingStore"))
    disk.find("driver").set("type", "qcow2")
    disk.find("source").set("file", str(files.disk))
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", str(lab.form.path), str(files.disk)],
        check=True,
    )
    lab.client.call(lambda connection: connection.defineXML(ET.tostring(root, encoding="unicode")))
    assert lab.row(name).origin == "adopted"
    assert lab.row(name).image is None
    lab.engine.start(name, Silent())
    deadline = time.monotonic() + BOOT
    while True:
        try:
            assert run(lab, name, "sh", "-c", "cat; echo err >&2; exit 7", stdin=b"in") == (7, b"in", b"err\n")
            break
        except Unsupported:
            assert time.monotonic() < deadline
            time.sleep(0.5)
    assert run(lab, name, "no-such-program")[0] == 127
    with pytest.raises(Unsupported) as caught:
        lab.engine.commands.open(name, Command(argv=("sh",), terminal=Terminal()))
    assert "console" in caught.value.hint
    lab.engine.delete(name)
    assert lab.row(name) is None
    assert files.disk.exists()


def test_nobody_else_reads_its_secrets_or_writes_its_image(lab: Lab) -> None:  # noqa: F811
    plan = replace(
        lab.plan("secret", replace(lab.form, cloud_init=True), env={"PASSWORD": "s3cret"}), user_data="#cloud-config\n"
    )
    name = plan.spec.name
    base = lab.form.path.stat()
    lab.engine.create(plan, Silent())
    lab.engine.start(name, Silent())
    lab.engine.wait_ready(name, BOOT, Silent())
    assert run(lab, name, "sh", "-c", "echo $PASSWORD; head -c 32768 /dev/vdb | wc -c")[1] == b"s3cret\n32768\n"
    assert "s3cret" not in lab.client.domain(name).XMLDesc(0)
    modes = {file.name: file.stat().st_mode & 0o077 for file in (lab.state_dir / name).iterdir()}
    assert modes == dict.fromkeys(modes, 0)
    assert {"disk.qcow2", "seed.iso", "environment.json"} <= modes.keys()
    assert lab.form.path.stat().st_uid == base.st_uid
    lab.engine.stop(name, timeout=0, force=True, progress=Silent())
    assert lab.form.path.stat().st_uid == base.st_uid
    lab.engine.delete(name)


def test_a_domain_that_virsh_renamed_keeps_its_disk(lab: Lab) -> None:  # noqa: F811
    plan = lab.plan("before", env={"A": "b"})
    name, after = plan.spec.name, PREFIX + "After_1"
    folder = lab.state_dir / name
    lab.engine.create(plan, Silent())
    lab.client.domain(name).rename(after, 0)
    try:
        lab.engine.delete(name)
        with pytest.raises(Conflict) as caught:
            lab.engine.create(plan, Silent())
        assert caught.value.code == "folder_in_use"
        assert (folder / "disk.qcow2").exists()
        lab.engine.renaming.rename(after, PREFIX + "again")
        assert not folder.exists()
        assert (lab.state_dir / (PREFIX + "again") / "disk.qcow2").exists()
        lab.client.domain(PREFIX + "again").rename(after, 0)
    finally:
        lab.engine.delete(after)
    assert lab.row(after) is None
    assert not (lab.state_dir / (PREFIX + "again")).exists()


def test_a_volume_is_the_hosts_folder(lab: Lab) -> None:  # noqa: F811
    if not lab.engine.host().virtiofs:
        pytest.skip("virtiofsd is not installed")
    share = lab.state_dir / "share"
    share.mkdir(parents=True)
    (share / "hello").write_text("from the host")
    name = lab.launch("volume", volumes=(VolumeMount(source=str(share), target="/mnt/a b"),))
    assert run(lab, name, "sh", "-c", "cat '/mnt/a b/hello'; echo guest > '/mnt/a b/back'")[1] == b"from the host"
    assert (share / "back").read_text() == "guest\n"
    lab.engine.delete(name)
    assert (share / "hello").exists()


def test_what_is_not_there(lab: Lab) -> None:  # noqa: F811
    for act in (lab.engine.get, lab.engine.pausing.pause):
        with pytest.raises(NotFound) as caught:
            act(PREFIX + "none")
        assert caught.value.code == "instance_not_found"
    lab.engine.delete(PREFIX + "none")


def test_slow_requests_leave_room_for_others(lab: Lab) -> None:  # noqa: F811
    """libvirt serves five requests of one connection at a time, and what is asked of a QEMU that hangs takes long."""
    name = lab.launch("slow")
    lab.engine.pausing.pause(name)
    process = int(Path(f"/run/libvirt/qemu/{name}.pid").read_text())
    os.kill(process, signal.SIGSTOP)

    def resume() -> None:
        with contextlib.suppress(Conflict):  # another was quicker
            lab.engine.pausing.resume(name)

    waiting = [threading.Thread(target=resume) for _ in range(6)]
    try:
        for thread in waiting:
            thread.start()
        time.sleep(0.5)
        with Awake() as awake:
            assert lab.row(name) is not None
        assert awake.seconds < 2.0
        assert all(thread.is_alive() for thread in waiting)
    finally:
        os.kill(process, signal.SIGCONT)
        for thread in waiting:
            thread.join(PATIENCE)
    assert lab.row(name).state == "running"
    lab.engine.delete(name)


@pytest.mark.parametrize("hung", [False, True])
def test_a_libvirt_that_is_down_or_hangs(tmp_path: Path, hung: bool) -> None:
    path = tmp_path / "sock"
    listener = socket.socket(socket.AF_UNIX)
    if hung:
        listener.bind(str(path))
        listener.listen()
    engine = KvmEngine(tmp_path, uri=f"qemu+unix:///system?socket={path}")
    for act in (engine.list, engine.stats, lambda: engine.get("x"), lambda: engine.delete("x")):
        with Awake() as awake, pytest.raises(Unreachable) as caught:
            act()
        assert awake.seconds < 2.0
        assert caught.value.code == "engine_unreachable"
        assert caught.value.hint
    assert engine.probe().available is False
    seen: list[EngineEvent] = []
    watch = engine.watch(seen.append)
    until(lambda: seen)
    watch.close()
    listener.close()
    assert [event.action for event in seen] == ["engine-down"]


class Between:
    """A socket in front of libvirt's, whose connections can be cut."""

    def __init__(self, path: Path) -> None:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self.ends: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.socket(socket.AF_UNIX)
                far.connect("/var/run/libvirt/libvirt-sock")
                self.ends += [near, far]
                for one, other in ((near, far), (far, near)):
                    threading.Thread(target=self._pass_on, args=(one, other), daemon=True).start()

    @staticmethod
    def _pass_on(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while piece := source.recv(1 << 16):
                target.sendall(piece)

    def cut(self) -> None:
        for end in self.ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()


def test_a_libvirt_that_is_restarted_while_a_guest_is_waited_for(lab: Lab, tmp_path: Path) -> None:  # noqa: F811
    name = lab.plan("cut").spec.name
    lab.engine.create(lab.plan("cut"), Silent())
    lab.engine.start(name, Silent())
    between = Between(tmp_path / "sock")
    engine = KvmEngine(lab.state_dir, uri=f"qemu+unix:///system?socket={tmp_path / 'sock'}")
    try:
        for wait in (
            lambda: engine.wait_ready(name, BOOT, Silent()),
            lambda: engine.stop(name, timeout=60, force=False, progress=Silent()),
        ):
            timers = [threading.Timer(after, between.cut) for after in (0.3, 1.0)]
            for timer in timers:
                timer.start()
            wait()
            for timer in timers:
                timer.join()
        assert between.ends
        assert lab.row(name).state == "stopped"
    finally:
        between.close()
        lab.engine.delete(name)
