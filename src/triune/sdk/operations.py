"""Operations: look, wait, cancel."""

from __future__ import annotations

import json
import time

from triune.domain.errors import Failed, from_dict
from triune.sdk.http import ProtocolError
from triune.sdk.pages import pages
from triune.sdk.sse import messages
from triune.sdk.transport import Transport, segment, target

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from triune.sdk.types import OperationRow

    OnProgress = Callable[[OperationRow], None]

ENDED = ("done", "failed", "cancelled", "interrupted")

_LONGEST = 60.0


class Operations:
    """Long-running actions, running and ended."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self, *, limit: int = 100, running: bool = False) -> list[OperationRow]:
        """The newest `limit` operations, newest first; with `running` only those that have not ended."""
        found: list[OperationRow] = []
        for page in pages(self._transport, "/v1/operations", limit=min(limit, 1000), running=running or None):
            found += page["items"]
            if len(found) >= limit:
                break
        return found[:limit]

    def get(self, operation: str) -> OperationRow:
        """One operation. Raises NotFound."""
        found: OperationRow = self._transport.call("GET", f"/v1/operations/{segment(operation)}")
        return found

    def cancel(self, operation: str) -> OperationRow:
        """Ask it to stop; it removes what it had made. Raises Conflict when it can't be cancelled any more."""
        found: OperationRow = self._transport.call("DELETE", f"/v1/operations/{segment(operation)}")
        return found

    def wait(self, operation: str, *, timeout: float | None = None, progress: OnProgress | None = None) -> OperationRow:
        """Wait until it has ended (or `timeout` seconds passed) and return it; `progress` is told of each change."""
        if progress is not None:
            ended = self._follow(operation, timeout, progress)
            if ended is not None:
                return ended
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            left = _LONGEST if deadline is None else min(_LONGEST, max(0.0, deadline - time.monotonic()))
            where = target(f"/v1/operations/{segment(operation)}/wait", timeout=round(left, 3))
            found: OperationRow = self._transport.call("GET", where, timeout=left + 30)
            if progress is not None:
                progress(found)
            if found["state"] in ENDED or (deadline is not None and time.monotonic() >= deadline):
                return found

    def result(self, operation: str, *, timeout: float | None = None, progress: OnProgress | None = None) -> Any:
        """Wait for it and return its result. Raises its error if it failed, Failed("still_running") in time-out."""
        return outcome(self.wait(operation, timeout=timeout, progress=progress))

    def _follow(self, operation: str, timeout: float | None, progress: OnProgress) -> OperationRow | None:
        """By events; None when it has not ended in time, or the stream broke off."""
        deadline = None if timeout is None else time.monotonic() + timeout
        for found in self._changes(operation):
            progress(found)
            if found["state"] in ENDED:
                return found
            if deadline is not None and time.monotonic() >= deadline:
                break
        return None

    def _changes(self, operation: str) -> Iterator[OperationRow]:
        where = f"/v1/operations/{segment(operation)}/events"
        response = self._transport.open("GET", where, headers={"Accept": "text/event-stream"})
        try:
            for message in messages(response.chunks()):
                if message.event:
                    yield json.loads(message.data)
        except (OSError, ProtocolError, ValueError):
            return
        finally:
            response.close()


def outcome(operation: OperationRow) -> Any:
    """The result of an ended operation. Raises its error, or Failed("still_running")."""
    if operation["state"] == "done":
        return operation["result"]
    if operation["state"] not in ENDED:
        raise Failed(
            "still_running",
            f"operation {operation['id']} has not ended yet",
            hint=f"Wait for it: triune ops wait {operation['id']}",
        )
    raise from_dict(dict(operation["error"] or {}))
