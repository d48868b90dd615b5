"""Commands and consoles over WebSockets: one thread reads the session, one writes it, queues between are short.

Frames of subprotocol `triune.v1`: the client's first message is text, JSON; all others are binary, first byte the
channel: 0 stdin (empty: end of input), 1 stdout, 2 stderr, 3 resize (JSON), 4 the end (JSON: `{"code": N}` or a
problem document), always the last message, 5 credit: 4 bytes, big-endian, how many bytes of stdin were taken.

A client has at most `WINDOW` bytes of stdin under way that no credit has answered. So the daemon always reads the
connection, sees at once when a client goes away, and neither side ever waits for the other to read while the other
waits for it (a command like `cat` fills both directions at the same time).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any, TypeVar

import anyio
import anyio.from_thread
import anyio.to_thread
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from pydantic import BaseModel, ValidationError
from starlette.websockets import WebSocket, WebSocketDisconnect

from triune.api.calls import Calls, calls
from triune.api.errors import document
from triune.api.schemas import TerminalBody
from triune.api.streams import Open
from triune.domain.errors import Failed, Invalid, TriuneError
from triune.engines.base import Session

log = logging.getLogger(__name__)

SUBPROTOCOL = "triune.v1"
STDIN, STDOUT, STDERR, RESIZE, EXIT, CREDIT = range(6)
WINDOW = 2**20

_PIECE = 64 * 1024
_AHEAD = 4
_FIRST = 30.0
# Messages without data cost memory too: no honest client has more of them waiting.
_WAITING = 4096

M = TypeVar("M", bound=BaseModel)


async def serve(socket: WebSocket, schema: type[M], open_session: Callable[[M], Session]) -> None:
    """Accept the connection, read the first message, open the session and carry it to its end."""
    if SUBPROTOCOL not in socket.scope.get("subprotocols", []):
        await socket.accept()
        await _end(socket, Invalid("bad_subprotocol", f"the client does not speak {SUBPROTOCOL}", hint="Update it."))
        return
    await socket.accept(subprotocol=SUBPROTOCOL)
    limits = calls(socket)
    try:
        limits.require_stream()
        request = await _first(socket, schema)
        session = await anyio.to_thread.run_sync(open_session, request, limiter=limits.streams)
    except WebSocketDisconnect:
        return
    except Exception as error:
        await _end(socket, error)
        return
    await Bridge(socket, session, limits).run()


async def _first(socket: WebSocket, schema: type[M]) -> M:
    with anyio.move_on_after(_FIRST):
        message = await socket.receive()
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect
        try:
            return schema.model_validate_json(message.get("text") or "")
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise Invalid(
                "bad_request", f"{where or 'the first message'}: {first['msg']}", hint="See docs/API.md, frames."
            ) from None
    raise Invalid("no_command", f"no command came within {_FIRST:g} s", hint="Send it as the first message.")


class Bridge:
    """Carries one session over one WebSocket."""

    def __init__(self, socket: WebSocket, session: Session, limits: Calls) -> None:
        self._socket = socket
        self._session = session
        self._limits = limits
        self._opened: Open = socket.app.state.opened
        self._sending = anyio.Lock()
        self._waiting = 0

    async def run(self) -> None:
        """Return once the command has ended or the client is gone; in the latter case the session is closed."""
        outcome: dict[str, Any] | None = None
        self._opened.add(self._session.close)
        try:
            async with anyio.create_task_group() as group:
                sender, receiver = anyio.create_memory_object_stream[tuple[int, bytes]](_WAITING)
                group.start_soon(self._incoming, sender, group.cancel_scope)
                group.start_soon(self._writing, receiver)
                outcome = await self._outgoing()
                group.cancel_scope.cancel()
        finally:
            self._opened.remove(self._session.close)
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(self._session.close)
        if outcome is not None:
            await _finish(self._socket, outcome)

    async def _outgoing(self) -> dict[str, Any] | None:
        """Session to client; returns what to say at the end, or None when the client is gone."""
        sender, receiver = anyio.create_memory_object_stream[bytes](_AHEAD)
        ended: list[dict[str, Any]] = []

        def pump() -> None:
            try:
                while (found := self._session.read()) is not None:
                    stream, data = found
                    for at in range(0, len(data), _PIECE):
                        frame = bytes([STDERR if stream == 2 else STDOUT]) + data[at : at + _PIECE]
                        anyio.from_thread.run(sender.send, frame)
                ended.append({"code": self._session.wait()})
            except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                return
            except Exception as error:
                ended.append(_told(error, self._socket))
            finally:
                anyio.from_thread.run_sync(sender.close)

        async with anyio.create_task_group() as group:

            async def read() -> None:
                await anyio.to_thread.run_sync(pump, limiter=self._limits.streams, abandon_on_cancel=True)

            group.start_soon(read)
            async for frame in receiver:
                if not await self._send(frame):
                    group.cancel_scope.cancel()
                    return None
        return ended[0] if ended else None

    async def _incoming(self, sender: MemoryObjectSendStream[tuple[int, bytes]], scope: anyio.CancelScope) -> None:
        """Client to queue; a client that goes away, or sends more than its window, ends everything."""
        while True:
            message = await self._socket.receive()
            if message["type"] == "websocket.disconnect":
                break
            data = message.get("bytes")
            if not data or data[0] not in (STDIN, RESIZE):
                continue
            self._waiting += len(data) - 1 if data[0] == STDIN else 0
            try:
                sender.send_nowait((data[0], data[1:]))
            except anyio.WouldBlock:
                break
            if self._waiting > WINDOW:
                break
        scope.cancel()

    async def _writing(self, receiver: MemoryObjectReceiveStream[tuple[int, bytes]]) -> None:
        """Queue to session."""

        def pump() -> None:
            taken = True
            while True:
                channel, data = anyio.from_thread.run(receiver.receive)
                if channel == RESIZE:
                    self._resize(data)
                elif not data:
                    self._session.close_stdin()
                else:
                    taken = taken and self._give(data)
                    anyio.from_thread.run(self._credit, len(data))

        try:
            await anyio.to_thread.run_sync(pump, limiter=self._limits.streams, abandon_on_cancel=True)
        except (anyio.EndOfStream, anyio.ClosedResourceError):
            return

    def _give(self, data: bytes) -> bool:
        """Whether the command took it: one that closed its stdin, or ended, takes no more."""
        try:
            self._session.write(data)
        except (OSError, TriuneError) as error:
            log.debug("input of %s is no longer read: %s", self._socket.url.path, error)
            return False
        return True

    async def _credit(self, size: int) -> None:
        """Tell the client that so much of its input was taken."""
        self._waiting -= size
        await self._send(bytes([CREDIT]) + size.to_bytes(4, "big"))

    def _resize(self, data: bytes) -> None:
        try:
            size = TerminalBody.model_validate_json(data)
        except ValidationError:
            return
        self._session.resize(size.columns, size.rows)

    async def _send(self, frame: bytes) -> bool:
        """Whether the client is still there."""
        async with self._sending:
            try:
                await self._socket.send_bytes(frame)
            except (WebSocketDisconnect, RuntimeError, OSError):
                return False
        return True


def _told(error: Exception, socket: WebSocket) -> dict[str, Any]:
    if not isinstance(error, TriuneError):
        log.error("session at %s failed", socket.url.path, exc_info=error)
        error = Failed("internal", f"unexpected {type(error).__name__} in the daemon", hint="See the daemon's log.")
    return document(error, socket.url.path)


async def _end(socket: WebSocket, error: Exception) -> None:
    await _finish(socket, _told(error, socket))


async def _finish(socket: WebSocket, outcome: dict[str, Any]) -> None:
    try:
        await socket.send_bytes(bytes([EXIT]) + json.dumps(outcome, default=str).encode())
        await socket.close()
    except (WebSocketDisconnect, RuntimeError, OSError):
        return
