"""Networks: look at them, make and remove them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from triune.sdk.pages import pages
from triune.sdk.transport import Transport, segment, target

if TYPE_CHECKING:
    from triune.sdk.types import NetworkRow


class Networks:
    """The segments that instances join."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self) -> list[NetworkRow]:
        """All networks by name."""
        return [row for page in pages(self._transport, "/v1/networks", limit=1000) for row in page["items"]]

    def get(self, name: str) -> NetworkRow:
        """One network. Raises NotFound."""
        found: NetworkRow = self._transport.call("GET", f"/v1/networks/{segment(name)}")
        return found

    def create(self, name: str, subnet: str | None = None) -> NetworkRow:
        """Make a further one; its bridge has its name. Raises Invalid or Conflict."""
        found: NetworkRow = self._transport.call("POST", "/v1/networks", {"name": name, "subnet": subnet})
        return found

    def remove(self, name: str, *, force: bool = False) -> None:
        """Take one down. Raises Conflict while instances use it, unless `force`."""
        self._transport.call("DELETE", target(f"/v1/networks/{segment(name)}", force=force))
