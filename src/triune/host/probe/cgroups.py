"""Control groups: the version, and which limits they can enforce."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from triune.domain.finding import Finding
from triune.host.probe.kernel import read_config
from triune.host.probe.view import Facts, View, missing, ok, warning

AREA = "cgroups"
_MOUNT = "/sys/fs/cgroup"

# What a limit needs: the controller, and the file that proves it, in version 1 and in version 2. The kernel shows
# most of these files only below the root group.
_LIMITS: Mapping[str, tuple[tuple[str, tuple[str, ...]], tuple[str, tuple[str, ...]]]] = {
    "CPU quota": (("cpu", ("cpu.cfs_quota_us",)), ("cpu", ("cpu.max",))),
    "CPU weight": (("cpu", ("cpu.shares",)), ("cpu", ("cpu.weight",))),
    "memory": (("memory", ("memory.limit_in_bytes",)), ("memory", ("memory.max",))),
    "swap": (("memory", ("memory.memsw.limit_in_bytes",)), ("memory", ("memory.swap.max",))),
    "processes": (("pids", ("pids.max",)), ("pids", ("pids.max",))),
    "CPU pinning": (("cpuset", ("cpuset.cpus",)), ("cpuset", ("cpuset.cpus",))),
    "disk bandwidth": (("blkio", ("blkio.throttle.read_bps_device",)), ("io", ("io.max",))),
    "disk operations": (("blkio", ("blkio.throttle.read_iops_device",)), ("io", ("io.max",))),
    "disk weight": (("blkio", ("blkio.weight",)), ("io", ("io.weight", "io.bfq.weight"))),
    "freezing": (("freezer", ("freezer.state",)), ("", ("cgroup.freeze",))),
}
# Kernel options that stand for the file where no group exists below the root, by version.
_BY_CONFIG: Mapping[tuple[str, int], tuple[str, ...]] = {
    ("CPU quota", 1): ("CONFIG_CFS_BANDWIDTH",),
    ("CPU quota", 2): ("CONFIG_CFS_BANDWIDTH",),
    # Version 1 shows the file at the root too, unless swap is not counted.
    ("swap", 1): ("CONFIG_MEMCG_SWAP_ENABLED",),
    # CFQ left the kernel in 5.0; since then version 1 has only BFQ's own file, which container runtimes don't ask for.
    ("disk weight", 1): ("CONFIG_CFQ_GROUP_IOSCHED",),
    ("disk weight", 2): ("CONFIG_BFQ_GROUP_IOSCHED", "CONFIG_BLK_CGROUP_IOCOST"),
}


@dataclass(frozen=True, slots=True)
class Cgroups:
    """`version` is 0 (none), 1 or 2; `hybrid` when version 1 has an empty version 2 tree beside it."""

    version: int
    controllers: frozenset[str]
    hybrid: bool = False


def parse_proc_cgroups(text: str) -> frozenset[str]:
    """The enabled controllers of /proc/cgroups: `name hierarchy groups enabled`, a version 1 list. Never raises."""
    enabled = set()
    for line in text.splitlines():
        words = line.split()
        if len(words) == 4 and not line.startswith("#") and words[3] == "1":
            enabled.add(words[0])
    return frozenset(enabled)


def read_cgroups(view: View) -> Cgroups:
    """Which version is mounted where one expects it, with which controllers."""
    unified = view.files.text(f"{_MOUNT}/cgroup.controllers")
    if unified is not None:
        return Cgroups(2, frozenset(unified.split()))
    mounted = frozenset(view.files.names(_MOUNT))
    listed = parse_proc_cgroups(view.files.text("/proc/cgroups") or "")
    controllers = frozenset(name for name in listed if name in mounted)
    hybrid = view.files.exists(f"{_MOUNT}/unified/cgroup.controllers")
    return Cgroups(1 if controllers else 0, controllers, hybrid)


def probe(view: View) -> Sequence[Finding]:
    """The version, and the limits that can or cannot be enforced."""
    groups = read_cgroups(view)
    facts: Facts = {"version": groups.version, "hybrid": groups.hybrid, "controllers": sorted(groups.controllers)}
    if groups.version == 0:
        sentence = f"No control groups are mounted below {_MOUNT}: containers cannot run."
        return [missing("cgroups.version", AREA, sentence, f"mount -t cgroup2 none {_MOUNT}", **facts)]
    return [_version(view, groups, facts), _limits(view, groups)]


def _version(view: View, groups: Cgroups, facts: Facts) -> Finding:
    if groups.version == 2:
        names = ", ".join(sorted(groups.controllers))
        return ok("cgroups.version", AREA, f"cgroup version 2 with {names}.", **facts)
    sentence = (
        "cgroup version 1: it works, but version 2 accounts memory and disk better and is what newer tools ask for."
    )
    fix = None
    if view.files.exists("/run/systemd/system") and view.files.exists("/etc/default/grub"):
        fix = "sed -i 's/^GRUB_CMDLINE_LINUX=\"/&systemd.unified_cgroup_hierarchy=1 /' /etc/default/grub && update-grub"
    return warning("cgroups.version", AREA, sentence, fix, **facts)


def _limits(view: View, groups: Cgroups) -> Finding:
    config = read_config(view)
    lacking = [limit for limit in _LIMITS if not _enforceable(view, groups, limit, config)]
    working = [limit for limit in _LIMITS if limit not in lacking]
    facts: Facts = {"enforced": working, "lacking": lacking}
    if not lacking:
        return ok("cgroups.limits", AREA, f"Limits can be enforced on {', '.join(working)}.", **facts)
    sentence = f"Limits cannot be enforced on {', '.join(lacking)}; they can on {', '.join(working) or 'nothing'}."
    tell = missing if "memory" in lacking else warning
    return tell("cgroups.limits", AREA, sentence, _mending(view, groups, lacking, config), **facts)


def _mending(view: View, groups: Cgroups, lacking: Sequence[str], config: Mapping[str, str]) -> str | None:
    """The command for the first thing lacking that has one."""
    for limit, parameter, version in (("memory", "cgroup_enable=memory", None), ("swap", "swapaccount=1", 1)):
        if limit in lacking and version in (None, groups.version):
            there = view.files.exists("/etc/default/grub")
            return (
                f"sed -i 's/^GRUB_CMDLINE_LINUX=\"/&{parameter} /' /etc/default/grub && update-grub" if there else None
            )
    bfq = config.get("CONFIG_IOSCHED_BFQ") == "m" and not view.files.exists("/sys/module/bfq")
    return "modprobe bfq" if list(lacking) == ["disk weight"] and groups.version == 2 and bfq else None


def _enforceable(view: View, groups: Cgroups, limit: str, config: Mapping[str, str]) -> bool:
    """A file proves it; where no group exists below the root, the controller and the kernel's options must do."""
    controller, proofs = _LIMITS[limit][groups.version - 1]
    if controller and controller not in groups.controllers:
        return False
    folder = _MOUNT if groups.version == 2 else f"{_MOUNT}/{controller}"
    children = [child for child in view.files.names(folder) if view.files.path(f"{folder}/{child}").is_dir()]
    places = [folder, *(f"{folder}/{child}" for child in children)]
    if any(view.files.exists(f"{place}/{proof}") for place in places for proof in proofs):
        return True
    options = _BY_CONFIG.get((limit, groups.version))
    if options and config:
        return any(config.get(option) in ("y", "m") for option in options)
    return options is None and not children
