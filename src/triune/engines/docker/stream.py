"""A connection to the engine's socket whose answer is a stream: events, logs, and the hijacked ones of exec and attach.

The SDK reads such answers past a buffer that may already hold their first bytes, so these are opened here. Plain
streams ask in HTTP/1.0: the answer then is the bytes themselves up to the end of the connection, without chunks.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import socket
from collections.abc import Mapping
from types import TracebackType
from typing import Any
from urllib.parse import urlencode

from triune.host import polling

_CONNECT = 1.5
# Until the engine's headers; an exec waits for the runtime here, a pull for the registry.
_ANSWER = 120.0
_HEADERS_CAP = 65536
_MESSAGE_CAP = 65536
_PIECE = 65536


class RawStream:
    """One thread may read, another write, any may close."""

    def __init__(self, sock: socket.socket, status: int, length: int | None, rest: bytes) -> None:
        self.status = status
        self._sock = sock
        self._length = length
        self._rest = rest

    @classmethod
    def open(
        cls,
        socket_path: str,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        body: Mapping[str, Any] | None,
        headers: Mapping[str, str] | None = None,
        *,
        hijack: bool,
    ) -> RawStream:
        """Send the request and read the answer's headers. Raises OSError (TimeoutError too)."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(_CONNECT)
            sock.connect(socket_path)
            sock.sendall(_request(method, path, query, body, headers, hijack=hijack))
            sock.settimeout(_ANSWER)
            status, length, rest = _answer(sock)
            sock.settimeout(None)
        except BaseException:
            sock.close()
            raise
        return cls(sock, status, length, rest)

    def recv(self, timeout: float | None = None) -> bytes | None:
        """Return the next bytes, b"" at the end, or None when none came within `timeout` seconds."""
        if self._rest:
            rest, self._rest = self._rest, b""
            return rest
        try:
            if timeout is not None and not polling.ready([self._sock.fileno()], timeout=timeout):
                return None
            return self._sock.recv(_PIECE)
        except (OSError, ValueError):
            # Closed by another thread, or the engine went away.
            return b""

    def send(self, data: bytes) -> None:
        """Write all of it. What the other side no longer reads is dropped, as a pipe to an ended command would."""
        try:
            self._sock.sendall(data)
        except OSError:
            return

    def half_close(self) -> None:
        """Say that nothing more will be written."""
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError:
            return

    def close(self) -> None:
        """End it; a blocked `recv` in another thread returns."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()

    def message(self) -> str:
        """The engine's sentence in an error answer."""
        self._sock.settimeout(_CONNECT)
        expected = _MESSAGE_CAP if self._length is None else min(self._length, _MESSAGE_CAP)
        text = b""
        while len(text) < expected and (piece := self.recv()):
            text += piece
        try:
            return str(json.loads(text)["message"])
        except (ValueError, KeyError, TypeError):
            return text.decode(errors="replace")

    def __enter__(self) -> RawStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _request(
    method: str,
    path: str,
    query: Mapping[str, str] | None,
    body: Mapping[str, Any] | None,
    headers: Mapping[str, str] | None,
    *,
    hijack: bool,
) -> bytes:
    target = f"{path}?{urlencode(query)}" if query else path
    payload = b"" if body is None else json.dumps(body).encode()
    sent = {"Host": "docker", "Content-Type": "application/json", "Content-Length": str(len(payload))}
    sent.update({"Connection": "Upgrade", "Upgrade": "tcp"} if hijack else {})
    sent.update(headers or {})
    lines = [f"{method} {target} HTTP/1.{1 if hijack else 0}", *(f"{key}: {value}" for key, value in sent.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("ascii") + payload


def _answer(sock: socket.socket) -> tuple[int, int | None, bytes]:
    """Read up to the end of the headers: (status, length of the body if told, bytes that came after them)."""
    data = b""
    while (end := data.find(b"\r\n\r\n")) < 0:
        piece = sock.recv(_PIECE)
        if not piece or len(data) > _HEADERS_CAP:
            raise ConnectionError("the engine closed the connection before it answered")
        data += piece
    status_line, _, headers = data[: end + 4].partition(b"\r\n")
    words = status_line.split(None, 2)
    if len(words) < 2 or not words[1].isdigit():
        raise ConnectionError("the engine's answer is not HTTP")
    length = http.client.parse_headers(io.BytesIO(headers)).get("Content-Length", "")
    return int(words[1]), int(length) if length.isdigit() else None, data[end + 4 :]
