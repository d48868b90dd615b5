"""A second Docker daemon that is not root: its packages, its user, its start, and its end.

It is started by the script that Docker itself ships for that (https://docs.docker.com/engine/security/rootless/). Its
firewall, its default bridge and routing are off: its network is Triune's bridge, joined from the host's side.
"""

from __future__ import annotations

import os
import pwd
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from triune.domain.errors import Conflict, Failed, Unsupported
from triune.host.beneath import remove_tree
from triune.host.rootless import PLACE, Place
from triune.host.setup.accounts import free_range
from triune.host.setup.daemons import stop
from triune.host.setup.machine import Machine
from triune.host.setup.packages import install
from triune.host.setup.step import Say

_IDS = 65_536
_SUBIDS = ("/etc/subuid", "/etc/subgid")
_SECONDS = 60.0
_END_SECONDS = 20.0
# A program, and the package that has it.
_PROGRAMS = {"rootlesskit": "rootlesskit", "slirp4netns": "slirp4netns", "newuidmap": "uidmap"}
# Where Debian's and Ubuntu's docker.io has the script; Docker's own packages have it on PATH.
_SCRIPT = "dockerd-rootless.sh"
_CONTRIB = f"/usr/share/docker.io/contrib/{_SCRIPT}"
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_OPTIONS = ("--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-masq=false", "--ip-forward=false")


def environment(place: Place) -> dict[str, str]:
    """What the script reads."""
    return {
        "HOME": str(place.data),
        "XDG_RUNTIME_DIR": str(place.runtime),
        "PATH": _PATH,
        # Newer scripts would leave the daemon itself in the host's network namespace.
        "DOCKERD_ROOTLESS_ROOTLESSKIT_DETACH_NETNS": "false",
        # Else in /tmp, where it stays when the daemon is killed; of two such options the last counts.
        "DOCKERD_ROOTLESS_ROOTLESSKIT_FLAGS": f"--state-dir={place.runtime / 'rootlesskit'}",
    }


def command(program: str, place: Place) -> tuple[str, ...]:
    """The script and its options, for the user to run."""
    return (program, f"--data-root={place.data / 'data'}", *_OPTIONS)


def script(machine: Machine) -> str:
    """Docker's own script. Raises Unsupported("tool_missing")."""
    found = machine.tools.find(_SCRIPT) or (_CONTRIB if machine.files.exists(_CONTRIB) else None)
    if found is None:
        raise Unsupported(
            "tool_missing",
            f"this host's Docker came without {_SCRIPT}",
            hint="Docker's own packages have it apart: apt-get install docker-ce-rootless-extras",
        )
    return found


def unit(program: str, place: Place = PLACE) -> str:
    """The systemd unit."""
    variables = "".join(f"Environment={key}={value}\n" for key, value in environment(place).items())
    return (
        "# Written by triune setup.\n"
        "[Unit]\nDescription=Docker daemon without root, for Triune\nAfter=network.target\n\n"
        f"[Service]\nUser={place.user}\nRuntimeDirectory={place.runtime.name}\nRuntimeDirectoryMode=0700\n{variables}"
        # What one that was killed has left, it could not reach.
        f"ExecStartPre=-+/usr/bin/pkill --signal KILL --euid {place.user}\n"
        f"ExecStart={' '.join(command(program, place))}\n"
        "Restart=always\nRestartSec=2\nKillMode=mixed\nLimitNOFILE=infinity\nLimitNPROC=infinity\nTasksMax=infinity\n"
        "Delegate=yes\n\n[Install]\nWantedBy=multi-user.target\n"
    )


@dataclass(slots=True)
class RootlessPackages:
    """What Docker needs to run without root."""

    machine: Machine
    title: str = "Packages of the rootless Docker daemon"
    needed: bool = True

    def _lacking(self) -> list[str]:
        return [package for program, package in _PROGRAMS.items() if self.machine.tools.find(program) is None]

    def gap(self) -> str | None:
        """The packages to install, by name."""
        lacking = self._lacking()
        return f"install {' '.join(lacking)}" if lacking else None

    def fill(self, say: Say) -> None:
        """Install them."""
        install(self.machine, self._lacking(), say)


@dataclass(slots=True)
class RootlessUser:
    """The system user it runs as, with ids of its own for its containers."""

    machine: Machine
    place: Place = PLACE
    title: str = "User of the rootless Docker daemon"
    needed: bool = True

    def _exists(self) -> bool:
        return any(line.startswith(f"{self.place.user}:") for line in self.machine.files.lines("/etc/passwd"))

    def _without_ids(self) -> list[str]:
        return [
            name
            for name in _SUBIDS
            if not any(line.startswith(f"{self.place.user}:") for line in self.machine.files.lines(name))
        ]

    def gap(self) -> str | None:
        """Whether it, its ids or its folder are to be made."""
        if not self._exists():
            return f"create it, with {_IDS} subordinate ids"
        if self._without_ids():
            return f"give it {_IDS} ids in {' and '.join(self._without_ids())}"
        return None if self.machine.files.exists(str(self.place.mark)) else f"make {self.place.home}"

    def fill(self, say: Say) -> None:
        """Create what is missing; the folder last, since by it the rest is known to be there."""
        if not self._exists():
            shell = ("--shell", "/usr/sbin/nologin")
            folder = ("--home-dir", str(self.place.data), "--no-create-home")
            self.machine.run("useradd", "--system", "--user-group", *folder, *shell, self.place.user)
        if without := self._without_ids():
            self._grant(without)
        _give(self.machine, self.place.data, self.place.user)
        self.machine.write(str(self.place.mark), "Made by triune setup; triune uninstall --data removes all of it.\n")

    def _grant(self, files: list[str]) -> None:
        fresh = free_range([self.machine.files.text(name) or "" for name in _SUBIDS])
        if fresh is None:
            raise Failed("no_ids", f"no range of {_IDS} ids is free for {self.place.user}", hint="Look at /etc/subuid.")
        for name in files:
            lines = self.machine.files.lines(name)
            self.machine.write(name, "\n".join([*lines, f"{self.place.user}:{fresh[0]}:{_IDS}"]) + "\n")


def _give(machine: Machine, folder: Path, user: str) -> None:
    path = machine.files.path(str(folder))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.mkdir(mode=0o700, exist_ok=True)
    entry = pwd.getpwnam(user)
    os.chown(path, entry.pw_uid, entry.pw_gid)


@dataclass(slots=True)
class RootlessDaemon:
    """The daemon: by systemd where it is PID 1, else directly."""

    machine: Machine
    place: Place = PLACE
    title: str = "Rootless Docker daemon"
    needed: bool = True

    def gap(self) -> str | None:
        """Whether its unit must be written, or it must be started."""
        written = self.machine.files.text(self.place.unit)
        if self.machine.systemd and written != unit(script(self.machine), self.place).rstrip("\n"):
            return f"write {self.place.unit} and start it"
        return None if self.machine.listener(str(self.place.socket)) is not None else "start it"

    def fill(self, say: Say) -> None:
        """Start it and wait for its socket."""
        program, pid = script(self.machine), None
        if self.machine.systemd:
            self.machine.write(self.place.unit, unit(program, self.place))
            self.machine.run("systemctl", "daemon-reload")
            self.machine.run("systemctl", "enable", self.place.service)
            self.machine.run("systemctl", "restart", self.place.service)
            hint = f"Read: journalctl -u {self.place.user} -n 50"
        else:
            end_leftovers(self.place)
            # Its own containerd is looked for by a number in a file, which may be another's by now, or a zombie's.
            remove_tree(self.machine.files.path(str(self.place.runtime)))
            _give(self.machine, self.place.runtime, self.place.user)
            pid = self.machine.spawn(direct(program, self.place), self.place.log)
            hint = f"Read {self.place.log}"
        # It listens before it has started what it needs.
        self.machine.wait(self._answers, self.title, hint, _SECONDS, pid=pid)

    def _answers(self) -> bool:
        return self.machine.tools.ask(str(self.place.socket), "/version") is not None


def direct(program: str, place: Place = PLACE) -> tuple[str, ...]:
    """How it is started without systemd."""
    user = ("setpriv", f"--reuid={place.user}", f"--regid={place.user}", "--clear-groups", "--")
    variables = (f"{key}={value}" for key, value in environment(place).items())
    return (*user, "env", "-i", *variables, *command(program, place))


def end_leftovers(place: Place) -> None:
    """Kill what a daemon that was killed has left: its namespaces are nobody's, and a new one can't reach into them.

    The user is for this alone, so whatever runs as it, or as one of its subordinate ids, is meant. Raises
    Failed("processes_left").
    """
    deadline = time.monotonic() + _END_SECONDS
    while left := _processes(place):
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            raise Failed(
                "processes_left",
                f"processes of {place.user} do not end: {', '.join(map(str, left[:5]))}",
                hint=f"See them: ps -fu {place.user}",
            )
        time.sleep(0.05)


def _processes(place: Place) -> list[int]:
    """All of the user and of its subordinate ids, zombies left out."""
    try:
        ids = [range(pwd.getpwnam(place.user).pw_uid, pwd.getpwnam(place.user).pw_uid + 1)]
    except KeyError:
        return []
    for line in Path("/etc/subuid").read_text().splitlines():
        name, _, numbers = line.partition(":")
        start, _, count = numbers.partition(":")
        if name == place.user and start.isdecimal() and count.isdecimal():
            ids.append(range(int(start), int(start) + int(count)))
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            status = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines() if ":" in line)
        except OSError:  # it has ended
            continue
        uid = int(status["Uid"].split()[0])
        if any(uid in span for span in ids) and not status["State"].strip().startswith("Z"):
            found.append(int(folder.name))
    return found


@dataclass(slots=True)
class RootlessGone:
    """The daemon ends, and its unit, its user, its ids and its data go. Its packages stay."""

    machine: Machine
    place: Place = PLACE
    title: str = "Rootless Docker daemon"
    needed: bool = True

    def _left(self) -> list[str]:
        files = [
            name
            for name in (str(self.place.home), str(self.place.runtime), self.place.unit, self.place.log)
            if self.machine.files.exists(name)
        ]
        users = [line for line in self.machine.files.lines("/etc/passwd") if line.startswith(f"{self.place.user}:")]
        return [*files, *([f"user {self.place.user}"] if users else [])]

    def gap(self) -> str | None:
        """What of it is there."""
        left = self._left()
        return f"stop it and remove {', '.join(left)}" if left else None

    def fill(self, say: Say) -> None:
        """Remove it. Raises Conflict("instances_left") where somebody has containers there."""
        held = self.machine.tools.ask(str(self.place.socket), "/containers/json?all=1")
        if held:
            names = ", ".join(str(one.get("Names", ["?"])[0]).lstrip("/") for one in held[:5])
            raise Conflict(
                "instances_left",
                f"the rootless Docker daemon still has containers: {names}",
                hint=f"Remove them: docker --host unix://{self.place.socket} rm --force {names.split(', ')[0]}",
            )
        self._end()
        for folder in (self.place.runtime, self.place.home):
            path = self.machine.files.path(str(folder))
            if path.is_dir():
                remove_tree(path)
        for name in (self.place.unit, self.place.log):
            self.machine.files.path(name).unlink(missing_ok=True)
        if self.machine.systemd:
            self.machine.run("systemctl", "daemon-reload")
        if any(line.startswith(f"{self.place.user}:") for line in self.machine.files.lines("/etc/passwd")):
            self.machine.run("userdel", self.place.user)
        for name in _SUBIDS:
            lines = self.machine.files.lines(name)
            kept = [line for line in lines if not line.startswith(f"{self.place.user}:")]
            if kept != lines:
                self.machine.write(name, "\n".join(kept) + "\n")

    def _end(self) -> None:
        if self.machine.systemd and self.machine.files.exists(self.place.unit):
            self.machine.run("systemctl", "disable", "--now", self.place.service, timeout=90)
        pid = self.machine.listener(str(self.place.socket))
        if pid is not None:
            stop(self.machine, pid, self.title)
        end_leftovers(self.place)
