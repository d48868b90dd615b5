"""The engines' daemons: started by systemd where it is PID 1, else directly."""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import dataclass
from typing import Any

from triune.domain.errors import Failed, Invalid
from triune.host.setup.machine import Machine
from triune.host.setup.step import Say

_DOCKER_CONFIG = "/etc/docker/daemon.json"
_COMES_UP, _PAUSE = 2.0, 0.1  # seconds
DOCKER_SOCKET = "/run/docker.sock"


@dataclass(slots=True)
class Daemon:
    """One daemon: it runs when something listens on its socket. `argv` is how it is started without systemd;
    `forks` says that it then returns by itself."""

    machine: Machine
    title: str
    socket: str
    units: tuple[str, ...]
    argv: tuple[str, ...]
    log: str
    forks: bool = False
    needed: bool = True

    def gap(self) -> str | None:
        """Whether it must be started."""
        return None if self.machine.listener(self.socket) is not None else "start it"

    def fill(self, say: Say) -> None:
        """Start it and wait for its socket."""
        pid = None
        if self.machine.systemd:
            self.machine.run("systemctl", "enable", "--now", *self.units)
            hint = f"Read: journalctl -u {self.units[0]} -n 50"
        elif self.forks:
            self.machine.run(*self.argv)
            hint = f"Try it by hand: {self.argv[0]}"
        else:
            pid = self.machine.spawn(self._arguments(), self.log)
            hint = f"Read {self.log}"
        self.machine.wait(lambda: self.machine.listener(self.socket) is not None, self.title, hint, pid=pid)

    def _arguments(self) -> tuple[str, ...]:
        return self.argv


@dataclass(slots=True)
class Docker(Daemon):
    """Docker's daemon. Started by us, its containers outlive its restarts (live-restore)."""

    def _arguments(self) -> tuple[str, ...]:
        # dockerd refuses to start with an option that both its file and its command line set.
        return self.argv if "live-restore" in read_config(self.machine) else (*self.argv, "--live-restore")


def read_config(machine: Machine) -> dict[str, Any]:
    """Docker's configuration file; empty where there is none. Raises Invalid where it is not a JSON object."""
    text = machine.files.text(_DOCKER_CONFIG)
    if not text:
        return {}
    try:
        config = json.loads(text)
    except ValueError:
        config = None
    if not isinstance(config, dict):
        raise Invalid("bad_docker_config", f"{_DOCKER_CONFIG} is not a JSON object", hint=f"Mend {_DOCKER_CONFIG}.")
    return config


@dataclass(slots=True)
class LiveRestore:
    """Docker's containers outlive restarts of its daemon; set in its file, and told to a running one."""

    machine: Machine
    title: str = "Docker's live-restore"
    needed: bool = True

    def gap(self) -> str | None:
        """Whether the daemon, or its file while it does not run, has it off."""
        info = self._info()
        enabled = info.get("LiveRestoreEnabled") if isinstance(info, dict) else None
        if enabled is None:
            enabled = read_config(self.machine).get("live-restore")
        return None if enabled else f"turn it on in {_DOCKER_CONFIG}"

    def fill(self, say: Say) -> None:
        """Set it; SIGHUP makes a running daemon read it without a restart."""
        config = {**read_config(self.machine), "live-restore": True}
        self.machine.write(_DOCKER_CONFIG, json.dumps(config, indent=2) + "\n")
        pid = self._running()
        if pid is None:
            return
        os.kill(pid, signal.SIGHUP)
        self.machine.wait(
            lambda: self.gap() is None, "Docker's live-restore", "Restart Docker: systemctl restart docker", 10
        )

    def _info(self) -> Any:
        """What the daemon says of itself; one that was started a moment ago listens before it answers."""
        until = time.monotonic() + _COMES_UP  # one that hangs has taken as long for its first answer
        while True:
            info = self.machine.tools.ask(DOCKER_SOCKET, "/info")
            if info is not None or self._running() is None or time.monotonic() > until:
                return info
            time.sleep(_PAUSE)

    def _running(self) -> int | None:
        """The daemon's pid. Its file may be older than the last boot, and its socket be held by systemd."""
        files = self.machine.files
        for pid in (files.number("/run/docker.pid"), self.machine.listener(DOCKER_SOCKET)):
            if pid and files.text(f"/proc/{pid}/comm") == "dockerd":
                return pid
        return None


def daemons(machine: Machine) -> list[Daemon]:
    """The daemons in the order in which they are to start."""
    return [
        Daemon(
            machine,
            "libvirt's log daemon",
            "/run/libvirt/virtlogd-sock",
            ("virtlogd.socket",),
            ("virtlogd", "-d"),
            "/var/log/libvirt/virtlogd.log",
            forks=True,
        ),
        Daemon(
            machine,
            "libvirt's daemon",
            "/run/libvirt/libvirt-sock",
            ("libvirtd.service",),
            # A machine is off for libvirt once its process is reaped, which not every PID 1 does at once: tini does.
            ("tini", "-s", "--", "libvirtd"),
            "/var/log/libvirt/libvirtd.log",
        ),
        Docker(machine, "Docker's daemon", DOCKER_SOCKET, ("docker.service",), ("dockerd",), "/var/log/dockerd.log"),
    ]


def stop(machine: Machine, pid: int, what: str, seconds: float = 30) -> None:
    """End a process by SIGTERM and wait for its end; raises Failed ("daemon_not_down")."""
    try:
        os.kill(pid, signal.SIGTERM)
        machine.wait(lambda: machine.started(pid) is None, what, f"Try: kill {pid}", seconds)
    except ProcessLookupError:
        return
    except Failed as error:
        raise Failed("daemon_not_down", f"{what} (pid {pid}) does not end", hint=error.hint) from None
