"""The QEMU process of a domain, as the host's /proc shows it: cost, age, confinement."""

from __future__ import annotations

import contextlib
import os
import pwd
import time
from dataclasses import dataclass
from pathlib import Path

_PID_FOLDER = Path("/run/libvirt/qemu")


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """`memory`: bytes of host memory (PSS, else RSS); `started`: clock ticks after the host's boot."""

    uptime_s: float | None = None
    memory: int | None = None
    started: int | None = None


def find(uuid: str, name: str) -> int | None:
    """The process id, from libvirt's pid file, proved by the domain's UUID in its arguments; None where hidden."""
    try:
        pid = int((_PID_FOLDER / f"{name}.pid").read_text())
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (OSError, ValueError):
        return None
    return pid if uuid.encode() in arguments else None


def usage(pid: int) -> Usage:
    """What the process costs and how old it is."""
    try:
        # the second field, the command's name, may hold spaces and brackets
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        started = int(fields[19])
    except (OSError, ValueError, IndexError):
        return Usage()
    uptime = time.clock_gettime(time.CLOCK_BOOTTIME) - started / os.sysconf("SC_CLK_TCK")
    return Usage(uptime_s=max(0.0, round(uptime, 2)), memory=_memory(pid), started=started)


def _memory(pid: int) -> int | None:
    for file, key in (("smaps_rollup", "Pss:"), ("status", "VmRSS:")):
        with contextlib.suppress(OSError, ValueError, IndexError):
            for line in Path(f"/proc/{pid}/{file}").read_text().splitlines():
                if line.startswith(key):
                    return int(line.split()[1]) * 1024
    return None


def confinement(pid: int) -> dict[str, str]:
    """`qemu_user`, `seccomp` and `apparmor` of the process, as far as they can be read."""
    facts: dict[str, str] = {}
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("Uid:"):
                uid = int(line.split()[1])
                facts["qemu_user"] = str(uid)
                with contextlib.suppress(KeyError):
                    facts["qemu_user"] = pwd.getpwuid(uid).pw_name
            elif line.startswith("Seccomp:"):
                facts["seccomp"] = {"0": "off", "1": "strict", "2": "filter"}.get(line.split()[1], "unknown")
    with contextlib.suppress(OSError):
        label = Path(f"/proc/{pid}/attr/current").read_text().strip("\0\n ")
        if label:
            facts["apparmor"] = label
    return facts
