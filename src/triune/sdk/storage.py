"""Pools and volumes."""

from __future__ import annotations

from typing import IO, TYPE_CHECKING, Any

from triune.sdk.pages import pages
from triune.sdk.transport import Transport, segment, target

if TYPE_CHECKING:
    from triune.sdk.types import OperationRow, PoolRow, VolumeRow


class Pools:
    """Where disks and trees live. What changes one returns the operation that does it."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self) -> list[PoolRow]:
        """All pools by name."""
        return [row for page in pages(self._transport, "/v1/pools", limit=1000) for row in page["items"]]

    def get(self, name: str) -> PoolRow:
        """One pool. Raises NotFound."""
        found: PoolRow = self._transport.call("GET", f"/v1/pools/{segment(name)}")
        return found

    def create(self, name: str, **options: Any) -> OperationRow:
        """Make one; options as in `POST /v1/pools`: `driver` (dir, btrfs, zfs), `path`, `size`, `dataset`."""
        made: OperationRow = self._transport.call("POST", "/v1/pools", {"name": name, **options})
        return made

    def remove(self, name: str) -> OperationRow:
        """Remove one. Raises Conflict while something uses it."""
        found: OperationRow = self._transport.call("DELETE", f"/v1/pools/{segment(name)}")
        return found


class Volumes:
    """Disks and folders with a life of their own. What changes one returns the operation that does it."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self) -> list[VolumeRow]:
        """All volumes by name."""
        return [row for page in pages(self._transport, "/v1/volumes", limit=1000) for row in page["items"]]

    def get(self, name: str) -> VolumeRow:
        """One volume. Raises NotFound."""
        found: VolumeRow = self._transport.call("GET", _path(name))
        return found

    def create(self, name: str, **options: Any) -> OperationRow:
        """Make an empty one; options as in `POST /v1/volumes`: `pool`, `kind` (tree, disk), `size`, `format`."""
        return self._change("POST", "/v1/volumes", {"name": name, **options})

    def import_path(self, name: str, path: str, **options: Any) -> OperationRow:
        """Make one of a file or folder of the daemon's host; options `pool`, `format`, `size`, `max_size`."""
        return self._change("POST", "/v1/volumes", {"source": "import", "name": name, "path": path, **options})

    def import_file(self, name: str, file: IO[bytes], length: int, **options: Any) -> OperationRow:
        """Send `length` bytes of an open file and make a volume of them; options as for `import_path`."""
        import json

        given = {key: value for key, value in options.items() if value is not None}
        response = self._transport.open(
            "PUT",
            target("/v1/volumes", name=name, **given),
            body=iter(lambda: file.read(2**20), b""),
            length=length,
            headers={"Content-Type": "application/octet-stream"},
            timeout=600,
        )
        found: OperationRow = json.loads(response.read())
        return found

    def export(self, name: str, path: str, form: str | None = None) -> OperationRow:
        """Write it to a new file of the daemon's host: a tree as tar, a disk as it is or as `form`."""
        return self._change("POST", _path(name, "export"), {"path": path, "format": form})

    def attach(self, instance: str, name: str, place: str = "", *, read_only: bool = False) -> OperationRow:
        """Show it to an instance at `place`; a disk has none."""
        where = f"/v1/instances/{segment(instance)}/volumes/{segment(name)}"
        return self._change("PUT", where, {"target": place, "read_only": read_only})

    def detach(self, instance: str, name: str) -> OperationRow:
        """Take it away from an instance. Raises Conflict("volume_busy") while something inside uses it."""
        return self._change("DELETE", f"/v1/instances/{segment(instance)}/volumes/{segment(name)}")

    def resize(self, name: str, size: int | str) -> OperationRow:
        """Grow or shrink it. Raises Conflict where what is in it does not fit."""
        return self._change("POST", _path(name, "resize"), {"size": size})

    def convert(self, name: str, form: str) -> OperationRow:
        """Give a disk another format: qcow2, raw, vmdk."""
        return self._change("POST", _path(name, "convert"), {"format": form})

    def remove(self, name: str) -> OperationRow:
        """Remove one. Raises Conflict while an instance uses it."""
        return self._change("DELETE", _path(name))

    def _change(self, method: str, where: str, body: object = None) -> OperationRow:
        found: OperationRow = self._transport.call(method, where, body)
        return found


def _path(name: str, action: str = "") -> str:
    return f"/v1/volumes/{segment(name)}" + (f"/{action}" if action else "")
