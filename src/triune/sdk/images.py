"""Images: list, build, pull, import, remove."""

from __future__ import annotations

from typing import IO, TYPE_CHECKING, Any

from triune.sdk.pages import pages
from triune.sdk.transport import Transport, segment, target

if TYPE_CHECKING:
    from collections.abc import Sequence

    from triune.sdk.types import ImageRow, OperationRow, TemplateRow

_PIECE = 2**20


class Images:
    """What instances start from. Building, pulling and importing return the operation that does it."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self) -> list[ImageRow]:
        """All images by name."""
        return [row for page in pages(self._transport, "/v1/images", limit=1000) for row in page["items"]]

    def get(self, name: str) -> ImageRow:
        """One image. Raises NotFound."""
        found: ImageRow = self._transport.call("GET", _path(name))
        return found

    def build(self, name: str, **options: Any) -> OperationRow:
        """Build `debian/12` or `debian/13`; the options are those of `POST /v1/images` with source "build"."""
        return self._make({"source": "build", "name": name, **options})

    def pull(self, reference: str, *, username: str | None = None, password: str | None = None) -> OperationRow:
        """Pull `docker:NAME[:TAG]` from its registry."""
        credentials = {"username": username, "password": password or ""} if username else None
        return self._make({"source": "pull", "name": reference, "credentials": credentials})

    def import_path(self, name: str, path: str, **options: Any) -> OperationRow:
        """Import a file of the daemon's host by its absolute path."""
        return self._make({"source": "import", "name": name, "path": path, **options})

    def import_file(self, name: str, file: IO[bytes], size: int, **options: Any) -> OperationRow:
        """Send `size` bytes of an open file and import them; options as for `import_path`."""
        pieces = iter(lambda: file.read(_PIECE), b"")
        where = target("/v1/images", name=name, **options)
        response = self._transport.open(
            "PUT",
            where,
            body=pieces,
            length=size,
            headers={"Content-Type": "application/octet-stream"},
            timeout=600,
        )
        import json

        found: OperationRow = json.loads(response.read())
        return found

    def remove(self, name: str) -> OperationRow:
        """Remove it; the operation fails with a conflict while an instance uses it."""
        found: OperationRow = self._transport.call("DELETE", _path(name))
        return found

    def templates(self) -> Sequence[TemplateRow]:
        """What instances start warm from, of all images."""
        found: Sequence[TemplateRow] = self._transport.call("GET", "/v1/templates")["items"]
        return found

    def warm(self, name: str, **options: Any) -> OperationRow:
        """Boot an image once and save it; the options are those of `POST /v1/templates`."""
        found: OperationRow = self._transport.call("POST", "/v1/templates", {"image": name, **options})
        return found

    def cool(self, name: str) -> None:
        """Remove the templates of an image."""
        self._transport.call("DELETE", f"/v1/templates/{segment(name, slash=True)}")

    def _make(self, body: dict[str, Any]) -> OperationRow:
        found: OperationRow = self._transport.call("POST", "/v1/images", body)
        return found


def _path(name: str) -> str:
    return f"/v1/images/{segment(name, slash=True)}"
