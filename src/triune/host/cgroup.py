"""Reading control groups, v1, v2 and both at once (cgroups(7)): each controller lives in exactly one of them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

_MOUNTINFO = Path("/proc/self/mountinfo")
# v1 spells "no limit" as the largest multiple of the page size a signed word holds.
V1_UNLIMITED = 1 << 60


@dataclass(frozen=True, slots=True)
class Hierarchies:
    """Where controllers are mounted: `v1` by controller, `v2` (or None) with the controllers it has."""

    v1: Mapping[str, Path]
    v2: Path | None
    v2_controllers: frozenset[str]

    def version(self, controller: str) -> int | None:
        """1 or 2, or None where the kernel or host lacks the controller."""
        if controller in self.v1:
            return 1
        return 2 if controller in self.v2_controllers else None


def read_hierarchies(mountinfo: str, read: Callable[[Path], str]) -> Hierarchies:
    """Parse /proc/self/mountinfo (proc_pid_mountinfo(5)); `read` returns the text of a file."""
    v1: dict[str, Path] = {}
    v2: Path | None = None
    for line in mountinfo.splitlines():
        before, dash, after = line.partition(" - ")
        fields, kinds = before.split(), after.split()
        if not dash or len(fields) < 5 or len(kinds) < 3:
            continue
        where = Path(fields[4].encode().decode("unicode_escape"))
        if kinds[0] == "cgroup2" and v2 is None:
            v2 = where
        elif kinds[0] == "cgroup":
            for controller in kinds[2].split(","):
                v1.setdefault(controller, where)
    try:
        controllers = read(v2 / "cgroup.controllers").split() if v2 else []
    except OSError:
        controllers = []
    return Hierarchies(v1, v2, frozenset(controllers))


@functools.cache
def hierarchies() -> Hierarchies:
    """Those of this host; mounted at boot, so read once."""
    return read_hierarchies(_MOUNTINFO.read_text(), Path.read_text)


@dataclass(frozen=True, slots=True)
class Group:
    """One group: its folder for each v1 controller, and in v2."""

    v1: Mapping[str, Path]
    v2: Path | None

    def folder(self, controller: str) -> tuple[int, Path] | None:
        """(version, folder) of a controller."""
        if controller in self.v1:
            return 1, self.v1[controller]
        return None if self.v2 is None else (2, self.v2)

    def cpu_seconds(self) -> float:
        """CPU time used by all processes, ever."""
        match self.folder("cpuacct"):
            case (1, folder):
                return _number(folder / "cpuacct.usage") / 1e9
            case (2, folder):
                return _table(folder / "cpu.stat").get("usage_usec", 0) / 1e6
        return 0.0

    def memory_bytes(self) -> int:
        """Memory in use without the page cache that can be dropped at once (inactive file pages), as Docker counts."""
        match self.folder("memory"):
            case (1, folder):
                used = _number(folder / "memory.usage_in_bytes")
                idle = _table(folder / "memory.stat").get("total_inactive_file", 0)
            case (2, folder):
                used = _number(folder / "memory.current")
                idle = _table(folder / "memory.stat").get("inactive_file", 0)
            case _:
                return 0
        return max(0, used - idle)

    def memory_kept(self) -> int:
        """Memory in use that the kernel can't get back by dropping page cache."""
        match self.folder("memory"):
            case (1, folder):
                used, prefix = _number(folder / "memory.usage_in_bytes"), "total_"
            case (2, folder):
                used, prefix = _number(folder / "memory.current"), ""
            case _:
                return 0
        table = _table(folder / "memory.stat")
        return max(0, used - sum(table.get(f"{prefix}{kind}_file", 0) for kind in ("inactive", "active")))

    def memory_limit(self) -> int | None:
        """The limit in bytes, or None."""
        match self.folder("memory"):
            case (1, folder):
                limit = _number(folder / "memory.limit_in_bytes")
            case (2, folder):
                limit = _number(folder / "memory.max")
            case _:
                return None
        return limit if 0 < limit < V1_UNLIMITED else None

    def pids(self) -> int | None:
        """Processes and threads now."""
        match self.folder("pids"):
            case (_, folder) if (folder / "pids.current").exists():
                return _number(folder / "pids.current")
        return None

    def disk_bytes(self) -> tuple[int, int]:
        """Bytes read from and written to block devices."""
        match self.folder("blkio"):
            case (1, folder):
                return (
                    _v1_io(_text(folder / "blkio.throttle.io_service_bytes_recursive"))
                    or _v1_io(_text(folder / "blkio.throttle.io_service_bytes"))
                    or (0, 0)
                )
            case (2, folder):
                return _v2_io(_text(folder / "io.stat"))
        return 0, 0


def group_of(pid: int, below: str = "") -> Group:
    """The group of a process. With `below` (a prefix of a folder's name) the nearest such folder above it instead.

    A system in a container makes groups of its own; `below="lxc.payload."` finds the container's. Raises OSError when
    the process is gone.
    """
    return parse_group(Path(f"/proc/{pid}/cgroup").read_text(), hierarchies(), below)


def parse_group(text: str, mounted: Hierarchies, below: str = "") -> Group:
    """Parse /proc/PID/cgroup: `number:controllers:path`, with no controllers for v2."""
    v1: dict[str, Path] = {}
    v2: Path | None = None
    for line in text.splitlines():
        _, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        inside = _cut(path, below).lstrip("/")
        if not names:
            v2 = mounted.v2 / inside if mounted.v2 else None
            continue
        for controller in names.split(","):
            if controller in mounted.v1:
                v1[controller] = mounted.v1[controller] / inside
    return Group(v1, v2)


def _cut(path: str, below: str) -> str:
    parts = path.split("/")
    for index, part in enumerate(parts):
        if below and part.startswith(below):
            return "/".join(parts[: index + 1])
    return path


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _number(path: Path) -> int:
    text = _text(path).strip()
    return int(text) if text.isdecimal() else 0


def _table(path: Path) -> dict[str, int]:
    """Lines `key value`."""
    pairs = (line.split() for line in _text(path).splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdecimal()}


def _v1_io(text: str) -> tuple[int, int] | None:
    """Lines `8:0 Read 4096`; None when the file has no such line."""
    totals = {"Read": 0, "Write": 0}
    found = False
    for line in text.splitlines():
        words = line.split()
        if len(words) == 3 and words[1] in totals and words[2].isdecimal():
            totals[words[1]] += int(words[2])
            found = True
    return (totals["Read"], totals["Write"]) if found else None


def _v2_io(text: str) -> tuple[int, int]:
    """Lines `8:0 rbytes=4096 wbytes=0 …`."""
    totals = {"rbytes": 0, "wbytes": 0}
    for word in text.split():
        key, _, value = word.partition("=")
        if key in totals and value.isdecimal():
            totals[key] += int(value)
    return totals["rbytes"], totals["wbytes"]
