"""Snapshots of virtual machines on the real libvirt: what was there comes back, and libvirt's own tools see it all."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.live.kvm_fixtures import BOOT, Lab, kvm_form, run  # noqa: F401 - fixtures
from triune.disks.qcow2_snapshots import read_snapshots
from triune.domain.errors import Conflict, NotFound, Unsupported
from triune.domain.image import DiskForm
from triune.domain.instance import State
from triune.domain.operation import Silent
from triune.domain.snapshot import Consistency, Snapshot

pytestmark = [pytest.mark.live, pytest.mark.kvm]

QUIET = Silent()


@pytest.fixture(scope="module")
def lab(kvm_form: DiskForm) -> Iterator[Lab]:  # noqa: F811
    """Names and a folder of these tests' own."""
    state_dir = Path(f"/var/tmp/triune-tests/snapshots-kvm-{os.getpid()}")
    made = Lab(state_dir, kvm_form, "tsnp-")
    made.clean()
    yield made
    made.clean()
    shutil.rmtree(state_dir, ignore_errors=True)


@pytest.fixture(scope="module")
def vm(lab: Lab) -> str:
    return lab.launch("vm", memory=256 << 20)


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
    lab.engine.stop(name, timeout=60, force=True, progress=QUIET)


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
    sh(lab, vm, f"systemd-run --quiet --unit=counter sh -c '{counter}'; echo one > /dev/shm/mark; sleep 1")
    taken = take(lab, vm, "awake", memory=True)
    assert taken.consistency is Consistency.MEMORY
    assert taken.memory
    assert taken.size is not None
    assert taken.size > 10 << 20
    then = int(sh(lab, vm, "cat /dev/shm/counter"))
    pid = sh(lab, vm, "systemctl show counter -p MainPID --value")
    sh(lab, vm, "echo two > /dev/shm/mark; systemctl stop counter; echo three > /root/awake")
    assert [one for one in lab.engine.snapshots.list(vm) if one.name == "awake"] == [taken]

    stopped(lab, vm)
    time.sleep(2)
    lab.engine.snapshots.restore(vm, "awake", QUIET)
    assert lab.row(vm).state is State.RUNNING
    lab.engine.wait_ready(vm, 30, QUIET)
    assert abs(float(sh(lab, vm, "date +%s.%N")) - time.time()) < 1.5
    assert sh(lab, vm, "cat /dev/shm/mark") == "one\n"
    assert sh(lab, vm, "systemctl show counter -p MainPID --value") == pid
    first = int(sh(lab, vm, "cat /dev/shm/counter"))
    assert first < then + 100
    time.sleep(0.5)
    assert int(sh(lab, vm, "cat /dev/shm/counter")) > first
    assert "gone" in sh(lab, vm, "cat /root/awake 2>/dev/null || echo gone")
    assert "triune-undo" not in inside(lab, vm)
    sh(lab, vm, "systemctl stop counter")


def test_ten_in_a_row_and_one_removed_from_the_middle(lab: Lab, vm: str) -> None:
    stopped(lab, vm)
    kept = {}
    for number in range(10):
        # a disk changed from outside is quicker than ten boots
        write(lab, vm, number)
        take(lab, vm, f"n{number}", created=datetime.now(UTC))
        kept[number] = digest(lab, vm)
    assert len(set(kept.values())) == 10
    lab.engine.snapshots.delete(vm, "n5", QUIET)
    lab.engine.snapshots.delete(vm, "n5", QUIET)
    assert "n5" not in names(lab, vm)
    assert "n5" not in inside(lab, vm)
    assert "n5" not in virsh("snapshot-list", vm, "--name").split()
    for number in (9, 0, 6, 4):
        lab.engine.snapshots.restore(vm, f"n{number}", QUIET)
        assert digest(lab, vm) == kept[number]
        assert virsh("snapshot-current", vm, "--name").strip() == f"n{number}"
    with pytest.raises(NotFound) as caught:
        lab.engine.snapshots.restore(vm, "n5", QUIET)
    assert caught.value.code == "snapshot_not_found"
    assert [name for name in names(lab, vm) if name.startswith("n")] == [f"n{n}" for n in range(10) if n != 5]


def write(lab: Lab, name: str, number: int) -> None:
    """Change the last megabyte of the disk, where no file system lies."""
    size = int(lab.form.virtual_size)
    disk = lab.state_dir / name / "disk.qcow2"
    command = f"write -q -P {number + 1} {size - (1 << 20)} 64k"
    subprocess.run(["qemu-io", "-f", "qcow2", "-c", command, str(disk)], check=True, capture_output=True)


def digest(lab: Lab, name: str) -> str:
    raw = lab.state_dir / "raw"
    disk = lab.state_dir / name / "disk.qcow2"
    subprocess.run(["qemu-img", "convert", "-O", "raw", str(disk), str(raw)], check=True)
    with raw.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    raw.unlink()
    return found


def test_a_name_is_taken_once(lab: Lab, vm: str) -> None:
    with pytest.raises(Conflict) as caught:
        take(lab, vm, "n1")
    assert caught.value.code == "snapshot_exists"


def test_what_virsh_makes_is_listed_put_back_and_removed(lab: Lab, vm: str) -> None:
    virsh("snapshot-create-as", vm, "theirs", "by hand")
    found = next(one for one in lab.engine.snapshots.list(vm) if one.name == "theirs")
    assert (found.comment, found.consistency, found.memory) == ("by hand", Consistency.STOPPED, False)
    as_was = digest(lab, vm)
    write(lab, vm, 100)
    lab.engine.snapshots.restore(vm, "theirs", QUIET)
    assert digest(lab, vm) == as_was
    write(lab, vm, 101)
    virsh("snapshot-revert", vm, "n3")  # and theirs handles ours
    lab.engine.snapshots.delete(vm, "theirs", QUIET)
    virsh("snapshot-delete", vm, "n3")
    assert {"theirs", "n3"}.isdisjoint(names(lab, vm))
    assert {"theirs", "n3"}.isdisjoint(inside(lab, vm))


def test_a_renamed_machine_keeps_them(lab: Lab, vm: str) -> None:
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


def test_what_a_cut_off_attempt_left_goes(lab: Lab, vm: str) -> None:
    disk = lab.state_dir / vm / "disk.qcow2"
    subprocess.run(["qemu-img", "snapshot", "-c", "half", str(disk)], check=True)
    assert "half" not in names(lab, vm)
    lab.engine.snapshots.delete(vm, "half", QUIET)
    assert "half" not in inside(lab, vm)


def test_a_stopped_machine_has_no_running_state(lab: Lab, vm: str) -> None:
    with pytest.raises(Conflict, match="not running"):
        take(lab, vm, "asleep", memory=True)
    assert "asleep" not in inside(lab, vm)


def test_a_raw_disk_is_refused_with_its_reason(lab: Lab, vm: str, tmp_path: Path) -> None:
    raw = lab.state_dir / "extra.raw"
    raw.write_bytes(b"\0" * (1 << 20))
    virsh("attach-disk", vm, str(raw), "vdx", "--config", "--subdriver", "raw")
    try:
        with pytest.raises(Unsupported) as caught:
            take(lab, vm, "raw")
        assert caught.value.code == "disk_not_qcow2"
        assert "vdx" in caught.value.message
    finally:
        virsh("detach-disk", vm, "vdx", "--config")
        raw.unlink()
    assert "raw" not in inside(lab, vm)


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
    stopped(lab, name)
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
