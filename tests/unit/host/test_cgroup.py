"""Both cgroup versions, and both at once."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from triune.host import cgroup
from triune.host.cgroup import Group, Hierarchies

V1 = """\
25 1 0:22 / /sys/fs/cgroup rw - tmpfs tmpfs rw
30 25 0:26 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
31 25 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
32 25 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
"""
V2 = "30 25 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n"


def test_hybrid_and_unified_hosts() -> None:
    mounted = cgroup.read_hierarchies(V1, lambda path: "")
    assert [mounted.version(name) for name in ("cpu", "memory", "pids")] == [1, 1, None]
    mounted = cgroup.read_hierarchies(V2, lambda path: "cpu memory pids\n")
    assert [mounted.version(name) for name in ("cpu", "memory", "io")] == [2, 2, None]


def test_the_containers_group_is_found_above_those_of_its_systemd() -> None:
    mounted = Hierarchies({}, Path("/sys/fs/cgroup"), frozenset({"memory"}))
    group = cgroup.parse_group("0::/lxc.payload.web/init.scope\n", mounted, "lxc.payload")
    assert group.v2 == Path("/sys/fs/cgroup/lxc.payload.web")
    mounted = cgroup.read_hierarchies(V1, lambda path: "")
    group = cgroup.parse_group("4:memory:/a/lxc.payload.web\n3:cpu,cpuacct:/lxc.payload.web\n0::/\n", mounted, "lxc.")
    assert group.v1["memory"] == Path("/sys/fs/cgroup/memory/a/lxc.payload.web")
    assert group.v1["cpuacct"] == Path("/sys/fs/cgroup/cpu,cpuacct/lxc.payload.web")


def write(folder: Path, **files: str) -> Path:
    folder.mkdir()
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)
    return folder


def test_counters_of_version_1(tmp_path: Path) -> None:
    memory = write(
        tmp_path / "memory",
        memory__usage_in_bytes="5000\n",
        memory__stat="cache 9\ntotal_inactive_file 1000\n",
        memory__limit_in_bytes="9223372036854771712\n",
    )
    cpu = write(tmp_path / "cpu", cpuacct__usage="1500000000\n")
    disk = write(
        tmp_path / "blkio", blkio__throttle__io_service_bytes="8:0 Read 10\n8:0 Write 20\n8:16 Read 1\nTotal 3\n"
    )
    pids = write(tmp_path / "pids", pids__current="7\n")
    group = Group({"memory": memory, "cpuacct": cpu, "blkio": disk, "pids": pids}, None)
    assert (group.memory_bytes(), group.memory_limit(), group.cpu_seconds()) == (4000, None, 1.5)
    assert (group.disk_bytes(), group.pids()) == ((11, 20), 7)


def test_counters_of_version_2(tmp_path: Path) -> None:
    folder = write(
        tmp_path / "g",
        memory__current="5000\n",
        memory__stat="inactive_file 6000\n",
        memory__max="max\n",
        cpu__stat="usage_usec 2500000\nuser_usec 1\n",
        io__stat="8:0 rbytes=10 wbytes=20 rios=1\n8:16 rbytes=1 wbytes=2\n",
    )
    group = Group({}, folder)
    assert (group.memory_bytes(), group.memory_limit(), group.cpu_seconds()) == (0, None, 2.5)
    assert (group.disk_bytes(), group.pids()) == ((11, 22), None)
    (folder / "memory.max").write_text("4096\n")
    assert group.memory_limit() == 4096


def test_nothing_there_is_zero(tmp_path: Path) -> None:
    group = Group({}, tmp_path / "gone")
    assert (group.memory_bytes(), group.cpu_seconds(), group.disk_bytes()) == (0, 0.0, (0, 0))
    assert Group({}, None).pids() is None


@given(st.text())
def test_any_text_is_parsed_without_an_error(text: str) -> None:
    mounted = cgroup.read_hierarchies(V1, lambda path: "")
    cgroup.parse_group(text, mounted, "lxc.payload")
