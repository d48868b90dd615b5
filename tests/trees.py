"""Canned hosts: folders that look like /proc, /sys and /etc of real ones, and tools that answer as theirs do."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from triune.host.probe.view import HostFiles, Tools, View
from triune.host.run import Result

_NAMESPACES = {f"proc/self/ns/{name}": "" for name in ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")}
_ROOT_MOUNT = "22 1 254:1 / / rw,relatime shared:1 - {kind} /dev/vda1 rw\n"
_CPU = "processor\t: {number}\nvendor_id\t: {vendor}\nmodel name\t: {model}\nflags\t\t: fpu {flags}\n\n"
_SECCOMP = {"proc/sys/kernel/seccomp/actions_avail": "kill_process kill_thread trap errno user_notif trace log allow\n"}
_MEMORY = "MemTotal:       32768000 kB\nMemFree:        1000000 kB\nMemAvailable:   {free} kB\nHugePages_Total:  0\n"
_LARGE_LIMITS = {
    "proc/sys/fs/inotify/max_user_instances": "8192\n",
    "proc/sys/fs/inotify/max_user_watches": "524288\n",
    "proc/sys/kernel/pid_max": "4194304\n",
    "proc/sys/kernel/keys/maxkeys": "2000\n",
    "proc/sys/fs/aio-max-nr": "1048576\n",
    "proc/sys/net/ipv4/neigh/default/gc_thresh1": "1024\n",
    "proc/sys/net/ipv4/neigh/default/gc_thresh2": "4096\n",
    "proc/sys/net/ipv4/neigh/default/gc_thresh3": "8192\n",
}
_V2_LIMITS = (
    *("cpu.max", "cpu.weight", "memory.max", "memory.swap.max", "pids.max", "cpuset.cpus"),
    *("io.max", "io.weight", "cgroup.freeze"),
)
# What shaping traffic needs, as Debian builds it; and the modules' list, as depmod writes it.
SHAPING = "".join(
    f"CONFIG_{name}=m\n" for name in ("NET_SCH_TBF", "NET_SCH_INGRESS", "NET_CLS_U32", "NET_ACT_MIRRED", "IFB")
)
_MODULES = "".join(
    f"kernel/net/{name}.ko: kernel/lib/crc32.ko\n"
    for name in ("sched/sch_tbf", "sched/sch_ingress", "sched/cls_u32", "sched/act_mirred", "ifb")
)


def cpuinfo(count: int, vendor: str, model: str, flags: str) -> str:
    """A /proc/cpuinfo of some equal processors."""
    return "".join(_CPU.format(number=n, vendor=vendor, model=model, flags=flags) for n in range(count))


DEBIAN_12: Mapping[str, str] = {
    **_NAMESPACES,
    **_SECCOMP,
    **_LARGE_LIMITS,
    "etc/os-release": 'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nVERSION_ID="12"\nID=debian\n',
    "etc/default/grub": 'GRUB_CMDLINE_LINUX=""\n',
    "etc/subuid": "alice:100000:65536\nroot:1000000:1000000000\n",
    "etc/subgid": "alice:100000:65536\nroot:1000000:1000000000\n",
    "etc/group": "root:x:0:\ntriune:x:990:\n",
    "run/systemd/system/.keep": "",
    "boot/config-6.1.0-37-amd64": SHAPING,
    "dev/kvm": "",
    "dev/vfio/vfio": "",
    "lib/modules/6.1.0-37-amd64/modules.dep": _MODULES,
    "proc/cpuinfo": cpuinfo(8, "GenuineIntel", "Intel(R) Xeon(R) E-2288G", "vmx ssse3 lm"),
    "proc/cmdline": "BOOT_IMAGE=/vmlinuz ro quiet intel_iommu=on\n",
    "proc/filesystems": "nodev\tsysfs\nnodev\toverlay\n\text4\n\tbtrfs\n",
    "proc/meminfo": _MEMORY.format(free=20000000),
    "proc/self/mountinfo": _ROOT_MOUNT.format(kind="ext4")
    + "40 22 0:33 /@lib /var/lib\\040x rw - ext4 /dev/vdb rw\n41 22 0:34 / /var/lib rw - btrfs /dev/vdc rw\n",
    "proc/sys/kernel/osrelease": "6.1.0-37-amd64\n",
    "proc/sys/kernel/unprivileged_userns_clone": "1\n",
    "proc/sys/net/ipv4/ip_forward": "1\n",
    "proc/sys/user/max_user_namespaces": "127000\n",
    "sys/fs/cgroup/cgroup.controllers": "cpuset cpu io memory hugetlb pids rdma misc\n",
    **{f"sys/fs/cgroup/system.slice/{name}": "" for name in _V2_LIMITS},
    "sys/kernel/iommu_groups/0/type": "DMA-FQ\n",
    "sys/kernel/iommu_groups/1/type": "DMA-FQ\n",
    "sys/module/apparmor/parameters/enabled": "Y\n",
    "sys/module/kvm_intel/parameters/nested": "Y\n",
}

NESTED_VM: Mapping[str, str] = {
    **_NAMESPACES,
    **_SECCOMP,
    "etc/os-release": 'ID=debian\nVERSION_ID="12"\n',
    "dev/kvm": "",
    "proc/cgroups": "#subsys_name\thierarchy\tnum_cgroups\tenabled\n"
    + "".join(f"{name}\t1\t1\t1\n" for name in ("cpuset", "cpu", "blkio", "memory", "freezer", "pids", "net_cls")),
    "proc/cpuinfo": cpuinfo(2, "AuthenticAMD", "AMD EPYC", "lm hypervisor"),
    "proc/filesystems": "nodev\toverlay\n\text4\n",
    "proc/meminfo": _MEMORY.format(free=500000),
    "proc/self/mountinfo": _ROOT_MOUNT.format(kind="ext4"),
    "proc/sys/fs/inotify/max_user_instances": "128\n",
    "proc/sys/kernel/keys/maxkeys": "200\n",
    "proc/sys/net/bridge/bridge-nf-call-iptables": "1\n",
    "proc/sys/net/ipv4/ip_forward": "0\n",
    "proc/sys/net/ipv4/neigh/default/gc_thresh3": "1024\n",
    "proc/sys/user/max_user_namespaces": "96365\n",
    "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "",
    "sys/fs/cgroup/cpu/cpu.shares": "",
    "sys/fs/cgroup/cpuset/cpuset.cpus": "",
    "sys/fs/cgroup/memory/memory.limit_in_bytes": "",
    "sys/fs/cgroup/memory/memory.memsw.limit_in_bytes": "",
    "sys/fs/cgroup/pids/lxc/pids.max": "",
    "sys/fs/cgroup/freezer/lxc/freezer.state": "",
    "sys/fs/cgroup/blkio/blkio.throttle.read_bps_device": "",
    "sys/fs/cgroup/blkio/blkio.throttle.read_iops_device": "",
    "sys/fs/cgroup/blkio/lxc/blkio.bfq.weight": "",
    "sys/fs/cgroup/unified/cgroup.controllers": "",
}

UBUNTU_24: Mapping[str, str] = {
    **DEBIAN_12,
    "etc/os-release": 'PRETTY_NAME="Ubuntu 24.04.2 LTS"\nID=ubuntu\nID_LIKE=debian\nVERSION_ID="24.04"\n',
    "etc/subuid": "ubuntu:100000:65536\n",
    "etc/subgid": "ubuntu:100000:65536\n",
    "etc/group": "root:x:0:\n",
    "proc/cpuinfo": cpuinfo(4, "AuthenticAMD", "AMD Ryzen 7", "svm lm"),
    "proc/sys/kernel/apparmor_restrict_unprivileged_userns": "1\n",
    "sys/module/kvm_amd/parameters/nested": "0\n",
}


def plant(root: Path, tree: Mapping[str, str]) -> HostFiles:
    """Write a canned tree below `root`."""
    for name, content in tree.items():
        assert not name.startswith("/"), f"{name} would be written to the host itself"
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return HostFiles(root)


class CannedTools(Tools):
    """Tools that say what they are told to, by the words of their command line joined by blanks."""

    def __init__(self, answers: Mapping[str, str], daemons: Mapping[str, Any] | None = None) -> None:
        self.answers = answers
        self.daemons = daemons or {}
        self.asked: list[str] = []

    def find(self, program: str) -> str | None:
        known = any(line.split(" ", 1)[0] == program for line in self.answers)
        return f"/usr/bin/{program}" if known else None

    def run(self, *argv: str, timeout: float = 2.0) -> Result | None:
        line = " ".join(argv)
        self.asked.append(line)
        if line in self.answers:
            return Result(0, self.answers[line].encode(), b"")
        return Result(1, b"", b"") if self.find(argv[0]) else None

    def ask(self, socket_path: str, path: str) -> Any:
        return self.daemons.get(path)


TOOLS: Mapping[str, str] = {
    "qemu-system-x86_64 --version": "QEMU emulator version 7.2.17 (Debian 1:7.2+dfsg-7+deb12u16)\nCopyright (c) 2003",
    "libvirtd --version": "libvirtd (libvirt) 9.0.0\n",
    "lxc-start --version": "5.0.2\n",
    "dockerd --version": "Docker version 20.10.24+dfsg1, build 5d6db84\n",
    "containerd --version": "containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1+deb12u1\n",
    "runc --version": "runc version 1.1.5+ds1\ncommit: 1.1.5+ds1-1+deb12u1\nspec: 1.0.2-dev\ngo: go1.19.8\n",
    "restic version": "restic 0.14.0 compiled with go1.19.8 on linux/amd64\n",
    "sshfs --version": "fusermount3 version: 3.14.0\nSSHFS version 3.7.3\nFUSE library version 3.14.0\n",
    "tc": "",
    "virsh -c qemu:///system uri": "qemu:///system\n",
    "iptables -S FORWARD": "-P FORWARD DROP\n-A FORWARD -j DOCKER-USER\n",
    "iptables -S": "-P INPUT ACCEPT\n-P FORWARD DROP\n-N DOCKER-USER\n",
    "apparmor_parser": "",
}
INFO = {
    "/info": {
        "ServerVersion": "20.10.24+dfsg1",
        "Driver": "overlay2",
        "CgroupDriver": "systemd",
        "Runtimes": {"runc": {}},
        "LiveRestoreEnabled": True,
    }
}


def view(root: Path, tree: Mapping[str, str], *, euid: int = 0, tools: Tools | None = None) -> View:
    """A view of a canned host on which nothing is tried out."""
    return View(files=plant(root, tree), tools=tools or CannedTools(TOOLS, INFO), euid=euid, live=False)
