"""How the kernel confines a process, read from /proc (proc_pid_status(5), user_namespaces(7))."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from triune.domain import capabilities
from triune.domain.isolation import IdRange

_NAMESPACES = ("pid", "net", "ipc", "uts", "cgroup", "mnt", "user")
_OURS = Path("/proc/self/ns")


@dataclass(frozen=True, slots=True, kw_only=True)
class Confinement:
    """Of one process. `shared` are the kinds of namespace in which it is with the host's init."""

    capabilities: frozenset[str]
    no_new_privileges: bool
    filtered: bool
    label: str
    id_map: tuple[IdRange, ...]
    shared: tuple[str, ...]

    @property
    def mapped(self) -> bool:
        """Whether its root is nobody of consequence on the host."""
        return bool(self.id_map) and all(line.outside != 0 for line in self.id_map)


def of(pid: int) -> Confinement:
    """Read it. Raises OSError when the process is gone."""
    folder = Path(f"/proc/{pid}")
    status = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines() if ":" in line)
    lines = [line.split() for line in (folder / "uid_map").read_text().splitlines()]
    return Confinement(
        capabilities=capabilities.of_mask(int(status["CapBnd"], 16), last_capability()),
        no_new_privileges=status.get("NoNewPrivs", "0").strip() == "1",
        filtered=status.get("Seccomp", "0").strip() == "2",
        label=label(folder),
        id_map=tuple(IdRange(*(int(number) for number in line)) for line in lines if len(line) == 3),
        shared=tuple(kind for kind in _NAMESPACES if _same(folder / "ns" / kind, _OURS / kind)),
    )


def last_capability() -> int:
    """The highest capability that this kernel knows."""
    return int(Path("/proc/sys/kernel/cap_last_cap").read_text())


def label(folder: Path) -> str:
    """The label of AppArmor or SELinux on a process; "" for none."""
    for file in ("attr/apparmor/current", "attr/current"):
        try:
            text = (folder / file).read_text().strip("\0\n ")
        except OSError:
            continue
        if text and not text.startswith("unconfined"):
            return text
    return ""


def labels_available() -> bool:
    """Whether this kernel has AppArmor or SELinux switched on."""
    try:
        if Path("/sys/module/apparmor/parameters/enabled").read_text().strip() == "Y":
            return True
    except OSError:
        pass
    return Path("/sys/fs/selinux/enforce").exists()


def _same(one: Path, other: Path) -> bool:
    try:
        return one.readlink() == other.readlink()
    except OSError:
        return False
