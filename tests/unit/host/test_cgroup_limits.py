"""Limits as files of control groups, v1 and v2, on trees of plain files."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triune.domain.errors import Conflict, Failed, Invalid, Unsupported
from triune.domain.limits import Limits
from triune.host import cgroup_limits
from triune.host.cgroup import Group, Hierarchies
from triune.host.cgroup_limits import CONTROLLERS, DISK, apply, missing, read, read_group, require_room, settings

FILES = {
    "cpu": {"cpu.cfs_period_us": "100000", "cpu.cfs_quota_us": "-1", "cpu.shares": "1024"},
    "cpuset": {"cpuset.cpus": "0-3"},
    "memory": {
        "memory.limit_in_bytes": "9223372036854771712",
        "memory.memsw.limit_in_bytes": "9223372036854771712",
        "memory.usage_in_bytes": "50000000",
        "memory.stat": "total_inactive_file 20000000\ntotal_active_file 10000000\n",
    },
    "pids": {"pids.max": "max", "pids.current": "12"},
    "blkio": {f"blkio.throttle.{what}_device": "" for what in ("read_bps", "write_bps", "read_iops", "write_iops")},
}
V2 = {
    "cpu.max": "max 100000",
    "cpu.weight": "100",
    "cpuset.cpus": "",
    "memory.max": "max",
    "memory.swap.max": "max",
    "memory.current": "50000000",
    "memory.stat": "inactive_file 20000000\nactive_file 10000000\n",
    "pids.max": "max",
    "pids.current": "12",
    "io.max": "",
}


@pytest.fixture(params=[1, 2])
def group(request: pytest.FixtureRequest, tmp_path: Path) -> Group:
    if request.param == 2:
        folder = tmp_path / "unified" / "one"
        folder.mkdir(parents=True)
        for name, text in V2.items():
            (folder / name).write_text(f"{text}\n")
        return Group({}, folder)
    folders = {}
    for controller, files in FILES.items():
        folders[controller] = tmp_path / controller / "one"
        folders[controller].mkdir(parents=True)
        for name, text in files.items():
            (folders[controller] / name).write_text(f"{text}\n")
    (tmp_path / "cpuset" / "cpuset.cpus").write_text("0-3\n")
    return Group(folders, None)


def test_an_unlimited_group_has_no_limits(group: Group) -> None:
    assert read_group(group, "8:0") == Limits()


ALL = Limits(
    cpus=1.5, cpu_weight=50, cpu_pin="0,2", memory=40 << 20, swap=8 << 20, pids=100,
    io_read=1 << 20, io_write=2 << 20, iops_read=100, iops_write=200,
)  # fmt: skip


def test_what_is_set_is_read_and_can_be_lifted(group: Group) -> None:
    # Plain files keep only the last write; the kernel's io.max and throttles keep one value for each kind.
    keys = frozenset(ALL.by_key()) - (DISK if group.v2 else frozenset())
    wanted = Limits().changed({key: ALL.get(key) for key in keys})
    apply(group, wanted, keys, "8:0")
    assert read_group(group, "8:0") == wanted
    apply(group, Limits(), keys, "8:0")
    assert read_group(group, "8:0").changed(dict.fromkeys(DISK)) == Limits()


def test_a_failed_write_puts_back_what_was(group: Group) -> None:
    apply(group, Limits(cpus=2.0), {"cpus"}, None)
    version, folder = group.folder("pids") or (0, Path())
    (folder / "pids.max").unlink()
    with pytest.raises((Unsupported, Failed)):
        apply(group, Limits(cpus=1.0, pids=5), {"cpus", "pids"}, None)
    assert version
    assert read_group(group, None).cpus == 2.0


def test_less_than_it_uses_is_refused_with_the_figures(group: Group) -> None:
    with pytest.raises(Conflict, match=r"web uses 19\.1 MiB of memory now, more than 10\.0 MiB") as raised:
        require_room(group, "web", Limits(memory=10 << 20), {"memory"})
    assert "memory=35MiB" in raised.value.hint
    with pytest.raises(Conflict, match="12 processes and threads now, more than 11"):
        require_room(group, "web", Limits(pids=11), {"pids"})
    require_room(group, "web", Limits(memory=20 << 20, pids=12), {"memory", "pids"})
    require_room(group, "web", Limits(memory=1), set())


def test_pinning_in_v1_takes_the_children_along(tmp_path: Path) -> None:
    for folder in ("", "one", "one/in", "one/in/deep"):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / "cpuset.cpus").write_text("0-3\n")
    group = Group({"cpuset": tmp_path / "one"}, None)
    apply(group, Limits(cpu_pin="1"), {"cpu.pin"}, None)
    assert (tmp_path / "one/in/deep/cpuset.cpus").read_text() == "1\n"
    assert read_group(group, None).cpu_pin == "1"
    apply(group, Limits(), {"cpu.pin"}, None)
    assert (tmp_path / "one/in/cpuset.cpus").read_text() == "0-3\n"
    assert read_group(group, None) == Limits()


def test_swap_alone_can_be_said_only_in_v2() -> None:
    with pytest.raises(Invalid) as raised:
        settings("swap", Limits(swap=0), 1)
    assert raised.value.code == "swap_without_memory"
    assert [one.value for one in settings("swap", Limits(swap=0), 2)] == ["0"]


def test_without_a_disk_its_traffic_is_not_limited(group: Group) -> None:
    with pytest.raises(Unsupported) as raised:
        apply(group, Limits(io_read=1 << 20), {"io.read"}, None)
    assert raised.value.code == "no_disk_to_limit"


def test_what_a_host_lacks_is_named(tmp_path: Path) -> None:
    reasons = missing(Hierarchies({}, tmp_path, frozenset({"cpu", "memory", "pids", "io"})))
    assert set(reasons) == {"cpu.pin"}
    reasons = missing(Hierarchies({"memory": tmp_path, "blkio": tmp_path, "cpu": tmp_path}, None, frozenset()))
    assert set(reasons) == {"swap", "cpu.pin", "pids", *DISK}
    assert "swapaccount" in reasons["swap"]


@given(st.sampled_from([1, 2]), st.integers(1, 10000))
def test_every_weight_comes_back(version: int, weight: int) -> None:
    (one,) = settings("cpu.weight", Limits(cpu_weight=weight), version)
    found = read(lambda _, file: one.value if file == one.file else "", lambda _: version)
    assert found.cpu_weight == (None if weight == 100 else weight)


@given(st.sampled_from(sorted(CONTROLLERS)), st.sampled_from([1, 2]), st.text(max_size=60))
def test_nonsense_in_a_file_is_no_limit_or_one(key: str, version: int, text: str) -> None:
    found = cgroup_limits.read(lambda _, file: text, lambda _: version, "8:0").get(key)
    assert found is None or isinstance(found, int | float | str)
