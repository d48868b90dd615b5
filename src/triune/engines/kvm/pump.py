"""An exec session through the pump: host side of `pump.pl`, over any connected stream socket."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Mapping

from triune.domain.errors import Failed, Invalid
from triune.engines.base import Command
from triune.engines.kvm.frames import CHUNK, MAX_PAYLOAD, STDIN_WINDOW, Decoder, encode
from triune.host import polling

_SILENCE = 3.0  # seconds
_LOST = 255  # as ssh says it when the connection broke


def orders(command: Command, inherited: Mapping[str, str]) -> bytes:
    """The frames that tell the pump what to run. Raises Invalid on what no execve takes."""
    parts = [(b"a", word) for word in command.argv]
    parts += [(b"e", f"{key}={value}") for key, value in {**inherited, **command.env}.items()]
    if command.terminal is not None:
        parts.append((b"e", f"TERM={command.terminal.term}"))
        parts.append((b"t", f"{command.terminal.rows} {command.terminal.columns}"))
    if command.user is not None:
        parts.append((b"u", command.user))
    if command.cwd is not None:
        parts.append((b"d", command.cwd))
    encoded = [(kind, text.encode("utf-8", "surrogateescape")) for kind, text in parts]
    if any(b"\0" in data or len(data) > MAX_PAYLOAD for _kind, data in encoded):
        raise Invalid(
            "bad_argument",
            "an argument holds a NUL byte or is longer than 128 KiB",
            hint="Send large or binary data through standard input.",
        )
    return b"".join(encode(kind, data) for kind, data in encoded) + encode(b"G")


class PumpSession:
    """A running command. Stdin flows against acknowledgements, so resizes and signals never wait behind it."""

    def __init__(
        self,
        stream: socket.socket,
        decoder: Decoder,
        *,
        terminal: bool,
        release: Callable[[], None],
        alive: Callable[[], bool],
    ) -> None:
        self._stream = stream
        self._decoder = decoder
        self._terminal = terminal
        self._release = release
        self._alive = alive
        self._sending = threading.Lock()
        self._state = threading.Condition()
        self._in_flight = 0
        self._pending: list[tuple[bytes, bytes]] = []
        self._code: int | None = None
        self._ending = False
        self._over = False

    def read(self) -> tuple[int, bytes] | None:
        """The next output, or None at the end."""
        while True:
            while self._pending:
                kind, payload = self._pending.pop(0)
                output = self._take(kind, payload)
                if output is not None:
                    return output
            if self._over:
                return None
            self._receive()

    def _receive(self) -> None:
        # QEMU keeps the socket open when the guest's side ends (killed, rebooted): silence is asked after.
        try:
            if not polling.ready([self._stream.fileno()], timeout=_SILENCE):
                if not self._alive():
                    self._end(None)
                return
            data = self._stream.recv(CHUNK * 2)
            self._pending = self._decoder.feed(data) if data else []
        except (OSError, ValueError, Failed):  # ValueError: closed by another thread
            data = b""
        if not data:
            self._end(None)

    def _take(self, kind: bytes, payload: bytes) -> tuple[int, bytes] | None:
        if kind == b"O" and payload:
            return 1, payload
        if kind == b"R" and payload:
            return 2, payload
        if kind == b"A" and len(payload) == 4:
            with self._state:
                self._in_flight = max(0, self._in_flight - struct.unpack(">I", payload)[0])
                self._state.notify_all()
        elif kind == b"X" and len(payload) == 4:
            self._end(struct.unpack(">I", payload)[0] & 0xFF)
        return None

    def _end(self, code: int | None) -> None:
        """Let go of the stream and the port first, then tell: who sees the end finds the port free."""
        with self._state:
            if self._ending:
                self._state.wait_for(lambda: self._over)
                return
            self._ending = True
            self._code = code
        # shutdown wakes a thread that is inside recv; close alone would not
        with contextlib.suppress(OSError):
            self._stream.shutdown(socket.SHUT_RDWR)
        self._stream.close()
        self._release()
        with self._state:
            self._over = True
            self._state.notify_all()

    def write(self, data: bytes) -> None:
        """Send to the command's stdin; blocks while it does not read. After its end: dropped, as by a closed pipe."""
        view = memoryview(data)
        while view:
            with self._state:
                self._state.wait_for(lambda: self._over or self._in_flight < STDIN_WINDOW)
                if self._over:
                    return
                part = view[: min(CHUNK, STDIN_WINDOW - self._in_flight)]
                self._in_flight += len(part)
            self._send(b"I", bytes(part))
            view = view[len(part) :]

    def close_stdin(self) -> None:
        """End of input (a terminal gets Ctrl-D)."""
        self._send(b"E")

    def resize(self, columns: int, rows: int) -> None:
        """New size of the terminal."""
        if self._terminal:
            self._send(b"W", f"{int(rows) & 0xFFFF} {int(columns) & 0xFFFF}".encode())

    def signal(self, number: int) -> None:
        """Send a signal to the command's process group."""
        self._send(b"K", str(int(number)).encode())

    def _send(self, kind: bytes, payload: bytes = b"") -> None:
        # A broken stream is noticed by `read`, which tells it.
        with self._sending, contextlib.suppress(OSError):
            self._stream.sendall(encode(kind, payload))

    def wait(self) -> int:
        """The exit code; 255 when the session was closed or lost before the command ended."""
        with self._state:
            self._state.wait_for(lambda: self._over)
            return _LOST if self._code is None else self._code

    def close(self) -> None:
        """End it: the pump sees the host go and kills the command."""
        self._end(None)


def greet(stream: socket.socket, token: bytes, seconds: float) -> Decoder:
    """Wait for the pump's token and answer it. Raises TimeoutError, or ConnectionError when nobody is there."""
    import time

    decoder = Decoder(token)
    deadline = time.monotonic() + seconds
    while not decoder.greeted:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        stream.settimeout(left)
        data = stream.recv(CHUNK)
        if not data:
            raise ConnectionResetError
        if decoder.feed(data):
            raise ConnectionResetError  # frames before our answer: not our pump
    stream.settimeout(None)
    stream.sendall(token)
    return decoder
