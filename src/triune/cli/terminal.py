"""A session on this process's own stdin, stdout and stderr: raw mode, resizing, detaching, pipes."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import termios
import threading
import tty
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from triune.domain.errors import TriuneError

if TYPE_CHECKING:
    from triune.sdk.session import Session

_PIECE = 64 * 1024


def size() -> tuple[str, int, int]:
    """(TERM, columns, rows) of this terminal."""
    try:
        found = os.get_terminal_size(1)
    except OSError:
        return _kind(), 80, 24
    return _kind(), max(1, found.columns), max(1, found.lines)


def _kind() -> str:
    kind = os.environ.get("TERM", "")
    return kind if kind and kind.isascii() and kind.replace("-", "").replace(".", "").isalnum() else "xterm-256color"


class Attachment:
    """Carries a session until it ends. `detach` is a byte that, typed on a raw terminal, leaves it."""

    def __init__(self, session: Session, *, terminal: bool, stdin: bool = True, detach: bytes | None = None) -> None:
        self._session = session
        self._terminal = terminal
        self._stdin = stdin
        self._detach = detach
        self._wake_read, self._wake_write = os.pipe()
        self.detached = False

    def run(self) -> int:
        """Return the exit code; 0 when detached. Raises what ended the session."""
        writer = threading.Thread(target=self._write, name="stdin", daemon=True)
        try:
            with _raw() if self._terminal else contextlib.nullcontext(), self._resizing():
                if self._stdin:
                    writer.start()
                else:
                    self._session.close_stdin()
                self._read()
        except TriuneError:
            if not self.detached:
                raise
        except BaseException:  # an interrupt, or nobody reads our output any more: the command ends with us
            self._session.close()
            raise
        return 0 if self.detached else self._session.exit_code or 0

    def _read(self) -> None:
        while (found := self._session.read()) is not None:
            stream, data = found
            _write_all(stream, data)

    def _write(self) -> None:
        """In a thread: stdin to the session, sizes of the terminal in between."""
        watched = [0, self._wake_read]
        with contextlib.suppress(TriuneError, OSError):
            while True:
                ready, _, _ = select.select(watched, [], [])
                if self._wake_read in ready:
                    os.read(self._wake_read, 100)
                    _, columns, rows = size()
                    self._session.resize(columns, rows)
                if 0 not in ready:
                    continue
                data = os.read(0, _PIECE)
                if not data:
                    self._session.close_stdin()
                    watched.remove(0)
                elif self._detach and self._detach in data:
                    self._session.write(data[: data.index(self._detach)])
                    self.detached = True
                    self._session.close()
                    return
                else:
                    self._session.write(data)

    @contextlib.contextmanager
    def _resizing(self) -> Iterator[None]:
        if not self._terminal:
            yield
            return

        def told(*_: Any) -> None:
            os.write(self._wake_write, b"w")

        before = signal.signal(signal.SIGWINCH, told)
        try:
            yield
        finally:
            signal.signal(signal.SIGWINCH, before)


@contextlib.contextmanager
def _raw() -> Iterator[None]:
    if not os.isatty(0):
        yield
        return
    before = termios.tcgetattr(0)
    try:
        tty.setraw(0, termios.TCSADRAIN)  # what was typed ahead is the guest's, not to be lost
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)


def _write_all(stream: int, data: bytes) -> None:
    """Write everything, also to a pipe that others made non-blocking."""
    left = memoryview(data)
    while left:
        try:
            left = left[os.write(stream, left) :]
        except BlockingIOError:
            select.select([], [stream], [])
        except BrokenPipeError:
            if stream == 1:
                raise
            return


def both_terminals() -> bool:
    """Whether stdin and stdout are terminals."""
    return sys.stdin.isatty() and sys.stdout.isatty()
