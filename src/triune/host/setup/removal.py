"""Taking back what setup put on the host. What instances need to go on stays: the engines, their packages and daemons,
root's subordinate ids, kernel limits, lxcfs."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from triune.domain.errors import Failed
from triune.host.beneath import remove_tree
from triune.host.setup.accounts import GROUP
from triune.host.setup.daemons import stop
from triune.host.setup.limits import FILE as LIMITS_FILE
from triune.host.setup.machine import Machine
from triune.host.setup.service import COMMAND, COMPLETIONS, LOG, SOCKET, UNIT, own_command
from triune.host.setup.step import Say

_STOP_SECONDS = 90.0
_DATA = (
    "images",
    "instances",
    "pools",
    "backup",
    "bench",
    "audits",
    "uploads",
    "drivers",
    "lock",
    *(f"triune.db{end}" for end in ("", "-wal", "-shm", "-reserve")),
)
_OWN_COMPLETION = "_TRIUNE_COMPLETE"


@dataclass(slots=True)
class DaemonGone:
    """The daemon ends; its unit, its socket and its files below /run go. Operations under way are undone.

    `installed`: it is the one that setup starts, so the unit is its.
    """

    machine: Machine
    socket: Path
    installed: bool
    title: str = "Triune's daemon"
    needed: bool = True

    def gap(self) -> str | None:
        """Whether it runs, or would again after the host's next start."""
        if self._has_unit():
            return f"stop it and remove {UNIT}"
        return "stop it" if self.machine.listener(str(self.socket)) is not None else None

    def _has_unit(self) -> bool:
        return self.installed and self.machine.files.exists(UNIT)

    def fill(self, say: Say) -> None:
        """End it, as systemd or by SIGTERM."""
        if self._has_unit():
            if self.machine.systemd:
                self.machine.run("systemctl", "disable", "--now", "triune.service", timeout=_STOP_SECONDS)
            self.machine.files.path(UNIT).unlink(missing_ok=True)
            if self.machine.systemd:
                self.machine.run("systemctl", "daemon-reload")
        pid = self.machine.listener(str(self.socket))
        if pid is not None:
            stop(self.machine, pid, self.title, _STOP_SECONDS)
        self.machine.files.path(str(self.socket)).unlink(missing_ok=True)
        if self.installed:
            folder = self.machine.files.path(str(Path(SOCKET).parent))
            (folder / "triune.pid").unlink(missing_ok=True)
            with suppress(OSError):
                folder.rmdir()


@dataclass(slots=True)
class CommandGone:
    """The link to our command. A file of that name, or a link to elsewhere, is somebody's own and stays."""

    machine: Machine
    title: str = "Command triune on PATH"
    needed: bool = True

    def gap(self) -> str | None:
        """Whether our link is there."""
        path = self.machine.files.path(COMMAND)
        ours = path != own_command() and path.is_symlink() and path.readlink() == own_command()
        return f"remove {COMMAND}" if ours else None

    def fill(self, say: Say) -> None:
        """Remove it."""
        self.machine.files.path(COMMAND).unlink(missing_ok=True)


@dataclass(slots=True)
class CompletionGone:
    """The shells' completion scripts, where they are the ones our command writes."""

    machine: Machine
    title: str = "Shell completion"
    needed: bool = False

    def _ours(self) -> list[str]:
        return [path for path in COMPLETIONS.values() if _OWN_COMPLETION in (self.machine.files.text(path) or "")]

    def gap(self) -> str | None:
        """The files that are there."""
        ours = self._ours()
        return f"remove {', '.join(ours)}" if ours else None

    def fill(self, say: Say) -> None:
        """Remove them."""
        for path in self._ours():
            self.machine.files.path(path).unlink(missing_ok=True)


@dataclass(slots=True)
class DataGone:
    """What the daemon keeps in its data folder, once `empty` has taken the pools apart.

    The folder goes too where nobody else has put anything into it. No mount in it is entered.
    """

    folder: Path
    empty: Callable[[], None]
    title: str = "Triune's data"
    needed: bool = True

    def _ours(self) -> list[Path]:
        return [path for name in _DATA if os.path.lexists(path := self.folder / name)]

    def gap(self) -> str | None:
        """Whether there is any."""
        return f"remove it from {self.folder}" if self._ours() else None

    def fill(self, say: Say) -> None:
        """Remove it. Raises Failed where something is mounted in it."""
        self.empty()
        for path in self._ours():
            try:
                if path.is_dir() and not path.is_symlink():
                    remove_tree(path)
                else:
                    path.unlink()
            except OSError as error:
                raise Failed(
                    "data_left",
                    f"{path} could not be removed: {error.strerror}",
                    hint="See what is mounted in it: findmnt",
                ) from None
        with suppress(OSError):
            self.folder.rmdir()
        if self.folder.is_dir() and any(self.folder.iterdir()):
            say("warn", f"{self.folder} stays, for there are files of others in it")


@dataclass(slots=True)
class TracesGone:
    """What is of no use without the data: the group, our kernel limits (in force until the next start), the log."""

    machine: Machine
    title: str = "Group, kernel limits and log"
    needed: bool = False

    def _files(self) -> list[str]:
        return [path for path in (LIMITS_FILE, LOG) if self.machine.files.exists(path)]

    def _has_group(self) -> bool:
        return any(line.startswith(f"{GROUP}:") for line in self.machine.files.lines("/etc/group"))

    def gap(self) -> str | None:
        """What of it is there."""
        found = self._files() + ([f"group {GROUP}"] if self._has_group() else [])
        return f"remove {', '.join(found)}" if found else None

    def fill(self, say: Say) -> None:
        """Remove it."""
        for path in self._files():
            self.machine.files.path(path).unlink(missing_ok=True)
        if self._has_group():
            self.machine.run("groupdel", GROUP)
