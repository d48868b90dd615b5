"""A command inside an instance, or its console, over a WebSocket.

The frames of subprotocol `triune.v1` (docs/API.md): the client's first message is text, the command as JSON; all
others are binary, the first byte is the channel. Of stdin at most `WINDOW` bytes are under way that the daemon has
not yet credited.
"""

from __future__ import annotations

import json
import threading
from enum import IntEnum
from typing import TYPE_CHECKING

from triune.domain.errors import TriuneError, Unreachable, from_dict
from triune.sdk.transport import Transport, problem_fields

if TYPE_CHECKING:
    from collections.abc import Mapping

    from websockets.sync.client import ClientConnection

SUBPROTOCOL = "triune.v1"
# The largest message either side sends; the reader allows some more.
PIECE = 64 * 1024
WINDOW = 2**20
_MAX_MESSAGE = 2**20
_PATIENCE = 30.0
# A daemon whose output nobody reads any more does not answer a close.
_CLOSING = 0.5


class Channel(IntEnum):
    """First byte of a binary message."""

    STDIN = 0
    STDOUT = 1
    STDERR = 2
    RESIZE = 3
    EXIT = 4
    CREDIT = 5


class Session:
    """One thread reads, another may write: `write` waits for what `read` hears. `exit_code` is set once `read`
    returned None.
    """

    def __init__(self, connection: ClientConnection, where: str) -> None:
        self._connection = connection
        self._where = where
        self._window = threading.Condition()
        self._credit = WINDOW
        self._over = False
        self.exit_code: int | None = None

    def read(self) -> tuple[int, bytes] | None:
        """The next (1 for stdout or 2 for stderr, data), or None at the end.

        Raises what the daemon says went wrong, and Unreachable when the connection breaks off.
        """
        while self.exit_code is None:
            channel, data = self._receive()
            if channel in (Channel.STDOUT, Channel.STDERR):
                if data:
                    return channel, data
            elif channel == Channel.CREDIT:
                self._add_credit(int.from_bytes(data[:4], "big"))
            elif channel == Channel.EXIT:
                self._finish()
                self.exit_code = self._end(data)
        self._connection.close()
        return None

    def _receive(self) -> tuple[int, bytes]:
        from websockets.exceptions import ConnectionClosed

        try:
            message = self._connection.recv()
        except ConnectionClosed as error:
            self._finish()
            raise self._broken(str(error)) from None
        return (-1, b"") if isinstance(message, str) or not message else (message[0], message[1:])

    def _add_credit(self, size: int) -> None:
        with self._window:
            self._credit = min(self._credit + size, WINDOW)
            self._window.notify_all()

    def _finish(self) -> None:
        """Nothing more is taken: wake whoever waits to write."""
        with self._window:
            self._over = True
            self._window.notify_all()

    def _take_credit(self, size: int) -> None:
        with self._window:
            self._window.wait_for(lambda: self._over or self._credit >= size)
            if self._over:
                raise self._broken("the command has ended")
            self._credit -= size

    def write(self, data: bytes) -> None:
        """Send to its stdin; blocks while the command does not read. Raises Unreachable after the end."""
        for at in range(0, len(data), PIECE):
            piece = data[at : at + PIECE]
            self._take_credit(len(piece))
            self._send(Channel.STDIN, piece)

    def close_stdin(self) -> None:
        """End its stdin."""
        self._send(Channel.STDIN, b"")

    def resize(self, columns: int, rows: int) -> None:
        """Tell the new size of the terminal."""
        self._send(Channel.RESIZE, json.dumps({"columns": columns, "rows": rows}).encode())

    def close(self) -> None:
        """Go away: a command is ended, a console left alone."""
        self._finish()
        self._connection.close()

    def _send(self, channel: Channel, data: bytes) -> None:
        from websockets.exceptions import ConnectionClosed

        try:
            self._connection.send(bytes([channel]) + data)
        except (ConnectionClosed, OSError) as error:
            raise self._broken(str(error)) from None

    def _end(self, data: bytes) -> int:
        try:
            found = json.loads(data)
            code = found.get("code")
            if isinstance(code, int) and not isinstance(code, bool):
                return code & 0xFF
        except (ValueError, AttributeError, RecursionError):
            raise self._broken("it said nothing of the end") from None
        self._connection.close()
        raise from_dict(problem_fields(found))

    def _broken(self, reason: str) -> TriuneError:
        return Unreachable(
            "session_broke_off",
            f"the connection to {self._where} broke off: {reason or 'the daemon ended it'}",
            hint="See whether the daemon runs: triune version",
        )


def connect(transport: Transport, path: str, command: Mapping[str, object]) -> Session:
    """Open a session at a path. Raises Unreachable or Denied where there is no daemon."""
    from websockets.exceptions import WebSocketException
    from websockets.sync.client import unix_connect
    from websockets.typing import Subprotocol

    headers = {"Authorization": f"Bearer {transport.token}"} if transport.token else {}
    try:
        opening = unix_connect(
            uri=f"ws://triune{path}",
            sock=transport.connect(_PATIENCE),
            subprotocols=[Subprotocol(SUBPROTOCOL)],
            additional_headers=headers,
            compression=None,
            max_size=_MAX_MESSAGE,
            ping_interval=None,
            open_timeout=_PATIENCE,
            close_timeout=_CLOSING,
        )
        # Entered, as the library asks for; the session's `close` takes the part of leaving.
        connection = opening.__enter__()
        connection.send(json.dumps(dict(command)))
    except (WebSocketException, OSError) as error:
        raise Unreachable(
            "session_refused",
            f"the daemon at {transport.socket_path} opened no session: {error}",
            hint="See whether it runs and is of the same version: triune version",
        ) from None
    return Session(connection, path)
