"""Operations as they are kept in the store."""

from __future__ import annotations

import secrets
import time
from datetime import datetime
from typing import Any

from triune.domain.operation import Operation, OperationState

PREFIX = "operations/"
# What could not be undone, by the operation's id: `{resource, journal}`.
LEFTOVERS = "leftovers/"


def new_id() -> str:
    """A server-assigned id that sorts by time: 11 hex digits of milliseconds, 8 of chance."""
    return f"{time.time_ns() // 1_000_000:011x}{secrets.token_hex(4)}"


def to_value(operation: Operation, journal: list[dict[str, Any]]) -> dict[str, Any]:
    """The JSON value of an operation; `journal` is what a restart would have to undo or finish."""
    return {
        "kind": operation.kind,
        "resource": operation.resource,
        "state": operation.state.value,
        "created": operation.created.isoformat(),
        "started": operation.started and operation.started.isoformat(),
        "ended": operation.ended and operation.ended.isoformat(),
        "steps": [[name, text, when.isoformat()] for name, text, when in operation.steps],
        "text": operation.text,
        "may_cancel": operation.may_cancel,
        "result": operation.result,
        "error": operation.error,
        "data": operation.data,
        "journal": journal,
    }


def from_value(operation_id: str, value: dict[str, Any]) -> Operation:
    """The operation of a JSON value."""
    return Operation(
        id=operation_id,
        kind=value["kind"],
        resource=value["resource"],
        state=OperationState(value["state"]),
        created=datetime.fromisoformat(value["created"]),
        started=_time(value["started"]),
        ended=_time(value["ended"]),
        steps=tuple((name, text, datetime.fromisoformat(when)) for name, text, when in value["steps"]),
        text=value["text"],
        may_cancel=value["may_cancel"],
        result=value["result"],
        error=value["error"],
        data=value["data"],
    )


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
