"""Limits of a host that many instances run into before memory does, and what of them is taken already.

Sources: proc_sys_kernel(5), proc_sys_fs(5), the kernel's Documentation/admin-guide/sysctl and networking/ip-sysctl;
a Linux bridge has at most 1,023 ports (BR_MAX_PORTS in net/bridge/br_private.h, port 0 is not used).
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

BRIDGE_PORTS = 1023


@dataclass(frozen=True, slots=True, kw_only=True)
class Ceiling:
    """`most` of something, `taken` now; `what` for people, `raised` how to have more ("" where nothing raises it)."""

    name: str
    what: str
    most: int
    taken: int = 0
    raised: str = ""

    @property
    def left(self) -> int:
        """What can still be had."""
        return max(0, self.most - self.taken)


def ceilings(root: Path = Path("/")) -> tuple[Ceiling, ...]:
    """Those that this host tells."""
    proc = root / "proc"
    kernel, fs = proc / "sys/kernel", proc / "sys/fs"
    threads = _number(proc / "loadavg", lambda text: int(text.split()[3].partition("/")[2]))
    found = [
        _ceiling("pids", "process numbers", kernel / "pid_max", threads, "sysctl kernel.pid_max=4194304"),
        _ceiling("threads", "threads", kernel / "threads-max", threads, "sysctl kernel.threads-max=N"),
        _ceiling(
            "files",
            "open files",
            fs / "file-max",
            _number(fs / "file-nr", lambda text: int(text.split()[0])),
            "sysctl fs.file-max=N",
        ),
        _ceiling(
            "inotify",
            "inotify instances",
            fs / "inotify/max_user_instances",
            0,
            "sysctl fs.inotify.max_user_instances=8192",
        ),
        _ceiling(
            "arp",
            "neighbours (ARP entries)",
            proc / "sys/net/ipv4/neigh/default/gc_thresh3",
            max(0, _number(proc / "net/arp", lambda text: len(text.splitlines()) - 1)),
            "sysctl net.ipv4.neigh.default.gc_thresh3=8192",
        ),
        Ceiling(
            name="bridge_ports",
            what="ports of one bridge",
            most=BRIDGE_PORTS,
            raised="a second network (triune network)",
        ),
    ]
    return tuple(ceiling for ceiling in found if ceiling.most > 0)


def _ceiling(name: str, what: str, path: Path, taken: int, raised: str) -> Ceiling:
    return Ceiling(name=name, what=what, most=_number(path, int), taken=taken, raised=raised)


def _number(path: Path, read: object) -> int:
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int(read(path.read_text()))  # type: ignore[operator]
    return 0


def shared_pages(root: Path = Path("/")) -> dict[str, int | bool]:
    """Kernel same-page merging: whether it runs, and bytes it saves now (Documentation/admin-guide/mm/ksm)."""
    folder = root / "sys/kernel/mm/ksm"
    page = 4096
    return {
        "running": _number(folder / "run", int) == 1,
        "saved_bytes": _number(folder / "pages_sharing", int) * page,
    }
