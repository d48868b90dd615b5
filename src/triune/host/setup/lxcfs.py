"""lxcfs, which shows system containers their limits in place of the host's CPUs and memory."""

from __future__ import annotations

from dataclasses import dataclass

from triune.host.lxcfs import FOLDER
from triune.host.setup.machine import Machine
from triune.host.setup.step import Say

_DROP_IN = "/etc/systemd/system/lxcfs.service.d/triune.conf"
# Debian's unit leaves the CPU quota out of what is shown.
_ARGV = ("/usr/bin/lxcfs", "--enable-cfs", str(FOLDER))
_UNIT = f"# Written by triune setup.\n[Service]\nExecStart=\nExecStart={' '.join(_ARGV)}\n"
_LOG = "/var/log/lxcfs.log"


@dataclass(slots=True)
class LxcfsUnit:
    """How systemd starts it; before the package is there, whose installation starts it."""

    machine: Machine
    title: str = "lxcfs's options"
    needed: bool = False

    def gap(self) -> str | None:
        """Whether its unit has to be told. One that runs already keeps its options until the host's next start."""
        if not self.machine.systemd or self.machine.files.text(_DROP_IN) == _UNIT.strip():
            return None
        return f"show CPU limits in containers: {_DROP_IN}"

    def fill(self, say: Say) -> None:
        """Write it."""
        self.machine.write(_DROP_IN, _UNIT)
        self.machine.run("systemctl", "daemon-reload")


@dataclass(slots=True)
class Lxcfs:
    """lxcfs itself. It is never restarted: containers that run would lose their /proc."""

    machine: Machine
    title: str = "lxcfs"
    needed: bool = False

    def gap(self) -> str | None:
        """Whether it must be started."""
        return None if self._runs() or not self.machine.files.exists("/dev/fuse") else "start it"

    def fill(self, say: Say) -> None:
        """Start it and wait for its mount."""
        pid = None
        if self._mounted():  # what an lxcfs that was killed leaves: nothing can be mounted over it
            self.machine.run("umount", "--lazy", str(FOLDER))
        if self.machine.systemd:
            self.machine.run("systemctl", "enable", "--now", "lxcfs.service")
        else:
            pid = self.machine.spawn(_ARGV, _LOG)
        hint = "Read: journalctl -u lxcfs" if self.machine.systemd else f"Read {_LOG}"
        self.machine.wait(self._runs, self.title, hint, 10, pid=pid)

    def _runs(self) -> bool:
        return self.machine.files.text(f"{FOLDER}/proc/uptime") is not None

    def _mounted(self) -> bool:
        return any(f" {FOLDER} " in line for line in self.machine.files.lines("/proc/self/mountinfo"))
