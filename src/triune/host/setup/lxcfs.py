"""lxcfs, which shows system containers their limits in place of the host's CPUs and memory."""

from __future__ import annotations

from dataclasses import dataclass

from triune.domain.errors import Conflict
from triune.host.lxcfs import ENABLE, FOLDER, blind, users
from triune.host.setup.daemons import stop
from triune.host.setup.machine import Machine
from triune.host.setup.step import Say

_DROP_IN = "/etc/systemd/system/lxcfs.service.d/triune.conf"
# Debian's unit leaves the CPU quota out of what is shown.
_ARGV = ("/usr/bin/lxcfs", ENABLE, str(FOLDER))
_UNIT = f"# Written by triune setup.\n[Service]\nExecStart=\nExecStart={' '.join(_ARGV)}\n"
_LOG = "/var/log/lxcfs.log"


@dataclass(slots=True)
class LxcfsUnit:
    """How systemd starts it; before the package is there, whose installation starts it."""

    machine: Machine
    title: str = "lxcfs's options"
    needed: bool = False

    def gap(self) -> str | None:
        """Whether its unit has to be told. One that runs already keeps its options: see LxcfsOptions."""
        if not self.machine.systemd or self.machine.files.text(_DROP_IN) == _UNIT.strip():
            return None
        return f"show CPU limits in containers: {_DROP_IN}"

    def fill(self, say: Say) -> None:
        """Write it."""
        self.machine.write(_DROP_IN, _UNIT)
        self.machine.run("systemctl", "daemon-reload")


@dataclass(slots=True)
class Lxcfs:
    """lxcfs itself. It is not restarted here: containers that run would lose their /proc."""

    machine: Machine
    title: str = "lxcfs"
    needed: bool = False

    def gap(self) -> str | None:
        """Whether it must be started."""
        return None if self._runs() or not self.machine.files.exists("/dev/fuse") else "start it"

    def fill(self, say: Say) -> None:
        """Start it and wait for its mount."""
        self.ensure()

    def ensure(self) -> None:
        """The same, with nothing to say."""
        if self._runs():
            return
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


@dataclass(slots=True)
class LxcfsOptions:
    """An lxcfs that ran before us shows no CPU limits. It is restarted only where no container can lose its /proc."""

    machine: Machine
    title: str = "lxcfs shows CPU limits"
    needed: bool = False

    def gap(self) -> str | None:
        """Whether the one that runs lacks the option."""
        pid = blind(self.machine.files.root)
        return None if pid is None else f"restart it (process {pid}), for it was started without {ENABLE}"

    def fill(self, say: Say) -> None:
        """Restart it. Raises Conflict("lxcfs_in_use") that says what to do."""
        pid = blind(self.machine.files.root)
        if pid is None:
            return
        if found := users(self.machine.files.root):
            raise Conflict(
                "lxcfs_in_use",
                f"system containers see the host's CPUs until lxcfs restarts, and {len(found)} processes in containers "
                "use it: stop the containers, then run triune setup again (or restart the host)",
                hint="Stop each: triune stop NAME",
            )
        if self.machine.systemd:
            self.machine.run("systemctl", "restart", "lxcfs.service")
        else:
            stop(self.machine, pid, self.title)
        Lxcfs(self.machine).ensure()
