"""Triune itself: the command on PATH, shell completion, the daemon."""

from __future__ import annotations

import sys
import threading
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import triune
from triune.domain.errors import Failed
from triune.host import rootless
from triune.host.coming import Patience, await_answer
from triune.host.setup.daemons import stop
from triune.host.setup.machine import Machine
from triune.host.setup.step import Say

COMMAND = "/usr/local/bin/triune"
UNIT = "/etc/systemd/system/triune.service"
SOCKET = "/run/triune/triune.sock"
LOG = "/var/log/triune.log"
_STOP_SECONDS = 150.0  # systemd itself waits 90 for the old one to end
_SPARE_SECONDS = 30.0
_TRIES = 3
_JOURNAL = "journalctl -u triune"
COMPLETIONS = {
    "bash": "/usr/local/share/bash-completion/completions/triune",
    "zsh": "/usr/local/share/zsh/site-functions/_triune",
    "fish": "/usr/local/share/fish/vendor_completions.d/triune.fish",
}


def own_command() -> Path:
    """The `triune` of the environment that runs us."""
    return Path(sys.executable).parent / "triune"


@dataclass(slots=True)
class CommandOnPath:
    """A link in /usr/local/bin. A program of that name that is no link is somebody's own and stays."""

    machine: Machine
    title: str = "Command triune on PATH"
    needed: bool = True

    def gap(self) -> str | None:
        """Whether the link is missing or leads elsewhere."""
        path = self.machine.files.path(COMMAND)
        if path == own_command() or (path.exists() and not path.is_symlink()):
            return None
        if path.is_symlink() and path.readlink() == own_command():
            return None
        return f"link {COMMAND} to {own_command()}"

    def fill(self, say: Say) -> None:
        """Make the link."""
        self.machine.link(COMMAND, own_command())


@dataclass(slots=True)
class Completion:
    """Completion of commands and names in bash, zsh and fish, for every user."""

    machine: Machine
    title: str = "Shell completion"
    needed: bool = False

    def _lacking(self) -> list[str]:
        return [shell for shell, path in COMPLETIONS.items() if not self.machine.files.exists(path)]

    def gap(self) -> str | None:
        """The shells that lack it."""
        lacking = self._lacking()
        return f"write it for {', '.join(lacking)}" if lacking else None

    def fill(self, say: Say) -> None:
        """Let the command write its own scripts."""
        for shell in self._lacking():
            script = self.machine.run(str(own_command()), "completion", shell).text
            self.machine.write(COMPLETIONS[shell], script)


@dataclass(slots=True)
class TriuneDaemon:
    """The daemon: there, and running the code that is installed now."""

    machine: Machine
    title: str = "Triune's daemon"
    needed: bool = True

    def gap(self) -> str | None:
        """Whether its unit must be written, or it must be started or restarted."""
        if self.machine.systemd and self.machine.files.text(UNIT) != unit().rstrip("\n"):
            return f"write {UNIT} and start it"
        pid = self.machine.listener(SOCKET)
        if pid is None:
            return "start it"
        return "restart it, for its code or its engines have changed" if self._outdated(pid) else None

    def _outdated(self, pid: int) -> bool:
        started = self.machine.started(pid)
        newest = max((path.stat().st_mtime for path in Path(triune.__file__).parent.rglob("*.py")), default=0.0)
        # It looks for the rootless engine when it starts.
        made = self.machine.files.path(str(rootless.PLACE.mark))
        newest = max(newest, made.stat().st_mtime if made.exists() else 0.0)
        return started is not None and newest > started + 1

    def fill(self, say: Say) -> None:
        """Instances and network go on while it restarts."""
        if self.machine.systemd:
            self.machine.write(UNIT, unit())
            self.machine.run("systemctl", "daemon-reload")
            self.machine.run("systemctl", "enable", "triune.service")
            self.machine.run("systemctl", "restart", "triune.service", timeout=_STOP_SECONDS)
            self._wait(say)
        else:
            self._start_directly(say)

    def _start_directly(self, say: Say) -> None:
        running = self.machine.listener(SOCKET)
        if running is not None:
            stop(self.machine, running, self.title)
        patience = Patience()
        teller = threading.Timer(patience.told, say, ("do", f"{self.title}: {patience.waiting}; its log is {LOG}"))
        teller.start()
        try:
            self.machine.run(str(own_command()), "serve", "--detach", timeout=patience.most + _SPARE_SECONDS)
        finally:
            teller.cancel()

    def _wait(self, say: Say) -> None:
        """Until the one that systemd has started answers. Raises Failed("daemon_not_up")."""
        why = await_answer(
            lambda: self.machine.listener(SOCKET) is not None,
            self._spent,
            lambda text: say("do", f"{self.title}: {text}; its log: {_JOURNAL}"),
        )
        if why:
            raise Failed("daemon_not_up", f"{self.title} {why}", hint=f"Read: {_JOURNAL} -n 50")

    def _spent(self) -> float | None:
        """Of the process that systemd has started, with those that it started again; None once it has given up."""
        shown = self.machine.run("systemctl", "show", "--property=MainPID,ActiveState,NRestarts", "triune.service").text
        told = dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)
        if told.get("ActiveState") in ("failed", "inactive") or int(told.get("NRestarts") or 0) >= _TRIES:
            return None
        return self.machine.spent(int(told.get("MainPID") or 0)) or 0.0


def unit() -> str:
    """The systemd unit, as packaged."""
    return resources.files("triune").joinpath("data", "triune.service").read_text()
