"""What a container wrote: its console's log file, else its journal."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from triune.domain.errors import Conflict
from triune.engines.base import Command
from triune.engines.lxc import spec
from triune.engines.lxc.client import Client
from triune.engines.lxc.commands import LxcCommands
from triune.host.beneath import Root

_CHUNK = 65536
_POLL_S = 0.25


class LxcLogs:
    """The `logs` facet."""

    def __init__(self, client: Client, commands: LxcCommands) -> None:
        self._client = client
        self._commands = commands

    def read(self, name: str, *, tail: int | None, follow: bool, stop: Callable[[], bool]) -> Iterator[bytes]:
        """Yield the log, as `engines.base.Logs` says. Raises NotFound."""
        folder = self._client.require(name)
        path = console_log(folder)
        if path is not None and path.exists() and path.stat().st_size > 0:
            return _file(path, tail, follow, stop)
        if self._has_journal(name):
            return self._journal(name, tail, follow, stop)
        return _file(path, tail, follow, stop) if path is not None else iter(())

    def _has_journal(self, name: str) -> bool:
        try:
            pid = self._client.require_running(name)
            with Root(f"/proc/{pid}/root") as root:
                return root.exists("usr/bin/journalctl") or root.exists("bin/journalctl")
        except (Conflict, OSError):
            return False

    def _journal(self, name: str, tail: int | None, follow: bool, stop: Callable[[], bool]) -> Iterator[bytes]:
        argv = ["journalctl", "--no-pager", "--quiet", f"--lines={'all' if tail is None else tail}"]
        session = self._commands.open(name, Command(argv=(*argv, "--follow") if follow else tuple(argv)))
        try:
            while not stop() and (output := session.read()) is not None:
                yield output[1]
        finally:
            session.close()


def console_log(folder: Path) -> Path | None:
    """The file that the configuration names, for adopted containers too."""
    items = dict(spec.parse((folder / "config").read_text(errors="replace")))
    path = items.get("lxc.console.logfile")
    return Path(path) if path else None


def _file(path: Path, tail: int | None, follow: bool, stop: Callable[[], bool]) -> Iterator[bytes]:
    if tail is None:
        # liblxc keeps one older file when the log has reached its size.
        with suppress(FileNotFoundError):
            yield from _chunks(path.with_name(f"{path.name}.1"))
    position = 0
    with suppress(FileNotFoundError), path.open("rb") as file:
        file.seek(0 if tail is None else tail_offset(file.fileno(), tail))
        while data := file.read(_CHUNK):
            yield data
        position = file.tell()
    while follow and not stop():
        time.sleep(_POLL_S)
        with suppress(FileNotFoundError), path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            # Smaller than before: it was rotated or truncated, and begins anew.
            file.seek(position if size >= position else 0)
            while data := file.read(_CHUNK):
                yield data
            position = file.tell()


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while data := file.read(_CHUNK):
            yield data


def tail_offset(fd: int, lines: int) -> int:
    """Where the last `lines` lines of a file begin; a last line without its end counts as one."""
    end = os.fstat(fd).st_size
    if lines <= 0 or end == 0:
        return end
    wanted = lines if os.pread(fd, 1, end - 1) == b"\n" else lines - 1
    seen, position = 0, end
    while position > 0:
        start = max(0, position - _CHUNK)
        block = os.pread(fd, position - start, start)
        index = len(block)
        while (index := block.rfind(b"\n", 0, index)) >= 0:
            seen += 1
            if seen > wanted:
                return start + index + 1
        position = start
    return 0
