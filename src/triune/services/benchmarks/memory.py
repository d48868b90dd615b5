"""What the host pays for an instance: PSS of its processes, QEMU and monitors included, and the kernel's memory.

PSS (proc_pid_smaps(5)) counts a page that several processes map as a share for each: the sum over all processes is what
is really held. The kernel's part is what the instance's control group holds of it (memory.kmem.usage_in_bytes, or
`kernel` of memory.stat in v2); where there is no group of its own, page tables and stacks of its processes.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Set
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from triune.domain.errors import TriuneError
from triune.host import cgroup
from triune.host.beneath import Root

_PROC = Path("/proc")
_STACK = 16 * 1024
_NAME = "etc/hostname"
_LONGEST_NAME = 256


@dataclass(frozen=True, slots=True)
class Paid:
    """Bytes."""

    pss: int
    kernel: int

    @property
    def mib(self) -> float:
        """Both, in MiB."""
        return (self.pss + self.kernel) / 2**20


def processes() -> frozenset[tuple[int, int]]:
    """(PID, start time) of every process."""
    return frozenset((pid, start) for pid, (_, start) in _table().items())


def paid(names: Collection[str], before: Set[tuple[int, int]]) -> Paid | None:
    """What instances with these names cost: processes that were not there `before`. None where it can't be told.

    Processes of others that began meanwhile are left out: only those count that bear a name in their command line or
    live in a system of that name, with those between them and what was there before.
    """
    table = {pid: parent for pid, (parent, start) in _table().items() if (pid, start) not in before}
    inside = {pid for pid in table if _host_name(pid) in names}
    outside = {pid for pid in table if any(name.encode() in _command_line(pid) for name in names)} - {os.getpid()}
    return _sum(_family(table, inside | outside), inside or outside)


def paid_by(roots: Set[int], before: Set[tuple[int, int]]) -> Paid | None:
    """The same of processes and their children; page tables and stacks as the kernel's part."""
    table = {pid: parent for pid, (parent, start) in _table().items() if (pid, start) not in before}
    return _sum(_family(table, roots), frozenset())


def _sum(ours: Set[int], members: Set[int]) -> Paid | None:
    try:
        return Paid(sum(_pss(pid) for pid in ours), _kernel(ours, members)) if ours else None
    except PermissionError:
        return None


def _family(table: dict[int, int], roots: Set[int]) -> set[int]:
    """The roots, what is below them, and what is above them and new."""
    ours = set(roots)
    for root in roots:
        parent = table.get(root)
        while parent in table:
            ours.add(parent)
            parent = table[parent]
    grown = True
    while grown:
        more = {pid for pid, parent in table.items() if parent in ours} - ours
        ours |= more
        grown = bool(more)
    return ours


def _table() -> dict[int, tuple[int, int]]:
    """PID: (parent, start time) from /proc/PID/stat; the name in parentheses may hold anything."""
    found = {}
    for entry in _PROC.iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            fields = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
            found[int(entry.name)] = int(fields[1]), int(fields[19])
        except (OSError, IndexError, ValueError):
            continue
    return found


def _command_line(pid: int) -> bytes:
    try:
        return (_PROC / str(pid) / "cmdline").read_bytes()
    except OSError:
        return b""


def _host_name(pid: int) -> str:
    """What the system it lives in is called; "" on the host's own root."""
    root = _PROC / str(pid) / "root"
    try:
        if root.stat().st_ino == Path("/").stat().st_ino and root.stat().st_dev == Path("/").stat().st_dev:
            return ""
        with Root(root) as folder:
            return folder.read_bytes(_NAME, limit=_LONGEST_NAME).decode(errors="replace").strip()
    except (OSError, TriuneError, ValueError):
        return ""


def _pss(pid: int) -> int:
    try:
        text = (_PROC / str(pid) / "smaps_rollup").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("Pss:")), 0)


def _kernel(ours: Set[int], members: Set[int]) -> int:
    groups = [*_groups(ours, members)]
    if groups:
        return sum(_group_kernel(group) for group in groups)
    return sum(_tables_and_stacks(pid) for pid in ours)


def _groups(ours: Set[int], members: Set[int]) -> Iterator[cgroup.Group]:
    """Groups of memory that hold our processes and nobody else's, none of them inside another."""
    others = {path for pid, path in _paths() if pid not in ours}
    paths = {path for pid, path in _paths() if pid in members}
    tops = set()
    for path in paths:
        top = path
        for above in path.parents:
            if above == PurePosixPath("/") or any(other == above or above in other.parents for other in others):
                break
            top = above
        if top != PurePosixPath("/") and not any(other == top or top in other.parents for other in others):
            tops.add(top)
    for top in tops:
        if not any(above in tops for above in top.parents):
            mounted = cgroup.hierarchies()
            where = mounted.v1.get("memory")
            if where is not None:
                yield cgroup.Group({"memory": where / str(top).lstrip("/")}, None)
            elif mounted.v2 is not None:
                yield cgroup.Group({}, mounted.v2 / str(top).lstrip("/"))


def _paths() -> Iterator[tuple[int, PurePosixPath]]:
    """(PID, path of its group of memory)."""
    controller = "memory" if "memory" in cgroup.hierarchies().v1 else ""
    for pid in _table():
        try:
            lines = (_PROC / str(pid) / "cgroup").read_text().splitlines()
        except OSError:
            continue
        for line in lines:
            _, _, rest = line.partition(":")
            names, _, path = rest.partition(":")
            if controller in names.split(","):
                yield pid, PurePosixPath(path or "/")


def _group_kernel(group: cgroup.Group) -> int:
    match group.folder("memory"):
        case (1, folder):
            return _number(folder / "memory.kmem.usage_in_bytes")
        case (2, folder):
            lines = _read(folder / "memory.stat").splitlines()
            return next((int(line.split()[1]) for line in lines if line.startswith("kernel ")), 0)
    return 0


def _tables_and_stacks(pid: int) -> int:
    total = 0
    for line in _read(_PROC / str(pid) / "status").splitlines():
        key, _, value = line.partition(":")
        if key == "VmPTE":
            total += int(value.split()[0]) * 1024
        elif key == "Threads":
            total += int(value) * _STACK
    return total


def _number(path: Path) -> int:
    text = _read(path).strip()
    return int(text) if text.isdecimal() else 0


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
