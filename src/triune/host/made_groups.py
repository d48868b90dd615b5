"""Control groups that we make ourselves, for containers whose engine may not make any (it is not root).

As Docker's own cgroupfs driver does it: a folder of ours at the top of each hierarchy, and in it one for each container
(cgroups(7)). What is put into one takes along all that it starts from then on.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from triune.domain.errors import Failed
from triune.host.cgroup import Hierarchies, hierarchies

PARENT = "triune-rootless"
_V1 = ("cpu", "cpuacct", "cpuset", "memory", "pids", "blkio")
_COUNT = "pids"
_V2 = ("cpu", "cpuset", "memory", "io")
_SECONDS = 2.0


def hold(name: str, keeper: int, init: int, mounted: Hierarchies | None = None) -> None:
    """Put a container into the group of that name, made if need be; repeating is cheap.

    `keeper` is the process that started its `init` and starts commands in it, and goes into the group too, so that they
    are held from their beginning: but for the number of processes, or nobody could end a container that is full.
    Raises Failed("no_group"); ProcessLookupError when one of them is gone.
    """
    folders = list(_folders(mounted or hierarchies()))
    for parent in folders:
        try:
            _make(parent / name)
        except OSError as error:
            raise Failed(
                "no_group", f"the control group {parent / name} could not be made: {error.strerror}", hint="See: dmesg"
            ) from error
    inside = _namespace(init)
    if inside is None:
        raise ProcessLookupError(init)
    outer = [folder for folder in folders if folder.parent.name != _COUNT]
    deadline = time.monotonic() + _SECONDS
    # What is started meanwhile by one that has not been moved yet stays behind: once more, until none is.
    while left := list(_outside(name, keeper, inside, folders, outer)):
        for pid, wanted in left:
            for folder in wanted:
                with suppress(ProcessLookupError):
                    (folder / name / "cgroup.procs").write_text(str(pid))
        if time.monotonic() > deadline:
            raise Failed("no_group", f"processes of {name[:12]} can't be held in a control group", hint="See: dmesg")


def _outside(
    name: str, keeper: int, inside: str, folders: list[Path], outer: list[Path]
) -> Iterator[tuple[int, list[Path]]]:
    """Processes that are not yet where they belong, and where that is."""
    for pid in family(keeper):
        wanted = folders if _namespace(pid) == inside else outer
        if not _held(pid, name, len(wanted)):
            yield pid, wanted


def _namespace(pid: int) -> str | None:
    """The process ids' namespace; None for one that has ended."""
    try:
        return str(Path(f"/proc/{pid}/ns/pid").readlink())
    except OSError:
        return None


def sweep(mounted: Hierarchies | None = None) -> None:
    """Remove groups in which nothing runs any more."""
    for parent in _folders(mounted or hierarchies()):
        for folder in parent.glob("*/"):
            with suppress(OSError):  # in use
                folder.rmdir()


def family(first: int) -> list[int]:
    """A process and its descendants. Raises ProcessLookupError when it is gone."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            # The name in parentheses may hold blanks; after it come the state and the parent (proc(5)).
            state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
            if state not in "ZX":
                children.setdefault(int(parent), []).append(int(folder.name))
    if not Path(f"/proc/{first}").exists():
        raise ProcessLookupError(first)
    found = [first]
    for pid in found:
        found += children.get(pid, ())
    return found


def parent_of(pid: int) -> int:
    """Raises ProcessLookupError."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError as error:
        raise ProcessLookupError(pid) from error


def _folders(mounted: Hierarchies) -> Iterator[Path]:
    """Where our groups are in each hierarchy; two controllers may share one."""
    yield from dict.fromkeys(mounted.v1[controller] / PARENT for controller in _V1 if controller in mounted.v1)
    if mounted.v2 is not None and mounted.v2_controllers & set(_V2):
        yield mounted.v2 / PARENT


def _make(folder: Path) -> None:
    for one in (folder.parent, folder):
        one.mkdir(mode=0o755, exist_ok=True)
        if (one.parent / "cgroup.controllers").exists():
            _let_down(one.parent)
        else:
            _fill_cpuset(one)


def _let_down(folder: Path) -> None:
    """In v2 each level says which controllers the next one has."""
    for controller in _V2:
        with suppress(OSError):  # one that this host lacks
            (folder / "cgroup.subtree_control").write_text(f"+{controller}")


def _fill_cpuset(folder: Path) -> None:
    """A new set of CPUs is empty in v1, and takes no process so."""
    for file in ("cpuset.cpus", "cpuset.mems"):
        if (folder / file).exists() and not (folder / file).read_text().strip():
            (folder / file).write_text((folder.parent / file).read_text())


def _held(pid: int, name: str, hierarchies_used: int) -> bool:
    """Whether a process is in the group in each hierarchy, or has ended."""
    try:
        lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    except OSError:
        return True
    return sum(line.endswith(f":/{PARENT}/{name}") for line in lines) >= hierarchies_used
