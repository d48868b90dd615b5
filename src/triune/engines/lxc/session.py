"""A process of ours that stands for a command or console inside, as an `engines.base.Session`.

Readers and writers block in select together with a wake descriptor, so `close` from another thread frees both.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import struct
import subprocess
import termios
import threading
import time
import tty
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from triune.engines.base import Terminal
from triune.host import polling
from triune.host.run import environment, tool_missing

_CHUNK = 65536
_GRACE_S = 1.0
_TERMINAL_PATIENCE_S = 5.0
_TERMINAL_POLL_S = 0.004
_KILL_ROUNDS = 10
_KILL_PAUSE_S = 0.2
_END_OF_FILE_KEY = b"\x04"


class ProcessSession:
    """A running process with its streams: `readers` maps our descriptors to stream numbers, `writer` is its input.

    `terminal` says that all of them are one pseudo-terminal's master.
    """

    def __init__(
        self, process: subprocess.Popen[bytes], readers: Mapping[int, int], writer: int, *, terminal: bool
    ) -> None:
        self._process = process
        self._readers = dict(readers)
        self._writer: int | None = writer
        self._terminal = terminal
        self._settled = not terminal
        self._exit_fd = os.pidfd_open(process.pid)
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._closed = False
        self._reading = threading.Lock()
        self._writing = threading.Lock()
        self._closing = threading.Lock()
        for fd in {*self._readers, writer}:
            os.set_blocking(fd, False)

    def read(self) -> tuple[int, bytes] | None:
        """The next output, or None at its end. What the command left in its pipes when it ended is still read;
        output of children it left behind is not waited for."""
        with self._reading:
            while self._readers and not self._closed:
                ready = polling.ready([*self._readers, self._wake, self._exit_fd])
                fds = [fd for fd in self._readers if fd in ready]
                for fd in fds:
                    stream = self._readers[fd]
                    if data := self._take(fd):
                        return stream, data
                if not fds and self._exit_fd in ready:
                    return None
            return None

    def _take(self, fd: int) -> bytes:
        """Read what is there; at the end of the stream, forget it."""
        try:
            data = os.read(fd, _CHUNK)
        except BlockingIOError:
            return b""
        except OSError as error:
            # The master of a terminal says EIO when the last process has closed the other side.
            if error.errno != errno.EIO:
                raise
            data = b""
        if not data:
            del self._readers[fd]
            if fd != self._writer:
                os.close(fd)
        return data

    def write(self, data: bytes) -> None:
        """Write all of it; what a command that ended or closed its input can't take is dropped."""
        with self._writing:
            self._await_terminal()
            view = memoryview(data)
            while view and not self._closed and self._writer is not None:
                ready = polling.ready([self._wake, self._exit_fd], [self._writer])
                if self._writer not in ready:
                    return
                try:
                    view = view[os.write(self._writer, view) :]
                except BlockingIOError:
                    continue
                except OSError:
                    return

    def _await_terminal(self) -> None:
        """LXC's tools make their terminal raw when they begin, and throw away what was typed before: wait for that."""
        deadline = time.monotonic() + _TERMINAL_PATIENCE_S
        while not self._settled and self._writer is not None and time.monotonic() < deadline:
            if not termios.tcgetattr(self._writer)[3] & termios.ICANON:
                break
            if polling.ready([self._wake, self._exit_fd], timeout=_TERMINAL_POLL_S):
                return
        self._settled = True

    def close_stdin(self) -> None:
        """End the command's input; on a terminal that is the end-of-file key."""
        if self._terminal:
            self.write(_END_OF_FILE_KEY)
            return
        with self._writing:
            if self._writer is not None and not self._closed:
                os.close(self._writer)
                self._writer = None

    def resize(self, columns: int, rows: int) -> None:
        """Change the terminal's size; without a terminal, nothing."""
        if not self._terminal:
            return
        with self._writing:
            if self._writer is not None and not self._closed:
                set_size(self._writer, columns, rows)

    def wait(self) -> int:
        """The exit code; 128+n when the process itself was killed by signal n."""
        status = self._process.wait()
        return status if status >= 0 else 128 - status

    def close(self) -> None:
        """Hang up: SIGHUP for the command and its children, SIGKILL a second later for those that stay."""
        with self._closing:
            if self._closed:
                return
            self._closed = True
            os.eventfd_write(self._wake, 1)
            # Before the streams: a terminal that hangs up ends the process, and its children then have no parent.
            family = _family([self._process.pid]) if self._process.poll() is None else {}
            try:
                with self._reading, self._writing:
                    self._close_streams()
                _signal(family, signal.SIGHUP)
                self._end(family)
            finally:
                for fd in (*family.values(), self._exit_fd, self._wake):
                    os.close(fd)

    def _close_streams(self) -> None:
        fds = set(self._readers)
        if self._writer is not None:
            fds.add(self._writer)
        self._readers, self._writer = {}, None
        for fd in fds:
            os.close(fd)

    def _end(self, family: dict[int, int]) -> None:
        """Wait a while for all to go, then kill them until none is left, the process itself last."""
        patience = _GRACE_S
        for _ in range(_KILL_ROUNDS):
            if _gone_within([*family.values(), self._exit_fd], patience):
                break
            patience = _KILL_PAUSE_S
            for child, fd in _family([self._process.pid, *family]).items():
                if child in family:
                    os.close(fd)
                else:
                    family[child] = fd
            _signal(family, signal.SIGKILL)
            if not family:
                self._process.kill()
        self._process.kill()
        self._process.wait()


def _family(roots: Sequence[int]) -> dict[int, int]:
    """All living descendants of these processes, as {pid: pidfd}; the roots themselves are not among them."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            with suppress(OSError, ValueError, IndexError):
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(folder.name))
    found: dict[int, int] = {}
    pending = [child for root in roots for child in children.get(root, ())]
    while pending:
        child = pending.pop()
        if child not in found:
            pending += children.get(child, ())
            with suppress(OSError):
                found[child] = os.pidfd_open(child)
    return found


def _signal(family: Mapping[int, int], number: signal.Signals) -> None:
    for fd in family.values():
        with suppress(OSError):
            signal.pidfd_send_signal(fd, number)


def _gone_within(pidfds: Sequence[int], seconds: float) -> bool:
    """Whether all these processes have ended (a process descriptor is readable then)."""
    deadline = time.monotonic() + seconds
    left = set(pidfds)
    while left:
        ended = polling.ready(left, timeout=deadline - time.monotonic())
        if not ended:
            return False
        left -= ended
    return True


def with_pipes(argv: Sequence[str], env: Mapping[str, str]) -> ProcessSession:
    """Run it with three pipes."""
    try:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(env),
            cwd="/",
            bufsize=0,
            start_new_session=True,
        )
    except FileNotFoundError:
        raise tool_missing(argv[0]) from None
    assert process.stdin and process.stdout and process.stderr  # noqa: S101 - they are pipes
    # Descriptors of our own: the session decides when they are closed, not the garbage collector.
    readers = {os.dup(process.stdout.fileno()): 1, os.dup(process.stderr.fileno()): 2}
    writer = os.dup(process.stdin.fileno())
    for stream in (process.stdin, process.stdout, process.stderr):
        stream.close()
    return ProcessSession(process, readers, writer, terminal=False)


def with_terminal(
    argv: Sequence[str], env: Mapping[str, str], terminal: Terminal, *, quiet: bool = False
) -> ProcessSession:
    """Run it on a new pseudo-terminal, its controlling one; `quiet` drops what it says on standard error."""
    master, slave = os.openpty()
    try:
        _make_almost_raw(slave)
        set_size(slave, terminal.columns, terminal.rows)
        process = subprocess.Popen(
            ["setsid", "--ctty", *argv],
            stdin=slave,
            stdout=slave,
            stderr=subprocess.DEVNULL if quiet else slave,
            env=environment({**env, "TERM": terminal.term}),
            cwd="/",
        )
    except FileNotFoundError:
        os.close(master)
        raise tool_missing("setsid") from None
    except BaseException:
        os.close(master)
        raise
    finally:
        os.close(slave)
    return ProcessSession(process, {master: 1}, master, terminal=True)


def _make_almost_raw(fd: int) -> None:
    """Raw but for line mode: that it goes away is the sign that the tool has taken the terminal over."""
    tty.setraw(fd)
    mode = termios.tcgetattr(fd)
    mode[3] |= termios.ICANON
    termios.tcsetattr(fd, termios.TCSANOW, mode)


def set_size(fd: int, columns: int, rows: int) -> None:
    """TIOCSWINSZ: rows, columns, and two pixel sizes nobody reads."""
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", _word(rows), _word(columns), 0, 0))


def _word(number: int) -> int:
    return min(max(number, 1), 0xFFFF)
