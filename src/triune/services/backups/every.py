"""A backup of every instance: one operation that begins an ordinary one for each, one after the other."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from triune.domain.errors import Cancelled, Failed, TriuneError
from triune.domain.operation import Operation, OperationState
from triune.services.operations import Operations, Task

_LOOK = 0.5
_PATIENCE = 600.0
_NAMED = 5


class Round:
    """Backs up some instances. One that fails keeps no other from its turn; one that is busy gets it last."""

    def __init__(
        self, operations: Operations, create: Callable[[str], Operation], *, patience: float = _PATIENCE
    ) -> None:
        self._operations = operations
        self._create = create
        self._patience = patience
        self._made: dict[str, str] = {}
        self._failed: dict[str, str] = {}

    def run(self, names: Sequence[str], task: Task) -> dict[str, Any]:
        """Returns `{"backups": {NAME: ID}}`. Raises Failed("backups_failed") at the end where one is lacking."""
        busy = self._each(names, task)
        deadline = time.monotonic() + self._patience
        while busy and time.monotonic() < deadline:
            task.step("wait", f"waiting for {', '.join(busy[:_NAMED])}")
            while not (free := self._free(busy)) and time.monotonic() < deadline:
                task.cancelled.wait(_LOOK)
                task.check()
            busy = [name for name in busy if name not in free] + self._each(free, task)
        if self._failed:
            raise self._lacking(len(names))
        return {"backups": self._made}

    def _each(self, names: Sequence[str], task: Task) -> list[str]:
        """Take them in turn; returns those that something else is done with."""
        busy = []
        for name in names:
            self._failed.pop(name, None)
            try:
                task.step("backup", f"backing up {name}")
                self._end(name, self._create(name), task)
            except Cancelled:
                raise
            except TriuneError as error:
                if error.code == "busy":
                    busy.append(name)
                elif error.code == "instance_not_found":  # removed since
                    continue
                self._failed[name] = error.message
        return busy

    def _end(self, name: str, operation: Operation, task: Task) -> None:
        while not operation.state.ended:
            operation = self._operations.wait(operation.id, _LOOK)
            self._pass_on(operation, task)
        if operation.state is OperationState.DONE:
            self._made[name] = operation.result["backup"]
        elif (operation.error or {}).get("code") != "instance_not_found":
            self._failed[name] = str((operation.error or {}).get("message") or operation.state.value)

    def _pass_on(self, operation: Operation, task: Task) -> None:
        """What is asked of the whole is asked of the part that is under way."""
        try:
            task.check()
        except TriuneError:
            if operation.may_cancel and not operation.state.ended:
                self._operations.cancel(operation.id)
            raise

    def _free(self, names: list[str]) -> list[str]:
        return [name for name in names if self._operations.locks.holder(f"instances/{name}") is None]

    def _lacking(self, wanted: int) -> Failed:
        said = "; ".join(f"{name}: {message}" for name, message in sorted(self._failed.items())[:_NAMED])
        more = "; …" if len(self._failed) > _NAMED else ""
        return Failed(
            "backups_failed",
            f"{len(self._failed)} of {wanted} instances could not be backed up: {said}{more}",
            hint="The others are. Mend it and repeat: triune backup create NAME",
            backups=self._made,
            failed=self._failed,
        )
