"""What instances really cost the host: the proportional memory of all processes they brought, and the kernel's own.

A process is an instance's where the instance's name, or the id that its control group is called by, is in its control
group, its command or its HOSTNAME: that finds what is inside, and its guardians outside (monitor, shim, emulator).
Where no control group is its own, page tables and stacks are taken for the kernel's part.
PSS shares each page out among those who map it (proc_pid_smaps_rollup), so sums over several instances count a shared
page once.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

from triune.host import cgroup

_PROC = Path("/proc")
_ID = re.compile(r"[0-9a-f]{32,64}")
_WORD = re.compile(r"[\w-]+")
_STACK = 16 * 1024
_MOST_FDS = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """Of some instances together: bytes of proportional (`pss`) and kernel memory, and counts of what has limits."""

    pss: int = 0
    kernel: int = 0
    processes: int = 0
    threads: int = 0
    files: int = 0
    inotify: int = 0

    @property
    def memory(self) -> int:
        """PSS and kernel memory."""
        return self.pss + self.kernel


@dataclass(frozen=True, slots=True)
class _Seen:
    pid: int
    text: str
    groups: str


def measure(names: Iterable[str], proc: Path = _PROC) -> Footprint:
    """The footprint of the running instances of these names. Needs root; what ends meanwhile is left out."""
    words = set(names)
    seen = list(_processes(proc))
    mine = [one for one in seen if _has(one.text, words) or _has(one.groups, words)]
    words |= {found for one in mine for found in _ID.findall(one.groups)}
    return _sum(proc, [one.pid for one in seen if _has(one.text, words) or _has(one.groups, words)], words)


def _processes(proc: Path) -> Iterable[_Seen]:
    for folder in proc.iterdir():
        if not folder.name.isdecimal():
            continue
        with contextlib.suppress(OSError):
            command = (folder / "cmdline").read_bytes()
            if not command:
                continue  # a kernel thread, or one that has ended
            groups = (folder / "cgroup").read_text()
            yield _Seen(int(folder.name), _hostname(folder) + "\0" + command.decode(errors="replace"), groups)


def _hostname(folder: Path) -> str:
    with contextlib.suppress(OSError):
        for pair in (folder / "environ").read_bytes().split(b"\0"):
            if pair.startswith(b"HOSTNAME="):
                return pair[9:].decode(errors="replace")
    return ""


def _has(text: str, words: Set[str]) -> bool:
    """Whether a name, or an id, stands in it; an id also as a part of a word (docker-ID.scope)."""
    return not (words.isdisjoint(_WORD.findall(text)) and words.isdisjoint(_ID.findall(text)))


def _sum(proc: Path, pids: Sequence[int], words: Set[str]) -> Footprint:
    pss = threads = files = inotify = 0
    kernel: dict[Path | None, int] = {}
    for pid in pids:
        folder = proc / str(pid)
        with contextlib.suppress(OSError):
            pss += _field(folder / "smaps_rollup", "Pss")
            own = _field(folder / "status", "Threads", 1)
            threads += own
            group = _group(pid, words)
            kernel[group] = kernel.get(group, 0) + _field(folder / "status", "VmPTE") + own * _STACK
            links = _links(folder / "fd")
            files += len(links)
            inotify += sum(link == "anon_inode:inotify" for link in links)
    return Footprint(
        pss=pss,
        kernel=sum((_charged(group) if group else 0) or estimate for group, estimate in kernel.items()),
        processes=len(pids),
        threads=threads,
        files=files,
        inotify=inotify,
    )


def _field(path: Path, name: str, scale: int = 1024) -> int:
    for line in path.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * scale
    return 0


def _links(folder: Path) -> list[str]:
    found = []
    for entry in list(os.scandir(folder))[:_MOST_FDS]:
        with contextlib.suppress(OSError):
            found.append(str(Path(entry.path).readlink()))
    return found


def _group(pid: int, words: Set[str]) -> Path | None:
    """The outermost control group of memory around a process that is called by one of these words."""
    with contextlib.suppress(OSError):
        found = cgroup.group_of(pid).folder("memory")
        if found is not None:
            places = (*reversed(found[1].parents), found[1])
            return next((place for place in places if _has(place.name, words)), None)
    return None


def _charged(folder: Path) -> int:
    """v2: `kernel` without slab that can go at once; v1: all of it."""
    with contextlib.suppress(OSError, ValueError):
        return int((folder / "memory.kmem.usage_in_bytes").read_text())
    table: dict[str, int] = {}
    with contextlib.suppress(OSError, ValueError):
        for line in (folder / "memory.stat").read_text().splitlines():
            key, _, value = line.partition(" ")
            table[key] = int(value)
    return max(0, table.get("kernel", 0) - table.get("slab_reclaimable", 0))
