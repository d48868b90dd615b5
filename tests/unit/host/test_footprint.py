"""Footprints from a canned /proc, and limits of a canned host."""

from __future__ import annotations

from pathlib import Path

from triune.host.ceilings import ceilings, shared_pages
from triune.host.footprint import measure

ID = "5f" * 32


def process(proc: Path, pid: int, command: str, group: str, *, pss: int, env: str = "", inotify: int = 0) -> None:
    folder = proc / str(pid)
    (folder / "fd").mkdir(parents=True)
    (folder / "cmdline").write_text(command.replace(" ", "\0"))
    (folder / "cgroup").write_text(f"0::/{group}\n")
    (folder / "environ").write_text(env)
    (folder / "smaps_rollup").write_text(f"0-f ---p 0 0 0 [rollup]\nRss: 999999 kB\nPss: {pss} kB\nPss_Anon: 1 kB\n")
    (folder / "status").write_text("VmPTE:\t40 kB\nThreads:\t3\n")
    (folder / "fd" / "0").symlink_to("/dev/null")
    for number in range(inotify):
        (folder / "fd" / str(number + 1)).symlink_to("anon_inode:inotify")


def test_who_belongs_to_an_instance(tmp_path: Path) -> None:
    process(tmp_path, 10, "/sbin/init", "lxc.payload.web/init.scope", pss=100, inotify=2)
    process(tmp_path, 11, "[lxc monitor] /var/lib/lxc web", "lxc.monitor.web", pss=10)
    process(tmp_path, 12, "sleep 9", f"docker/{ID}", pss=1000, env="A=1\0HOSTNAME=web\0")
    process(tmp_path, 17, "child", f"system.slice/docker-{ID}.scope/sub", pss=7)
    process(tmp_path, 13, f"shim -id {ID} -address x", "init.scope", pss=5000)
    process(tmp_path, 14, "/sbin/init", "lxc.payload.web-2", pss=70000)
    process(tmp_path, 15, "vi web-notes webby my-web", "user", pss=900000, env="HOSTNAME=host\0")
    process(tmp_path, 16, "", "lxc.payload.web", pss=900000)
    found = measure(["web"], tmp_path)
    assert found.pss == (100 + 10 + 1000 + 5000 + 7) * 1024
    assert (found.processes, found.threads, found.files, found.inotify) == (5, 15, 7, 2)
    assert found.kernel == 5 * (40 * 1024 + 3 * 16 * 1024)
    assert measure(["none"], tmp_path).memory == 0


def test_limits_of_a_host(tmp_path: Path) -> None:
    for name, text in {
        "proc/sys/kernel/pid_max": "32768\n",
        "proc/loadavg": "0.1 0.2 0.3 1/345 999\n",
        "proc/sys/net/ipv4/neigh/default/gc_thresh3": "1024\n",
        "proc/net/arp": "IP address\n10.0.0.1 x\n10.0.0.2 x\n",
        "sys/kernel/mm/ksm/run": "1\n",
        "sys/kernel/mm/ksm/pages_sharing": "256\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    found = {ceiling.name: ceiling for ceiling in ceilings(tmp_path)}
    assert set(found) == {"pids", "arp", "bridge_ports"}
    assert (found["pids"].left, found["arp"].left, found["bridge_ports"].left) == (32768 - 345, 1022, 1023)
    assert shared_pages(tmp_path) == {"running": True, "saved_bytes": 1 << 20}
