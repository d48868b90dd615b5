"""A live screen: a text drawn again and again on the terminal's second screen, with keys and resizing."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import termios
import time
import tty
from collections.abc import Iterator

_OPEN = "\033[?1049h\033[?25l"
_CLOSE = "\033[?25h\033[?1049l"
_HOME, _REST_OF_LINE, _REST = "\033[H", "\033[K", "\033[J"


class Screen:
    """Draws texts, and waits for keys. The terminal is as before when `opened` ends, however it ends."""

    def __init__(self) -> None:
        self._keys = sys.stdin.isatty()
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    @staticmethod
    def possible() -> bool:
        """Whether stdout is a terminal that knows a cursor."""
        return sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"

    @contextlib.contextmanager
    def opened(self) -> Iterator[None]:
        """Take the terminal; an interrupt ends it like `q`."""
        before = termios.tcgetattr(0) if self._keys else None
        resized = signal.signal(signal.SIGWINCH, lambda *_: os.write(self._wake_write, b"w"))
        terminated = signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            if self._keys:
                tty.setcbreak(0)
            self._write(_OPEN)
            with contextlib.suppress(KeyboardInterrupt):
                yield
        finally:
            self._write(_CLOSE)
            if before is not None:
                termios.tcsetattr(0, termios.TCSADRAIN, before)
            signal.signal(signal.SIGWINCH, resized)
            signal.signal(signal.SIGTERM, terminated)
            os.close(self._wake_read)
            os.close(self._wake_write)

    def draw(self, lines: list[str]) -> None:
        """Show these lines, as far as they go. Each is cleared to its end in turn, so nothing flickers."""
        rows = self.rows()
        if len(lines) > rows:
            lines = [*lines[: rows - 1], f"… and {len(lines) - rows + 1} more"]
        self._write(_HOME + (_REST_OF_LINE + "\n").join(lines) + _REST_OF_LINE + _REST)

    @staticmethod
    def rows() -> int:
        """Lines of the terminal."""
        try:
            return max(2, os.get_terminal_size(1).lines)
        except OSError:
            return 24

    def wait(self, seconds: float) -> str:
        """A key, "" after so many seconds, or "resized" when the terminal has another size."""
        deadline = time.monotonic() + seconds
        watched = [self._wake_read, *([0] if self._keys else [])]
        ready, _, _ = select.select(watched, [], [], max(0.0, deadline - time.monotonic()))
        if self._wake_read in ready:
            os.read(self._wake_read, 100)
            return "resized"
        if 0 not in ready:
            return ""
        typed = os.read(0, 100)
        if not typed:  # the terminal has gone
            self._keys = False
            return ""
        return typed[:1].decode(errors="replace")

    @staticmethod
    def _write(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()
