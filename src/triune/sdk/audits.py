"""Audits of instances' isolation."""

from __future__ import annotations

from triune.sdk.transport import Transport, segment

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from triune.sdk.types import OperationRow


class Audits:
    """How strongly instances are isolated, checked from inside."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def start(
        self, names: Sequence[str] = (), *, probe: bool = True, waivers: Sequence[Mapping[str, str]] = ()
    ) -> OperationRow:
        """Audit instances (none named: all). Once the operation is done, `report` has what was found.

        `waivers` are `{rule, instance, reason, expires}`. Raises NotFound, Invalid.
        """
        body = {"instances": list(names), "probe": probe, "waivers": [dict(one) for one in waivers]}
        found: OperationRow = self._transport.call("POST", "/v1/audits", body)
        return found

    def report(self, operation: str) -> dict[str, Any]:
        """The report (docs/AUDIT.md) of the audit that this operation was. Raises NotFound; the newest 20 are kept."""
        found: dict[str, Any] = self._transport.call("GET", f"/v1/audits/{segment(operation)}")
        return found

    def schema(self) -> dict[str, Any]:
        """The JSON Schema of a report."""
        found: dict[str, Any] = self._transport.call("GET", "/v1/audits/schema")
        return found
