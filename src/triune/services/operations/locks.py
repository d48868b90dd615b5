"""Named locks that say who holds them and why. Nobody waits: a busy resource is a clear error."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass

from triune.domain.errors import Conflict


@dataclass(frozen=True, slots=True)
class Holder:
    """The operation that holds a lock, and its action."""

    operation: str
    action: str


class Locks:
    """Locks by resource name, like `instances/web`."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._held: dict[str, Holder] = {}

    def acquire(self, names: Iterable[str], holder: Holder) -> None:
        """Take all of them or none. Raises Conflict("busy") naming the action that holds one."""
        wanted = list(names)
        with self._mutex:
            for name in wanted:
                if name in self._held:
                    held = self._held[name]
                    raise Conflict(
                        "busy",
                        f"{name.partition('/')[2] or name} is busy: {held.action} is under way",
                        hint=f"Wait for it (triune ops show {held.operation}) or cancel it "
                        f"(triune ops cancel {held.operation}).",
                        operation=held.operation,
                    )
            self._held.update((name, holder) for name in wanted)

    def release(self, holder: Holder) -> None:
        """Give back all that this operation holds."""
        with self._mutex:
            self._held = {name: held for name, held in self._held.items() if held.operation != holder.operation}

    def holder(self, name: str) -> Holder | None:
        """Who holds it now."""
        return self._held.get(name)
