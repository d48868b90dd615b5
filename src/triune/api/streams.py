"""Endless responses: blocking sources in threads, the client's pace all the way down.

A source's thread hands its pieces to the event loop through a short queue; when the client does not read, the thread
stands still. When the client goes away (or the daemon ends), the source is stopped and its thread ends.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import anyio
import anyio.from_thread
import anyio.to_thread
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from triune.api import views
from triune.api.calls import Calls
from triune.app import Triune
from triune.services.operations import Event

log = logging.getLogger(__name__)

HEARTBEAT = 15.0
# Headers are sent after the first piece, or after this time: a source that fails until then is answered with its
# error. An engine that hangs is found out within two seconds of each question.
_PATIENCE = 6.0
_AHEAD = 4
_SETTLING = 5.0
_TOGETHER = 0.05


class Source(Protocol):
    """A blocking iteration that another thread can end."""

    def pieces(self) -> Iterator[bytes]:
        """The pieces; blocks between them."""

    def stop(self) -> None:
        """Make `pieces` end soon."""


class Open:
    """The streams and sessions now served, so that a daemon that ends can end them."""

    def __init__(self) -> None:
        self._stops: set[Callable[[], None]] = set()
        self.closing = False

    def add(self, stop: Callable[[], None]) -> None:
        """Remember how to stop one."""
        self._stops.add(stop)

    def remove(self, stop: Callable[[], None]) -> None:
        """It ended."""
        self._stops.discard(stop)

    def close(self) -> None:
        """Stop them all."""
        self.closing = True
        for stop in list(self._stops):
            stop()


class ThreadStream(Response):
    """A response whose body comes from a blocking source."""

    def __init__(self, source: Source, calls: Calls, opened: Open, media_type: str) -> None:
        super().__init__(media_type=media_type, headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._source = source
        self._calls = calls
        self._opened = opened
        self._failure: Exception | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it until it ends, fails, or the client goes away."""
        sender, receiver = anyio.create_memory_object_stream[bytes](_AHEAD)
        self._opened.add(self._source.stop)
        failure: Exception | None = None
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._produce, sender)
                group.start_soon(self._watch, receive, group.cancel_scope)
                try:
                    await self._forward(receiver, send)
                except Exception as error:  # not through the group, which would wrap it
                    failure = error
                group.cancel_scope.cancel()
        finally:
            self._opened.remove(self._source.stop)
            self._source.stop()
            receiver.close()
        if failure is not None:
            raise failure

    async def _forward(self, receiver: MemoryObjectReceiveStream[bytes], send: Send) -> None:
        first: bytes | None = None
        with anyio.move_on_after(_PATIENCE):
            first = await anext(receiver, None)
        if self._failure is not None:
            raise self._failure
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        if first is not None:
            await send({"type": "http.response.body", "body": first, "more_body": True})
        async for piece in receiver:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        if self._failure is not None:
            raise self._failure
        await send({"type": "http.response.body", "body": b""})

    async def _produce(self, sender: MemoryObjectSendStream[bytes]) -> None:
        def pump() -> None:
            try:
                for piece in self._source.pieces():
                    anyio.from_thread.run(sender.send, piece)
            except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                return
            except Exception as error:
                self._failure = error

        try:
            await anyio.to_thread.run_sync(pump, limiter=self._calls.streams, abandon_on_cancel=True)
        finally:
            sender.close()

    async def _watch(self, receive: Receive, scope: anyio.CancelScope) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        scope.cancel()


class Lines:
    """A source made of an iteration that asks whether to stop (logs)."""

    def __init__(self, make: Callable[[Callable[[], bool]], Iterator[bytes]]) -> None:
        self._stop = threading.Event()
        self._make = make

    def pieces(self) -> Iterator[bytes]:
        """What the iteration yields."""
        return self._make(self._stop.is_set)

    def stop(self) -> None:
        """Tell it."""
        self._stop.set()


class _Subscribed:
    """What event sources share: a subscription that can be woken up."""

    def __init__(self, triune: Triune) -> None:
        self._triune = triune
        self._stopped = False
        self._subscription = triune.events.subscribe()

    def heard(self) -> Event | None:
        """The next event; None after some silence, when woken up, or when the rest was lost."""
        return self._subscription.get(0 if self._subscription.lagged else HEARTBEAT)

    def stop(self) -> None:
        """Wake the thread and let it end."""
        self._stopped = True
        self._subscription.close()
        self._subscription.put(None)


class EventStream(_Subscribed):
    """The events as SSE: those kept after number `since`, then the new ones."""

    def __init__(
        self, triune: Triune, *, since: int | None, kind: str | None, subject: str | None, follow: bool
    ) -> None:
        super().__init__(triune)
        self._since = since
        self._kind = kind
        self._subject = subject
        self._follow = follow

    def pieces(self) -> Iterator[bytes]:
        """SSE messages; a comment every 15 seconds of silence; `resync` where events were lost."""
        last = 0
        yield b": triune events\n\n"
        if self._since is not None:
            events = self._triune.events
            if self._gone(self._since):
                yield resync(events.sequence)
                last = events.sequence
            else:
                last = self._since
                while batch := events.since(last):
                    for event in batch:
                        last = event.sequence
                        if self._wanted(event):
                            yield message(event)
        while self._follow and not self._stopped:
            heard = self.heard()
            if heard is not None:
                if heard.sequence > last and self._wanted(heard):
                    yield message(heard)
            elif self._subscription.lagged:
                yield resync(self._triune.events.sequence)
                return
            elif not self._stopped:
                yield b": \n\n"

    def _gone(self, since: int) -> bool:
        events = self._triune.events
        # Who asks from 0 on has seen none, so nothing of what it has seen can be out of date.
        return since > events.sequence or 0 < since < events.forgotten

    def _wanted(self, event: Event) -> bool:
        return event.type.startswith(self._kind or "") and self._subject in (None, event.subject)


class OperationStream(_Subscribed):
    """One operation as SSE: now, and at its changes, until it has ended.

    Changes that follow each other quickly are told as one: what runs does not wait for its being told of.
    """

    def __init__(self, triune: Triune, operation: str) -> None:
        super().__init__(triune)
        self._operation = operation

    def pieces(self) -> Iterator[bytes]:
        """SSE messages, each the whole operation."""
        while not self._stopped:
            found = self._triune.operations.get(self._operation)
            if found.state.ended:
                # Told only once its locks are free: the client's next request must not find it busy.
                yield _data(views.operation(self._triune.operations.wait(self._operation, _SETTLING)))
                return
            yield _data(views.operation(found))
            while not self._stopped:
                heard = self.heard()
                if heard is not None and heard.data.get("id") == self._operation:
                    self._gather()
                    break
                if heard is None:
                    if self._subscription.lagged:
                        return
                    yield b": \n\n"
                    break  # and look again: an end that could not be told is told now

    def _gather(self) -> None:
        """Let more changes come for a moment, unless it has ended."""
        until = time.monotonic() + _TOGETHER
        while not self._triune.operations.get(self._operation).state.ended:
            left = until - time.monotonic()
            if left <= 0 or self._subscription.get(left) is None:
                return


def message(event: Event) -> bytes:
    """One event; its number is the message's id."""
    return f"id: {event.sequence}\n".encode() + _data(views.event(event))


def resync(sequence: int) -> bytes:
    """Events were lost: read everything anew, and go on after `sequence`."""
    data: dict[str, Any] = {"sequence": sequence, "time": None, "type": "resync", "subject": "", "data": {}}
    return f"id: {sequence}\nevent: resync\n".encode() + _data(data)


def _data(value: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(value, separators=(",", ":")).encode() + b"\n\n"
