"""Snapshots and clones of virtual machines on the real libvirt: what was there comes back, and its own tools see it."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.live.kvm_fixtures import BOOT, Lab, kvm_form, own_lab, run  # noqa: F401 - fixtures
from triune.disks.qcow2_tables import read_snapshots
from triune.domain.errors import Conflict, NotFound, Unsupported
from triune.domain.image import DiskForm
from triune.domain.instance import State
from triune.domain.operation import Silent
from triune.domain.snapshot import Consistency, Snapshot
from triune.engines.base import ClonePlan

pytestmark = [pytest.mark.live, pytest.mark.kvm]

QUIET = Silent()


@pytest.fixture(scope="module")
def lab(kvm_form: DiskForm) -> Iterator[Lab]:  # noqa: F811
    """Names and a folder of these tests' own."""
    with own_lab(kvm_form, "tsnp-") as made:
        yield made


@pytest.fixture(scope="module")
def vm(lab: Lab) -> str:
    return lab.launch("vm", memory=256 << 20)


@pytest.fixture(scope="module")
def small(lab: Lab) -> DiskForm:
    """A disk that boots nothing, and is quickly compared."""
    raw, base = lab.state_dir / "small.raw", lab.state_dir / "small.qcow2"
    lab.state_dir.mkdir(mode=0o711, exist_ok=True)
    raw.write_bytes(os.urandom(4 << 20) + b"\0" * (60 << 20))
    subprocess.run(["qemu-img", "convert", "-O", "qcow2", str(raw), str(base)], check=True)
    raw.unlink()
    return DiskForm(path=base, virtual_size=64 << 20)


@pytest.fixture(scope="module")
def still(lab: Lab, small: DiskForm) -> str:
    """A small machine that is never started."""
    plan = lab.plan("still", form=small)
    lab.engine.create(plan, QUIET)
    return plan.spec.name


def snapshot(name: str, **more: object) -> Snapshot:
    values = {"name": name, "created": datetime.now(UTC), "consistency": Consistency.CRASH, **more}
    return Snapshot(**values)  # type: ignore[arg-type]


def take(lab: Lab, name: str, new: str, **more: object) -> Snapshot:
    return lab.engine.snapshots.create(name, snapshot(new, **more), QUIET)


def names(lab: Lab, name: str) -> list[str]:
    return [one.name for one in lab.engine.snapshots.list(name)]


def sh(lab: Lab, name: str, script: str) -> str:
    code, out, err = run(lab, name, "sh", "-c", script)
    assert code == 0, err
    return out.decode()


def stopped(lab: Lab, name: str) -> None:
    lab.engine.stop(name, timeout=60, force=False, progress=QUIET)


def started(lab: Lab, name: str) -> None:
    lab.engine.start(name, QUIET)
    lab.engine.wait_ready(name, BOOT, QUIET)


def inside(lab: Lab, name: str) -> list[str]:
    """The snapshots in the disk file itself."""
    with (lab.state_dir / name / "disk.qcow2").open("rb") as stream:
        return [one.name for one in read_snapshots(stream)]


def virsh(*argv: str) -> str:
    return subprocess.run(["virsh", "-q", *argv], check=True, capture_output=True, text=True).stdout


FILES = "find /root/data -type f -exec sha256sum {} + | sort; stat -c '%n %a %U %s %Y' $(find /root/data | sort)"


def test_a_running_guest_is_put_back_as_its_agent_held_it(lab: Lab, vm: str) -> None:
    sh(lab, vm, "mkdir -p /root/data; head -c 3000000 /dev/urandom > /root/data/a; echo b > /root/data/b; sync")
    before = sh(lab, vm, FILES)
    sh(lab, vm, "echo unsynced > /root/data/late")
    with_late = sh(lab, vm, FILES)
    expires = datetime.now(UTC) + timedelta(days=1)
    taken = take(lab, vm, "first", comment="before the upgrade", expires=expires, schedule="hourly")
    assert taken.consistency is Consistency.AGENT
    assert not taken.memory
    sh(lab, vm, "rm /root/data/b; echo spoiled > /root/data/a; sync; echo writable > /root/after")
    assert sh(lab, vm, FILES) not in (before, with_late)

    listed = lab.engine.snapshots.list(vm)
    assert listed == [taken]
    assert "first" in virsh("snapshot-list", vm, "--name")
    with pytest.raises(Conflict, match="is running"):
        lab.engine.snapshots.restore(vm, "first", QUIET)
    stopped(lab, vm)
    lab.engine.snapshots.restore(vm, "first", QUIET)
    assert lab.row(vm).state is State.STOPPED
    started(lab, vm)
    assert sh(lab, vm, FILES) == with_late


def test_the_running_state_comes_back(lab: Lab, vm: str) -> None:
    counter = "i=0; while :; do i=$((i+1)); echo $i > /dev/shm/counter; sleep 0.05; done"
    sh(lab, vm, f"setsid sh -c 'echo $$ > /dev/shm/pid; {counter}' >/dev/null 2>&1 & echo one > /dev/shm/mark; sleep 1")
    taken = take(lab, vm, "awake", memory=True)
    assert taken.consistency is Consistency.MEMORY
    assert taken.memory
    assert taken.size is not None
    assert taken.size > 10 << 20
    then = int(sh(lab, vm, "cat /dev/shm/counter"))
    sh(lab, vm, "echo two > /dev/shm/mark; kill $(cat /dev/shm/pid); rm /dev/shm/pid; echo three > /root/awake")
    assert [one for one in lab.engine.snapshots.list(vm) if one.name == "awake"] == [taken]

    stopped(lab, vm)
    time.sleep(2)
    lab.engine.snapshots.restore(vm, "awake", QUIET)
    assert lab.row(vm).state is State.RUNNING
    lab.engine.wait_ready(vm, 30, QUIET)
    assert abs(float(sh(lab, vm, "date +%s.%N")) - time.time()) < 1.5
    assert sh(lab, vm, "cat /dev/shm/mark") == "one\n"
    sh(lab, vm, "kill -0 $(cat /dev/shm/pid)")
    first = int(sh(lab, vm, "cat /dev/shm/counter"))
    assert first < then + 100
    time.sleep(0.5)
    assert int(sh(lab, vm, "cat /dev/shm/counter")) > first
    assert "gone" in sh(lab, vm, "cat /root/awake 2>/dev/null || echo gone")
    assert "triune-undo" not in inside(lab, vm)
    sh(lab, vm, "kill $(cat /dev/shm/pid)")


def test_ten_in_a_row_and_one_removed_from_the_middle(lab: Lab, still: str) -> None:
    kept = {}
    for number in range(10):
        # a disk changed from outside is quicker than ten boots
        write_to(chain_top(still), number + 1)
        take(lab, still, f"n{number}", created=datetime.now(UTC))
        kept[number] = digest_of(lab, still)
    assert len(set(kept.values())) == 10
    lab.engine.snapshots.delete(still, "n5", QUIET)
    lab.engine.snapshots.delete(still, "n5", QUIET)
    assert "n5" not in names(lab, still)
    assert "n5" not in inside(lab, still)
    assert "n5" not in virsh("snapshot-list", still, "--name").split()
    for number in (9, 0, 6, 4):
        lab.engine.snapshots.restore(still, f"n{number}", QUIET)
        assert digest_of(lab, still) == kept[number]
        assert virsh("snapshot-current", still, "--name").strip() == f"n{number}"
    with pytest.raises(NotFound) as caught:
        lab.engine.snapshots.restore(still, "n5", QUIET)
    assert caught.value.code == "snapshot_not_found"
    assert [name for name in names(lab, still) if name.startswith("n")] == [f"n{n}" for n in range(10) if n != 5]


def test_a_name_is_taken_once(lab: Lab, still: str) -> None:
    with pytest.raises(Conflict) as caught:
        take(lab, still, "n1")
    assert caught.value.code == "snapshot_exists"


def test_what_virsh_makes_is_listed_put_back_and_removed(lab: Lab, still: str) -> None:
    virsh("snapshot-create-as", still, "theirs", "by hand")
    found = next(one for one in lab.engine.snapshots.list(still) if one.name == "theirs")
    assert (found.comment, found.consistency, found.memory) == ("by hand", Consistency.STOPPED, False)
    as_was = digest_of(lab, still)
    write_to(chain_top(still), 100)
    lab.engine.snapshots.restore(still, "theirs", QUIET)
    assert digest_of(lab, still) == as_was
    write_to(chain_top(still), 101)
    virsh("snapshot-revert", still, "n3")  # and theirs handles ours
    lab.engine.snapshots.delete(still, "theirs", QUIET)
    virsh("snapshot-delete", still, "n3")
    assert {"theirs", "n3"}.isdisjoint(names(lab, still))
    assert {"theirs", "n3"}.isdisjoint(inside(lab, still))


def test_a_renamed_machine_keeps_them(lab: Lab, vm: str) -> None:
    stopped(lab, vm)
    before, inner = lab.engine.snapshots.list(vm), inside(lab, vm)
    new = f"{vm}-renamed"
    lab.engine.renaming.rename(vm, new)
    assert lab.engine.snapshots.list(new) == before
    assert inside(lab, new) == inner
    assert str(lab.state_dir / new / "disk.qcow2") in virsh("snapshot-dumpxml", new, "awake")
    lab.engine.snapshots.restore(new, "awake", QUIET)
    assert sh(lab, new, "cat /dev/shm/mark") == "one\n"
    stopped(lab, new)
    lab.engine.renaming.rename(new, vm)
    assert not list(lab.state_dir.glob(".*.json"))


def test_what_a_cut_off_attempt_left_goes(lab: Lab, still: str) -> None:
    disk = lab.state_dir / still / "disk.qcow2"
    subprocess.run(["qemu-img", "snapshot", "-c", "half", str(disk)], check=True)
    assert "half" not in names(lab, still)
    lab.engine.snapshots.delete(still, "half", QUIET)
    assert "half" not in inside(lab, still)


def test_a_stopped_machine_has_no_running_state(lab: Lab, still: str) -> None:
    with pytest.raises(Conflict, match="not running"):
        take(lab, still, "asleep", memory=True)
    assert "asleep" not in inside(lab, still)


def test_a_raw_disk_is_refused_with_its_reason(lab: Lab, still: str, tmp_path: Path) -> None:
    raw = lab.state_dir / "extra.raw"
    raw.write_bytes(b"\0" * (1 << 20))
    virsh("attach-disk", still, str(raw), "vdx", "--config", "--subdriver", "raw")
    try:
        with pytest.raises(Unsupported) as caught:
            take(lab, still, "raw")
        assert caught.value.code == "disk_not_qcow2"
        assert "vdx" in caught.value.message
    finally:
        virsh("detach-disk", still, "vdx", "--config")
        raw.unlink()
    assert "raw" not in inside(lab, still)


def test_they_go_with_the_machine(lab: Lab, vm: str) -> None:
    lab.engine.delete(vm)
    assert not (lab.state_dir / vm).exists()
    assert vm not in virsh("list", "--all", "--name").split()


def test_a_uefi_machine_gets_its_variables_back(lab: Lab) -> None:
    if not Path("/usr/share/OVMF").exists():
        pytest.skip("hardware: no UEFI firmware on this host")
    plan = lab.plan("uefi", settings={"firmware": "uefi"}, memory=256 << 20)
    name = plan.spec.name
    lab.engine.create(plan, QUIET)
    lab.engine.start(name, QUIET)
    with pytest.raises(Unsupported, match="UEFI"):
        take(lab, name, "awake", memory=True)
    live = take(lab, name, "live")
    assert live.consistency is Consistency.CRASH
    lab.engine.stop(name, timeout=0, force=True, progress=QUIET)  # nothing in it hears the button
    nvram = lab.state_dir / name / "nvram.fd"
    take(lab, name, "off")
    as_was = nvram.read_bytes()
    nvram.write_bytes(as_was[:-4096] + b"\x5a" * 4096)
    lab.engine.snapshots.restore(name, "off", QUIET)
    assert nvram.read_bytes() == as_was
    lab.engine.start(name, QUIET)
    assert lab.row(name).state is State.RUNNING
    lab.engine.snapshots.delete(name, "live", QUIET)
    lab.engine.snapshots.delete(name, "off", QUIET)
    assert names(lab, name) == []
    assert inside(lab, name) == []
    assert not list(nvram.parent.glob("nvram.fd.*"))
    lab.engine.delete(name)


def clone(lab: Lab, name: str, new: str, **more: str | None) -> str:
    plan = ClonePlan(
        name=name, new=lab.prefix + new, created=datetime.now(UTC), machine_id=os.urandom(16).hex(), **more
    )
    lab.engine.cloning.clone(plan, QUIET)
    return plan.new


def chain(lab: Lab, name: str) -> list[str]:
    """The files a machine's disk is made of, as qemu-img follows their headers."""
    root = ET.fromstring(virsh("dumpxml", "--inactive", name))
    disk = root.find("devices/disk[@device='disk']/source").get("file")
    told = json.loads(
        subprocess.run(["qemu-img", "info", "-U", "--backing-chain", "--output=json", disk], capture_output=True).stdout
    )
    found = [one["filename"] for one in told]
    declared = [source.get("file") for source in root.find("devices/disk[@device='disk']").iter("source")]
    assert declared == found  # nothing is left to guess
    return found


def layers(lab: Lab) -> set[str]:
    return {str(path) for path in lab.state_dir.glob(".layers/*/*")}


@pytest.fixture(scope="module")
def original(lab: Lab) -> str:
    name = lab.launch("orig", memory=256 << 20)
    sh(lab, name, "mkdir -p /root/data /etc/ssh; head -c 2000000 /dev/urandom > /root/data/a; ln /root/data/a /root/b")
    sh(lab, name, "echo old > /etc/ssh/ssh_host_ed25519_key; echo 127.0.1.1 $(hostname) >> /etc/hosts; sync")
    return name


IDENTITY = "cat /etc/machine-id; hostname; cat /sys/class/dmi/id/product_uuid; cat /etc/hosts"


def test_a_running_machine_is_cloned_and_both_go_their_ways(lab: Lab, original: str) -> None:
    before = sh(lab, original, FILES)
    told = "date +%s.%N > /dev/shm/half; mv /dev/shm/half /dev/shm/alive"
    counter = f"{told}; nohup sh -c 'while :; do {told}; sleep 0.05; done' >/dev/null 2>&1 &"
    sh(lab, original, counter)
    new = clone(lab, original, "live")
    assert lab.row(new).state is State.STOPPED
    assert lab.row(original).state is State.RUNNING
    assert time.time() - float(sh(lab, original, "cat /dev/shm/alive")) < 5  # it was let go
    assert chain(lab, new)[1:] == [str(lab.form.path)]
    sh(lab, original, "rm -r /root/data; sync")
    started(lab, new)
    assert sh(lab, new, FILES) == before
    theirs, mine = sh(lab, original, IDENTITY).splitlines(), sh(lab, new, IDENTITY).splitlines()
    assert mine[1] == new
    assert not set(mine[:3]) & set(theirs[:3])
    assert f"127.0.1.1 {new}" in mine
    assert sh(lab, new, "ls /etc/ssh/ssh_host_ed25519_key 2>/dev/null || echo gone") == "gone\n"
    assert "renew" not in virsh("dumpxml", new)
    sh(lab, new, "mkdir -p /root/data; echo mine > /root/data/a; sync")
    assert inside(lab, original) == []
    lab.engine.delete(new)
    sh(lab, original, "mkdir -p /root/data; echo theirs > /root/data/a; sync")


def test_a_stopped_machine_is_cloned_without_copying_anything(lab: Lab, original: str) -> None:
    stopped(lab, original)
    held, before = digest_of(lab, original), allocated(lab)
    one = clone(lab, original, "one")
    two = clone(lab, original, "two")
    assert allocated(lab) - before < 2 << 20
    assert len(layers(lab)) == 1  # the second found nothing new to share
    base = next(iter(layers(lab)))
    for name in (original, one, two):
        assert chain(lab, name)[1:] == [base, str(lab.form.path)]
        assert digest_of(lab, name) == held
    started(lab, original)
    started(lab, one)
    sh(lab, original, "echo original > /root/who; sync")
    sh(lab, one, "echo one > /root/who; sync")
    assert sh(lab, one, "cat /root/data/a") == "theirs\n"
    assert sh(lab, one, "hostname").strip() == one
    stopped(lab, one)
    stopped(lab, original)
    assert digest_of(lab, two) == held
    lab.engine.delete(one)
    lab.engine.delete(two)
    assert layers(lab) == {base}


def test_a_clone_of_a_clone_outlives_both(lab: Lab, original: str) -> None:
    one = clone(lab, original, "first")
    first_layers = layers(lab)
    assert len(first_layers) == 2
    write_to(chain(lab, one)[0], 7)
    two = clone(lab, one, "second")
    assert len(layers(lab)) == 3
    held = digest_of(lab, two)
    lab.engine.delete(one)
    lab.engine.delete(original)
    assert len(layers(lab)) == 3
    assert digest_of(lab, two) == held
    started(lab, two)
    assert sh(lab, two, "cat /root/who; hostname").split() == ["original", two]
    lab.engine.delete(two)
    assert layers(lab) == set()
    assert not [name for name in (original, one, two) if (lab.state_dir / name).exists()]


def test_a_clone_of_a_snapshot(lab: Lab, small: DiskForm) -> None:
    plan = lab.plan("snapped", form=small)
    name = plan.spec.name
    lab.engine.create(plan, QUIET)
    write_to(chain(lab, name)[0], 1)
    take(lab, name, "one")
    held = digest_of(lab, name)
    write_to(chain(lab, name)[0], 2)
    of_snapshot, of_now = clone(lab, name, "then", snapshot="one"), clone(lab, name, "now")
    assert digest_of(lab, of_snapshot) == held
    assert digest_of(lab, of_now) == digest_of(lab, name) != held
    assert names(lab, name) == ["one"]  # they stay the original's
    assert names(lab, of_now) == []
    with pytest.raises(NotFound):
        clone(lab, name, "never", snapshot="two")
    with pytest.raises(Conflict) as caught:
        clone(lab, name, "now")
    assert caught.value.code == "instance_exists"
    lab.engine.snapshots.restore(name, "one", QUIET)
    lab.engine.delete(name)
    assert digest_of(lab, of_snapshot) == held
    for one in (of_snapshot, of_now):
        lab.engine.delete(one)


class Cut(BaseException):
    """Stands for the end of the process."""


class CutAt(Silent):
    def __init__(self, step: str) -> None:
        self.at = step

    def step(self, name: str, text: str) -> None:
        if name == self.at:
            raise Cut


@pytest.mark.parametrize("step", ["kvm-layer", "kvm-redefine", "kvm-define"])
def test_a_clone_that_is_cut_off_leaves_the_original_whole(lab: Lab, small: DiskForm, step: str) -> None:
    plan = lab.plan(f"cut-{step}", form=small)
    name, new = plan.spec.name, f"{lab.prefix}cut-new"
    lab.engine.create(plan, QUIET)
    write_to(chain(lab, name)[0], 3)
    held = digest_of(lab, name)
    cloning = ClonePlan(name=name, new=new, created=datetime.now(UTC), machine_id=os.urandom(16).hex())
    with pytest.raises(Cut):
        lab.engine.cloning.clone(cloning, CutAt(step))
    lab.engine.delete(new)
    assert lab.row(new) is None
    assert not (lab.state_dir / new).exists()
    assert digest_of(lab, name) == held
    assert len(layers(lab)) == (1 if step == "kvm-define" else 0)
    lab.engine.delete(name)
    assert layers(lab) == set()


def test_what_another_tool_made_is_cloned_and_stays_as_it_is(lab: Lab, tmp_path: Path) -> None:
    name = f"{lab.prefix}theirs"
    disk = lab.state_dir / "theirs.raw"
    disk.write_bytes(b"\x11" * (1 << 20) + b"\0" * (3 << 20))
    xml = tmp_path / "theirs.xml"
    xml.write_text(
        f"<domain type='qemu'><name>{name}</name><memory unit='MiB'>64</memory><os><type>hvm</type></os><devices>"
        f"<disk type='file'><driver type='raw'/><source file='{disk}'/><target dev='vda' bus='virtio'/></disk>"
        "<interface type='network'><source network='default'/><mac address='52:54:00:11:22:33'/></interface>"
        "</devices></domain>"
    )
    virsh("define", str(xml))
    before = virsh("dumpxml", "--inactive", name)
    try:
        new = clone(lab, name, "ours")
        assert virsh("dumpxml", "--inactive", name) == before
        assert digest_of(lab, new) == hashlib.sha256(disk.read_bytes()).hexdigest()
        assert "52:54:00:11:22:33" not in virsh("dumpxml", new)
        lab.engine.delete(new)
        assert not (lab.state_dir / new).exists()
    finally:
        lab.engine.delete(name)
    assert disk.exists()


def digest_of(lab: Lab, name: str) -> str:
    """The hash of a stopped machine's disk, as the guest would read it."""
    raw = lab.state_dir / "raw"
    subprocess.run(["qemu-img", "convert", "-O", "raw", chain_top(name), str(raw)], check=True)
    with raw.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    raw.unlink()
    return found


def chain_top(name: str) -> str:
    return str(ET.fromstring(virsh("dumpxml", "--inactive", name)).find("devices/disk/source").get("file"))


def write_to(disk: str, number: int) -> None:
    subprocess.run(["qemu-io", "-f", "qcow2", "-c", f"write -q -P {number} 40M 64k", disk], check=True)


def allocated(lab: Lab) -> int:
    seen = {path.stat().st_ino: path.stat().st_blocks * 512 for path in lab.state_dir.rglob("*") if path.is_file()}
    return sum(seen.values())
