"""Sessions of the fake engine: a few harmless programs of the host, run as nobody, and an echoing console."""

from __future__ import annotations

import contextlib
import fcntl
import os
import queue
import selectors
import shutil
import signal
import struct
import subprocess
import termios
import threading
from collections.abc import Mapping
from typing import IO

from triune.engines.base import Command
from triune.host.run import environment

PROGRAMS = frozenset({"cat", "echo", "env", "false", "id", "kill", "perl", "pwd", "sh", "sleep", "stty", "true"})
_NOBODY = 65534
_PIECE = 65536
_GRACE = 0.3
_CANNOT_RUN = 126
_NOT_FOUND = 127


def open_session(command: Command) -> LocalSession | EndedSession:
    """Run an allowed program; others end with 126 (a file, not a program) or 127 (nothing there), as a shell says."""
    argv = command.argv or ("sh",)
    if argv[0] not in PROGRAMS:
        if argv[0].startswith("/") and os.path.lexists(argv[0]):
            return EndedSession(_CANNOT_RUN, f"{argv[0]}: permission denied\n")
        return EndedSession(_NOT_FOUND, f"{argv[0]}: not found\n")
    if command.terminal is not None:
        return TerminalSession(command, argv)
    return PipeSession(command, argv)


class EndedSession:
    """A command that never ran."""

    def __init__(self, code: int, message: str) -> None:
        self._code = code
        self._left = [(2, message.encode())]

    def read(self) -> tuple[int, bytes] | None:
        """The message, then the end."""
        return self._left.pop() if self._left else None

    def write(self, data: bytes) -> None:
        """Nobody reads it."""

    def close_stdin(self) -> None:
        """Nothing to close."""

    def resize(self, columns: int, rows: int) -> None:
        """No terminal."""

    def wait(self) -> int:
        """126 or 127."""
        return self._code

    def close(self) -> None:
        """Nothing to close."""


class LocalSession:
    """The common part of the two ways to run a program."""

    process: subprocess.Popen[bytes]

    def wait(self) -> int:
        """The exit code, 128+n for signal n."""
        code = self.process.wait()
        return 128 - code if code < 0 else code

    def close(self) -> None:
        """Hang up, then kill."""
        for number in (signal.SIGHUP, signal.SIGKILL):
            if self.process.poll() is not None:
                return
            try:
                os.killpg(self.process.pid, number)
            except ProcessLookupError:  # it has not made its group yet
                self.process.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(_GRACE)

    def read(self) -> tuple[int, bytes] | None:
        """Overridden."""
        raise NotImplementedError

    def write(self, data: bytes) -> None:
        """Overridden."""
        raise NotImplementedError

    def close_stdin(self) -> None:
        """Overridden."""
        raise NotImplementedError

    def resize(self, columns: int, rows: int) -> None:
        """Without a terminal there is nothing to resize."""


class PipeSession(LocalSession):
    """A program with plain pipes."""

    def __init__(self, command: Command, argv: tuple[str, ...]) -> None:
        self.process = _popen(argv, command, subprocess.PIPE, subprocess.PIPE, subprocess.PIPE)
        self._selector = selectors.DefaultSelector()
        self._selector.register(_open(self.process.stdout), selectors.EVENT_READ, 1)
        self._selector.register(_open(self.process.stderr), selectors.EVENT_READ, 2)

    def read(self) -> tuple[int, bytes] | None:
        """Whatever comes first of stdout and stderr."""
        while self._selector.get_map():
            for key, _ in self._selector.select():
                if data := os.read(key.fd, _PIECE):
                    return int(key.data), data
                self._selector.unregister(key.fileobj)
        return None

    def write(self, data: bytes) -> None:
        """Write all of it; dropped once nobody reads it."""
        with contextlib.suppress(BrokenPipeError, ValueError):
            stdin = _open(self.process.stdin)
            stdin.write(data)
            stdin.flush()

    def close_stdin(self) -> None:
        """Close the pipe."""
        with contextlib.suppress(BrokenPipeError):
            _open(self.process.stdin).close()


class TerminalSession(LocalSession):
    """A program on a terminal of its own."""

    def __init__(self, command: Command, argv: tuple[str, ...]) -> None:
        assert command.terminal is not None  # noqa: S101 - by its caller
        self._terminal, inside = os.openpty()
        self.resize(command.terminal.columns, command.terminal.rows)
        try:
            self.process = _popen(("setsid", "--ctty", *argv), command, inside, inside, inside)
        finally:
            os.close(inside)

    def read(self) -> tuple[int, bytes] | None:
        """What appears on the terminal; Linux answers EIO once nobody has it open."""
        try:
            data = os.read(self._terminal, _PIECE)
        except OSError:
            return None
        return (1, data) if data else None

    def write(self, data: bytes) -> None:
        """Type it."""
        with contextlib.suppress(OSError):
            while data:
                data = data[os.write(self._terminal, data) :]

    def close_stdin(self) -> None:
        """Type Ctrl-D."""
        self.write(b"\x04")

    def resize(self, columns: int, rows: int) -> None:
        """Tell the terminal."""
        fcntl.ioctl(self._terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


class EchoConsole:
    """A console that shows what is typed."""

    def __init__(self, banner: str) -> None:
        self._shown: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._shown.put(banner.encode())
        self._ended = threading.Event()

    def read(self) -> tuple[int, bytes] | None:
        """The banner, and then what was typed."""
        if self._ended.is_set():
            return None
        data = self._shown.get()
        return None if data is None else (1, data)

    def write(self, data: bytes) -> None:
        """Show it."""
        self._shown.put(data)

    def close_stdin(self) -> None:
        """Consoles have no end of input."""

    def resize(self, columns: int, rows: int) -> None:
        """Nothing depends on it."""

    def wait(self) -> int:
        """Always 0."""
        return 0

    def close(self) -> None:
        """Detach; a blocked `read` returns."""
        self._ended.set()
        self._shown.put(None)


def _popen(argv: tuple[str, ...], command: Command, stdin: int, stdout: int, stderr: int) -> subprocess.Popen[bytes]:
    root = os.geteuid() == 0
    env: Mapping[str, str] = dict(command.env)
    if command.terminal is not None:
        env = {"TERM": command.terminal.term, **env}
    program = shutil.which(argv[0], path=environment()["PATH"])
    return subprocess.Popen(
        argv,
        executable=program,
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        env=environment(env),
        cwd=command.cwd or "/",
        # setsid(1) makes the session where there is a terminal to make its own.
        start_new_session=command.terminal is None,
        user=_NOBODY if root else None,
        group=_NOBODY if root else None,
        extra_groups=[] if root else None,
    )


def _open(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None  # noqa: S101 - made by _popen
    return pipe
