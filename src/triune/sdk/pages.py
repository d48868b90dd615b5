"""Walking through lists that come in pages."""

from __future__ import annotations

from triune.sdk.transport import target

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from triune.sdk.transport import Transport


def pages(transport: Transport, path: str, **parameters: object) -> Iterator[dict[str, Any]]:
    """Every page of a list, `{items, next, …}`, following its cursors."""
    cursor: object = None
    while True:
        page: dict[str, Any] = transport.call("GET", target(path, cursor=cursor, **parameters))
        yield page
        cursor = page.get("next")
        if not cursor:
            return
