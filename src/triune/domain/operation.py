"""Operations: long-running actions with progress, cancel, result and history."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol


class OperationState(StrEnum):
    """`interrupted`: the daemon ended while it ran; its leftovers were undone or it was finished."""

    PENDING = "pending"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen."""
        return self not in (OperationState.PENDING, OperationState.RUNNING)


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One action. `steps` are (name, text, time) in order; `fraction` 0 to 1 of the current step, or None."""

    id: str
    kind: str
    resource: str
    state: OperationState
    created: datetime
    started: datetime | None = None
    ended: datetime | None = None
    steps: tuple[tuple[str, str, datetime], ...] = ()
    text: str = ""
    fraction: float | None = None
    may_cancel: bool = True
    result: Any = None
    error: dict[str, Any] | None = None
    data: dict[str, Any] = field(default_factory=dict)


class Progress(Protocol):
    """What an engine or a service gets to tell how far it is. Narrow on purpose."""

    def step(self, name: str, text: str) -> None:
        """Begin a named step (kebab-case, stable); `text` is for people. Checks for cancellation."""

    def report(self, fraction: float | None, text: str = "") -> None:
        """Tell progress within the step. Cheap; may be called often. Checks for cancellation."""

    def check(self) -> None:
        """Raise Cancelled if the user asked for it."""


class Silent:
    """A Progress that tells nobody."""

    def step(self, name: str, text: str) -> None:
        """Ignore."""

    def report(self, fraction: float | None, text: str = "") -> None:
        """Ignore."""

    def check(self) -> None:
        """Never cancelled."""
