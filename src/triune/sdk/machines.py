"""Machines that were made elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

from triune.sdk.transport import Transport

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from triune.sdk.types import OperationRow

_PATIENCE = 60.0


class Machines:
    """Imports."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def import_machine(self, name: str, machine: Mapping[str, Any]) -> OperationRow:
        """Make an instance of a description (fields of `MachineBody`); whoever asks serves the disks until it ends."""
        body = {**machine, "name": name}
        found: OperationRow = self._transport.call("POST", "/v1/machines", body, timeout=_PATIENCE)
        return found
