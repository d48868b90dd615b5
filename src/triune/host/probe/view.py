"""What probes look at the host through: files below a root, tools by argv, and who we are.

Probes never touch the host in any other way, so tests run them on canned /proc and /sys trees.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from triune.domain.errors import TriuneError
from triune.domain.finding import Finding, FindingStatus
from triune.host.run import Result, environment, run

_ANSWER_LIMIT = 4 * 2**20
TOOL_SECONDS = 2.0
"""How long one tool may take to answer."""


@dataclass(frozen=True, slots=True)
class HostFiles:
    """The host's files, below `root`. Reading never raises: what cannot be read is None or empty."""

    root: Path = Path("/")

    def path(self, name: str) -> Path:
        """The real path of an absolute name, for the few system calls that need one."""
        return self.root / name.lstrip("/")

    def text(self, name: str) -> str | None:
        """A file's content without the final newline; None where it cannot be read."""
        try:
            return self.path(name).read_text(errors="replace").rstrip("\n")
        except OSError:
            return None

    def number(self, name: str) -> int | None:
        """A file's content as a whole number; `max` and anything else is None."""
        words = (self.text(name) or "").split()
        try:
            return int(words[0]) if words else None
        except ValueError:
            return None

    def lines(self, name: str) -> list[str]:
        """A file's lines; none where it cannot be read."""
        return (self.text(name) or "").splitlines()

    def exists(self, name: str) -> bool:
        """Whether the file is there (a broken link is)."""
        return os.path.lexists(self.path(name))

    def names(self, folder: str) -> list[str]:
        """The sorted names in a folder; none where it cannot be read."""
        try:
            return sorted(entry.name for entry in self.path(folder).iterdir())
        except OSError:
            return []


class Tools:
    """The host's programs."""

    def find(self, program: str) -> str | None:
        """The path of a program on the system's own PATH, or None. Kept folders come last, so that another
        program of the same name in /usr/local/bin does not hide the distribution's."""
        path = ":".join(sorted(environment()["PATH"].split(":"), key=lambda folder: "local" in folder))
        return shutil.which(program, path=path)

    def run(self, *argv: str, timeout: float = TOOL_SECONDS) -> Result | None:
        """Run a tool; None where it is not installed or does not answer in time."""
        program = self.find(argv[0])
        if program is None:
            return None
        try:
            return run([program, *argv[1:]], check=False, timeout=timeout)
        except (TriuneError, OSError):
            return None

    def text(self, *argv: str) -> str | None:
        """Standard output of a tool that succeeded, stripped; else None."""
        result = self.run(*argv)
        return result.text.strip() if result is not None and result.status == 0 else None

    def ask(self, socket_path: str, path: str) -> Any:
        """The JSON that a local daemon answers to `GET path` on its unix socket; None where it does not."""
        connection = _UnixConnection(socket_path)
        try:
            connection.request("GET", path, headers={"Host": "localhost"})
            response = connection.getresponse()
            return json.loads(response.read(_ANSWER_LIMIT)) if response.status == 200 else None
        except (OSError, ValueError, http.client.HTTPException):
            return None
        finally:
            connection.close()


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=TOOL_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(TOOL_SECONDS)
        self.sock.connect(self._path)


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What a probe may look at. `live` is false on canned trees: then nothing is tried out by system calls."""

    files: HostFiles = field(default_factory=HostFiles)
    tools: Tools = field(default_factory=Tools)
    euid: int = field(default_factory=os.geteuid)
    live: bool = True
    data_dir: str = "/var/lib/triune"

    @property
    def root(self) -> bool:
        """Whether we may look everywhere."""
        return self.euid == 0


Facts = dict[str, Any]
Probe = Callable[[View], Sequence[Finding]]


def ok(name: str, area: str, sentence: str, **facts: Any) -> Finding:
    """A finding that is as it should be."""
    return Finding(id=name, area=area, status=FindingStatus.OK, sentence=sentence, facts=facts)


def warning(name: str, area: str, sentence: str, fix: str | None = None, **facts: Any) -> Finding:
    """A finding that works with a drawback."""
    return Finding(id=name, area=area, status=FindingStatus.WARNING, sentence=sentence, fix=fix, facts=facts)


def missing(name: str, area: str, sentence: str, fix: str | None = None, **facts: Any) -> Finding:
    """A finding of something that is not there."""
    return Finding(id=name, area=area, status=FindingStatus.MISSING, sentence=sentence, fix=fix, facts=facts)


def unknown(name: str, area: str, sentence: str, fix: str | None = None, **facts: Any) -> Finding:
    """A finding that could not be made: a warning that says so."""
    merged: Mapping[str, Any] = {"known": False, **facts}
    return Finding(id=name, area=area, status=FindingStatus.WARNING, sentence=sentence, fix=fix, facts=merged)
