"""Blocking work from the event loop: always in threads, each kind with its own bound."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import anyio.to_thread
from anyio import CapacityLimiter
from starlette.requests import HTTPConnection

from triune.app import Triune
from triune.domain.errors import Unreachable

T = TypeVar("T")

_SHORT = 40
_WAITS = 200
_STREAMS = 256


class Calls:
    """The bounds: short calls, calls that wait for an operation, and streams (logs, events, sessions)."""

    def __init__(self) -> None:
        self.short = CapacityLimiter(_SHORT)
        self.waits = CapacityLimiter(_WAITS)
        self.streams = CapacityLimiter(_STREAMS)

    async def run(self, work: Callable[..., T], *args: Any, **options: Any) -> T:
        """Run a short call in a thread."""
        return await anyio.to_thread.run_sync(partial(work, *args, **options), limiter=self.short)

    async def wait(self, work: Callable[..., T], *args: Any) -> T:
        """Run a call that may take long in a thread."""
        return await anyio.to_thread.run_sync(partial(work, *args), limiter=self.waits)

    def require_stream(self) -> None:
        """Raise Unreachable when no more streams can be served; a session needs two threads."""
        if self.streams.available_tokens < 2:
            raise Unreachable(
                "too_many_streams",
                f"{_STREAMS} streams and sessions are open, more than the daemon serves at once",
                hint="End some: logs -f, events -f, exec, console.",
            )


def services(connection: HTTPConnection) -> Triune:
    """What the request is about."""
    found: Triune = connection.app.state.triune
    return found


def calls(connection: HTTPConnection) -> Calls:
    """How to do blocking work for it."""
    found: Calls = connection.app.state.calls
    return found
