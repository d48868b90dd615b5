"""What a backup reads of a virtual machine: one instant, only what has changed, and enough to make it again."""

from __future__ import annotations

import hashlib
import os
import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.live.kvm_fixtures import BOOT, Lab, kvm_form, own_lab, run  # noqa: F401 - fixtures
from triune.domain.errors import Conflict, Unsupported
from triune.domain.image import DiskForm
from triune.domain.instance import InstanceSpec, State
from triune.domain.operation import Silent
from triune.domain.snapshot import Consistency
from triune.engines.archiving import Archive, Part, PartKind, RestorePlan
from triune.engines.kvm import restoring
from triune.engines.kvm.spec import HostFacts
from triune.host.nbd import data_ranges, open_disk

pytestmark = [pytest.mark.live, pytest.mark.kvm]

QUIET = Silent()
MIB = 1 << 20


@pytest.fixture(scope="module")
def lab(kvm_form: DiskForm) -> Iterator[Lab]:  # noqa: F811
    """Names and a folder of these tests' own."""
    with own_lab(kvm_form, "tarc-") as made:
        yield made


@pytest.fixture
def small(lab: Lab) -> Iterator[str]:
    """A machine with nothing to boot, on a base of 64 MiB of which 4 are data."""
    raw, base = lab.state_dir / "small.raw", lab.state_dir / "small.qcow2"
    lab.state_dir.mkdir(mode=0o711, exist_ok=True)
    if not base.exists():
        raw.write_bytes(os.urandom(4 * MIB) + b"\0" * (60 * MIB))
        subprocess.run(["qemu-img", "convert", "-O", "qcow2", str(raw), str(base)], check=True)
        raw.unlink()
    plan = lab.plan("small", form=DiskForm(path=base, virtual_size=64 * MIB), memory=64 << 20)
    lab.engine.create(plan, QUIET)
    yield plan.spec.name
    lab.engine.delete(plan.spec.name)


def disk_of(lab: Lab, name: str) -> str:
    return str(lab.state_dir / name / "disk.qcow2")


def write(lab: Lab, name: str, number: int, at: str, length: str = "1M") -> None:
    command = f"write -q -P {number} {at} {length}"
    subprocess.run(["qemu-io", "-f", "qcow2", "-c", command, disk_of(lab, name)], check=True)


def digest(part: Part) -> str:
    """The hash of all that a disk part holds."""
    reader = open_disk(part.path, part.socket, part.export)
    try:
        found = hashlib.sha256()
        for offset in range(0, reader.size, MIB):
            found.update(reader.read(offset, min(MIB, reader.size - offset)))
        return found.hexdigest()
    finally:
        reader.close()


def digest_of(lab: Lab, name: str) -> str:
    raw = lab.state_dir / "raw"
    subprocess.run(["qemu-img", "convert", "-O", "raw", disk_of(lab, name), str(raw)], check=True)
    with raw.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    raw.unlink()
    return found


def only_disk(archive: Archive) -> Part:
    (part,) = [part for part in archive.parts if part.kind is PartKind.DISK and part.name == "vda"]
    return part


def leftovers(lab: Lab) -> list[str]:
    return [path.name for path in lab.state_dir.iterdir() if path.name.startswith(".backup")]


def checkpoints(name: str) -> list[str]:
    told = subprocess.run(
        ["virsh", "-q", "checkpoint-list", name, "--name"], check=True, capture_output=True, text=True
    )
    return told.stdout.split()


def test_a_stopped_machine_is_read_whole_and_then_only_where_it_changed(lab: Lab, small: str) -> None:
    write(lab, small, 7, "10M")
    archive = lab.engine.archiving.open(small, None, QUIET)
    part = only_disk(archive)
    assert (archive.still, archive.consistency) == (True, Consistency.STOPPED.value)
    assert (part.size, part.changed, part.base) == (64 * MIB, None, None)
    assert sum(length for _, length in data_ranges(part.path, part.socket, part.export)) < 6 * MIB
    served = digest(part)
    archive.keep("first")
    archive.close()
    assert served == digest_of(lab, small)
    assert leftovers(lab) == []
    assert len(checkpoints(small)) == 1

    write(lab, small, 8, "20M")
    write(lab, small, 9, "3M", "64k")
    archive = lab.engine.archiving.open(small, "first", QUIET)
    part = only_disk(archive)
    assert part.base == "first"
    assert part.changed == ((3 * MIB, 65536), (20 * MIB, MIB))
    assert digest(part) != served
    archive.close()  # without keep: the base stays
    archive = lab.engine.archiving.open(small, "first", QUIET)
    assert only_disk(archive).changed == part.changed
    archive.keep("second")
    archive.close()
    archive = lab.engine.archiving.open(small, "second", QUIET)
    assert only_disk(archive).changed == ()
    archive.close()
    archive.close()
    assert lab.engine.archiving.open(small, "never", QUIET).parts[0].changed is None
    lab.engine.archiving.abandon(small, running=False)
    assert leftovers(lab) == []


def test_a_running_machine_is_read_as_of_one_instant(lab: Lab, small: str) -> None:
    before = digest_of(lab, small)
    lab.engine.start(small, QUIET)
    archive = lab.engine.archiving.open(small, None, QUIET)
    assert archive.consistency == Consistency.CRASH.value  # no agent there
    assert digest(only_disk(archive)) == before
    archive.keep("first")
    archive.close()
    assert lab.row(small).state is State.RUNNING
    archive = lab.engine.archiving.open(small, "first", QUIET)
    assert only_disk(archive).changed == ()
    archive.close()
    assert len(checkpoints(small)) == 1
    lab.engine.stop(small, timeout=0, force=True, progress=QUIET)
    write(lab, small, 5, "30M")  # the bitmap goes on where nothing runs
    archive = lab.engine.archiving.open(small, "first", QUIET)
    assert only_disk(archive).changed == ((30 * MIB, MIB),)
    archive.close()


def test_what_a_crash_left_is_let_go(lab: Lab, small: str) -> None:
    for running in (False, True):
        if running:
            lab.engine.start(small, QUIET)
        left = lab.engine.archiving.open(small, None, QUIET)
        assert leftovers(lab) != []
        lab.engine.archiving.abandon(small, running=running)
        lab.engine.archiving.abandon(small, running=running)
        assert leftovers(lab) == []
        assert checkpoints(small) == []
        with pytest.raises(OSError, match=r".*"):
            digest(only_disk(left))
    jobs = subprocess.run(["virsh", "backup-dumpxml", small], capture_output=True, check=False)
    assert jobs.returncode != 0


def test_a_restored_snapshot_makes_the_next_backup_read_everything(lab: Lab, small: str) -> None:
    from tests.live.test_snapshots_kvm import take

    take(lab, small, "early")
    archive = lab.engine.archiving.open(small, None, QUIET)
    archive.keep("first")
    archive.close()
    write(lab, small, 3, "50M")
    lab.engine.snapshots.restore(small, "early", QUIET)
    archive = lab.engine.archiving.open(small, "first", QUIET)
    assert only_disk(archive).changed is None
    archive.close()


def stored(lab: Lab, name: str, folder: Path) -> dict[str, Path]:
    """What a repository would give back."""
    archive = lab.engine.archiving.open(name, None, QUIET)
    parts = {}
    for part in archive.parts:
        path = parts[part.name] = folder / part.name
        if part.kind is PartKind.IMAGE:
            path.mkdir()
            part.write(path, QUIET)
            continue
        reader = open_disk(part.path, part.socket, part.export)
        with path.open("wb") as file:
            file.truncate(reader.size)
            for offset, length in data_ranges(part.path, part.socket, part.export):
                for start in range(offset, offset + length, MIB):
                    file.seek(start)
                    file.write(reader.read(start, min(MIB, offset + length - start)))
        reader.close()
    archive.close()
    return parts


def test_a_machine_is_made_of_its_backup(lab: Lab, small: str, tmp_path: Path) -> None:
    write(lab, small, 6, "40M")
    described, held = lab.engine.archiving.describe(small), digest_of(lab, small)
    parts = stored(lab, small, tmp_path)
    uuid = ET.fromstring(str(described["xml"])).findtext("uuid")

    def restored(name: str) -> ET.Element:
        plan = RestorePlan(
            spec=InstanceSpec(name=name, image="debian/12", engine="kvm", network=None),
            image="debian/12",
            created=datetime.now(UTC),
            described=described,
            machine_id=os.urandom(16).hex(),
            parts=parts,
        )
        assert lab.engine.archiving.place(plan) == lab.state_dir
        lab.engine.archiving.restore(plan, QUIET)
        told = subprocess.run(["virsh", "dumpxml", name], check=True, capture_output=True, text=True)
        return ET.fromstring(told.stdout)

    with pytest.raises(Conflict) as caught:
        restored(small)
    assert caught.value.code == "instance_exists"
    copy = f"{lab.prefix}copy"
    assert restored(copy).findtext("uuid") != uuid
    assert digest_of(lab, copy) == held
    lab.engine.archiving.discard(copy)
    assert lab.row(copy) is None
    lab.engine.delete(small)
    again = restored(small)
    assert again.findtext("uuid") == uuid
    assert digest_of(lab, small) == held
    assert again.find("devices/disk/backingStore/source") is None
    lab.engine.start(small, QUIET)


@pytest.mark.skipif(not Path("/dev/kvm").exists(), reason="libvirt defines none for KVM without it")
def test_an_emulated_machine_is_made_on_a_host_with_kvm(lab: Lab, small: str, tmp_path: Path) -> None:
    """Defined, not started: that libvirt takes it is what failed once."""
    described = lab.engine.archiving.describe(small)
    root = ET.fromstring(str(described["xml"]))
    root.set("type", "qemu")
    features = root.find("features")
    assert features is not None
    if features.find("tcg") is None:
        ET.SubElement(ET.SubElement(features, "tcg"), "tb-cache", {"unit": "MiB"}).text = "64"
    plan = RestorePlan(
        spec=InstanceSpec(name=f"{lab.prefix}fast", image="debian/12", engine="kvm", network=None),
        image="debian/12",
        created=datetime.now(UTC),
        described={**described, "xml": ET.tostring(root, encoding="unicode")},
        machine_id=os.urandom(16).hex(),
        parts=stored(lab, small, tmp_path),
    )
    host = HostFacts(accelerated=True, memory=1 << 30, cpus=1)
    restoring.restore(lab.client, lab.state_dir, host, plan, QUIET)
    told = subprocess.run(["virsh", "dumpxml", plan.spec.name], check=True, capture_output=True, text=True)
    assert ET.fromstring(told.stdout).get("type") == "kvm"
    lab.engine.archiving.discard(plan.spec.name)


def test_a_disk_that_is_no_file_is_refused(lab: Lab, small: str) -> None:
    virsh = ["virsh", "-q", "attach-disk", small, "/dev/loop99", "vdx", "--config", "--sourcetype", "block"]
    subprocess.run(virsh, check=True)
    with pytest.raises(Unsupported) as caught:
        lab.engine.archiving.open(small, None, QUIET)
    assert caught.value.code == "disk_not_a_file"
    assert leftovers(lab) == []


def test_a_guest_at_work(lab: Lab, tmp_path: Path) -> None:
    """10 MB of writes are no more than 20 MB to read; what is restored boots and has the files."""
    name = lab.launch("guest", memory=256 << 20)

    def sh(machine: str, script: str) -> str:
        code, out, err = run(lab, machine, "sh", "-c", script)
        assert code == 0, err
        return out.decode()

    sh(name, "head -c 3000000 /dev/urandom > /root/old; sync")
    archive = lab.engine.archiving.open(name, None, QUIET)
    assert archive.consistency == Consistency.AGENT.value
    archive.keep("first")
    archive.close()
    sh(name, "head -c 10000000 /dev/urandom > /root/new; sync; sleep 1; sync")
    archive = lab.engine.archiving.open(name, "first", QUIET)
    changed = sum(length for _, length in only_disk(archive).changed or ())
    archive.close()
    assert 10_000_000 <= changed <= 20_000_000
    sums = sh(name, "sha256sum /root/old /root/new")
    described, parts = lab.engine.archiving.describe(name), stored(lab, name, tmp_path)
    assert set(parts) == {"vda", "boot"}
    sh(name, "rm /root/new; sync")
    copy = f"{lab.prefix}again"
    plan = RestorePlan(
        spec=InstanceSpec(name=copy, image="debian/12", engine="kvm", network=None),
        image="debian/12",
        created=datetime.now(UTC),
        described=described,
        machine_id=os.urandom(16).hex(),
        parts=parts,
    )
    lab.engine.archiving.restore(plan, QUIET)
    original = sh(name, "cat /etc/machine-id")
    lab.engine.delete(name)
    lab.engine.start(copy, QUIET)
    lab.engine.wait_ready(copy, BOOT, QUIET)
    assert sh(copy, "sha256sum /root/old /root/new") == sums
    assert sh(copy, "hostname").strip() == copy
    assert sh(copy, "cat /etc/machine-id") != original
    lab.engine.delete(copy)
    assert [path.name for path in lab.state_dir.iterdir() if path.name.startswith(".")] == []
