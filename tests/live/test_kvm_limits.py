"""Limits of a virtual machine, each proved by a load that runs into it: what QEMU got, not what was asked for."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.live.kvm_fixtures import BOOT, Lab, kvm_form, lab, run  # noqa: F401 - fixtures
from tests.patience import until
from triune.domain.errors import Conflict, Invalid, Unsupported
from triune.domain.instance import VolumeMount
from triune.domain.limits import FIELDS, Limits
from triune.domain.operation import Silent
from triune.domain.pool import Volume, VolumeKind
from triune.engines.base import Command, EngineEvent
from triune.engines.kvm import process

pytestmark = [pytest.mark.live, pytest.mark.alone, pytest.mark.kvm]

MIB = 2**20
SOME = 1.5 if (os.cpu_count() or 1) > 1 else 0.75
SPIN = ("bash", "-c", "for i in 1 2; do (while :; do :; done) & done; wait")
pinnable = pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="hardware: needs two CPUs")


@pytest.fixture(scope="module")
def machine(lab: Lab) -> str:  # noqa: F811
    """One for all: it begins with a part of the CPUs and a slow disk."""
    return lab.launch("limits", cpus=SOME, memory=384 * MIB, limits=Limits(io_read=20 * MIB, iops_write=900))


def set_limits(lab: Lab, name: str, **values: object) -> frozenset[str]:  # noqa: F811
    """As the service does: all that shall hold, and which of it is new."""
    limiting = lab.engine.limiting
    assert limiting is not None
    changes = {key: values[field] for key, field in FIELDS.items() if field in values}
    return limiting.apply(name, limiting.read(name).changed(changes), frozenset(changes))


def pid_of(lab: Lab, name: str) -> int:  # noqa: F811
    pid = process.find(lab.client.domain(name).UUIDString(), name)
    assert pid is not None
    return pid


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def load(lab: Lab, name: str, *argv: str) -> Iterator[None]:  # noqa: F811
    session = lab.engine.commands.open(name, Command(argv=argv))
    time.sleep(1)
    yield
    session.close()


def share(lab: Lab, name: str, seconds: float = 2) -> float:  # noqa: F811
    """CPUs' worth of time that QEMU gets while its guest asks for all."""
    pid = pid_of(lab, name)
    with load(lab, name, *SPIN):
        before, began = cpu_seconds(pid), time.monotonic()
        time.sleep(seconds)
        return (cpu_seconds(pid) - before) / (time.monotonic() - began)


def reading(lab: Lab, name: str, count: int, size: str = "1M") -> float:  # noqa: F811
    """Bytes/s that dd reads past all caches."""
    return disk(lab, name, f"dd if=/dev/vda of=/dev/null bs={size} count={count} iflag=direct")


def disk(lab: Lab, name: str, command: str) -> float:  # noqa: F811
    code, _, said = run(lab, name, "sh", "-c", command)
    assert code == 0, said
    found = re.search(rb"(\d+) bytes.* copied, ([\d.e-]+) s", said)
    assert found, said
    return int(found[1]) / float(found[2])


def total_memory(lab: Lab, name: str) -> int:  # noqa: F811
    """What the guest has now; a balloon takes from MemFree, and from MemTotal where the driver counts so."""
    out = run(lab, name, "cat", "/proc/meminfo")[1]
    return int(re.search(rb"MemTotal: +(\d+)", out)[1]) * 1024  # type: ignore[index]


def test_limits_of_the_launch_hold(lab: Lab, machine: str) -> None:  # noqa: F811
    found = lab.engine.limiting.read(machine)
    assert found == Limits(cpus=SOME, memory=384 * MIB, io_read=20 * MIB, iops_write=900)
    assert share(lab, machine) < SOME + 0.1
    assert 2 * MIB < reading(lab, machine, 40) < 24 * MIB


@pinnable
def test_cpus_grow_and_shrink_live(lab: Lab, machine: str) -> None:  # noqa: F811
    set_limits(lab, machine, cpus=0.7, iops_write=None)
    assert share(lab, machine) < 0.8
    assert set_limits(lab, machine, cpus=2) == frozenset()
    assert run(lab, machine, "nproc")[1] == b"2\n"
    assert set_limits(lab, machine, cpus=0.1) == frozenset()
    assert 0.05 < share(lab, machine) < 0.14
    assert run(lab, machine, "nproc")[1] == b"1\n"
    assert lab.engine.limiting.read(machine).cpus == 0.1
    with pytest.raises(Invalid):
        set_limits(lab, machine, cpus=4096)
    assert set_limits(lab, machine, cpus=None) == frozenset()
    assert share(lab, machine) > 0.15  # even where others want the CPUs too


@pinnable
def test_pinning_holds_every_thread(lab: Lab, machine: str) -> None:  # noqa: F811
    pid = pid_of(lab, machine)

    assert len(allowed(pid)) > 1
    assert set_limits(lab, machine, cpu_pin="1") == frozenset()
    assert allowed(pid) == {1}
    with load(lab, machine, *SPIN):
        assert {ran_on(pid) for _ in range(20)} == {1}
    assert lab.engine.limiting.read(machine).cpu_pin == "1"
    set_limits(lab, machine, cpu_pin=None)
    assert len(allowed(pid)) > 1
    assert lab.engine.limiting.read(machine).cpu_pin is None


def allowed(pid: int) -> set[int]:
    """The CPUs that any of a process's threads may run on."""
    return {cpu for task in Path(f"/proc/{pid}/task").iterdir() for cpu in os.sched_getaffinity(int(task.name))}


def ran_on(pid: int) -> int:
    """The CPU that the busiest of a process's threads was last seen on, a moment from now."""
    time.sleep(0.05)
    fields = [(task / "stat").read_text().rpartition(")")[2].split() for task in Path(f"/proc/{pid}/task").iterdir()]
    return int(max(fields, key=lambda each: int(each[11]))[36])


def test_the_weight_reaches_the_group(lab: Lab, machine: str) -> None:  # noqa: F811
    set_limits(lab, machine, cpu_weight=300)
    assert lab.engine.limiting.read(machine).cpu_weight == 300
    assert group_shares(pid_of(lab, machine)) == pytest.approx(3, rel=0.05)
    set_limits(lab, machine, cpu_weight=None)
    assert group_shares(pid_of(lab, machine)) == pytest.approx(1, rel=0.05)


def group_shares(pid: int) -> float:
    """The weight of the machine's group as the kernel has it, 1 is normal."""
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        parts = path.strip("/").split("/")
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = Path("/sys/fs/cgroup/cpu" if controllers else "/sys/fs/cgroup")
        file, normal = ("cpu.shares", 1024) if controllers else ("cpu.weight", 100)
        found = [root.joinpath(*parts[: depth + 1], file) for depth, part in enumerate(parts) if "qemu" in part]
        if found and found[0].exists():
            return int(found[0].read_text()) / normal
    raise AssertionError("no group")


def test_memory_goes_and_comes_back(lab: Lab, machine: str) -> None:  # noqa: F811
    whole = total_memory(lab, machine)
    with pytest.raises(Conflict) as caught:
        set_limits(lab, machine, memory=40 * MIB)
    assert caught.value.code == "limit_below_use"
    assert lab.engine.limiting.read(machine).memory == 384 * MIB
    assert set_limits(lab, machine, memory=256 * MIB) == frozenset()
    assert 110 * MIB < whole - total_memory(lab, machine) < 140 * MIB
    assert lab.row(machine).memory_bytes == 256 * MIB
    heard: list[EngineEvent] = []
    watch = lab.engine.watch(heard.append)
    time.sleep(1.5)  # what the console said before does not count
    hog = "$x[$_] = chr(65 + $_ % 26) x 1048576 for 0..300"
    code, _, said = run(lab, machine, "perl", "-e", hog)
    assert code in (137, 143), said
    until(lambda: any(event.action == "oom" and event.name == machine for event in heard))
    watch.close()
    assert set_limits(lab, machine, memory=384 * MIB) == frozenset()
    assert abs(total_memory(lab, machine) - whole) < 4 * MIB
    assert set_limits(lab, machine, memory=512 * MIB) == {"memory"}
    set_limits(lab, machine, memory=384 * MIB)


def test_disks_keep_to_their_rates(lab: Lab, machine: str) -> None:  # noqa: F811
    set_limits(lab, machine, io_read=None)
    assert reading(lab, machine, 64) > 16 * MIB
    write = "dd if=/dev/zero of=/var/tmp/fill bs=1M count=8 oflag=direct"
    set_limits(lab, machine, io_write=3 * MIB)
    assert MIB < disk(lab, machine, write) < 3.7 * MIB
    set_limits(lab, machine, io_write=None, iops_read=50)
    assert 20 < reading(lab, machine, 150, "4k") / 4096 < 60
    set_limits(lab, machine, iops_read=None, iops_write=50)
    assert 20 < disk(lab, machine, write.replace("1M count=8", "4k count=150")) / 4096 < 62
    found = lab.engine.limiting.read(machine)
    assert (found.io_read, found.io_write, found.iops_read, found.iops_write) == (None, None, None, 50)
    set_limits(lab, machine, iops_write=None)
    assert disk(lab, machine, write) > 6 * MIB


def test_a_disk_that_is_plugged_in_shares_the_rate(lab: Lab, machine: str) -> None:  # noqa: F811
    set_limits(lab, machine, io_read=8 * MIB)
    path = lab.state_dir / "extra.raw"
    with path.open("wb") as file:
        file.truncate(64 * MIB)
    volume = Volume(
        name="extra", pool="default", kind=VolumeKind.DISK, path=path, created=datetime.now(UTC), format="raw"
    )
    mount = VolumeMount(source=str(path), target="", volume="extra", format="raw")
    lab.engine.attaching.attach(machine, volume, mount, Silent())
    try:
        both = (
            "for disk in vda vdb; do dd if=/dev/$disk of=/dev/null bs=1M count=12 iflag=direct 2>/dev/null & done; wait"
        )
        began = time.monotonic()
        assert run(lab, machine, "sh", "-c", f"while [ ! -b /dev/vdb ]; do sleep 0.1; done; {both}")[0] == 0
        assert time.monotonic() - began > 24 / 8 * 0.8
        assert lab.engine.limiting.read(machine).io_read == 8 * MIB
        set_limits(lab, machine, io_read=None)
        assert lab.engine.limiting.read(machine).io_read is None
    finally:
        lab.engine.attaching.detach(machine, volume, Silent())


def test_what_fails_half_way_is_put_back(lab: Lab, machine: str) -> None:  # noqa: F811
    before = lab.engine.limiting.read(machine)
    configured = lab.client.domain(machine).XMLDesc(2)  # VIR_DOMAIN_XML_INACTIVE
    with pytest.raises(Exception, match=r"CPU|cpu"):
        set_limits(lab, machine, cpus=0.2, io_read=MIB, cpu_weight=7, cpu_pin="8000")
    assert lab.engine.limiting.read(machine) == before
    assert lab.client.domain(machine).XMLDesc(2) == configured


def test_what_no_virtual_machine_has(lab: Lab, machine: str) -> None:  # noqa: F811
    missing = lab.engine.probe().missing
    for key, field in (("swap", "swap"), ("pids", "pids")):
        assert key not in lab.engine.limiting.keys
        assert len(missing[f"limiting.{key}"]) > 20
        with pytest.raises(Unsupported):
            set_limits(lab, machine, **{field: 1000})


def test_a_stopped_one_starts_with_them(lab: Lab, machine: str) -> None:  # noqa: F811
    lab.engine.stop(machine, timeout=0, force=True, progress=Silent())
    assert set_limits(lab, machine, memory=448 * MIB, cpus=SOME, io_read=20 * MIB, cpu_pin="0") == frozenset()
    wanted = lab.engine.limiting.read(machine)
    assert (wanted.memory, wanted.cpus, wanted.io_read, wanted.cpu_pin) == (448 * MIB, SOME, 20 * MIB, "0")
    lab.engine.start(machine, Silent())
    assert lab.engine.limiting.read(machine) == wanted
    assert allowed(pid_of(lab, machine)) == {0}
    set_limits(lab, machine, cpu_pin=None)
    lab.engine.wait_ready(machine, BOOT, Silent())
    assert 400 * MIB < total_memory(lab, machine) < 448 * MIB
    assert 2 * MIB < reading(lab, machine, 40) < 24 * MIB
    assert share(lab, machine) < SOME + 0.1
