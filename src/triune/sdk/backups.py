"""Backups of instances in a repository."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlencode

from triune.sdk.http import ProtocolError
from triune.sdk.transport import Transport, segment, target

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from triune.sdk.types import BackupRow, OperationRow

_PATIENCE = 180.0


class Backups:
    """Verified copies of instances, kept away from them.

    `repository` is a folder of the daemon's host, `sftp:…` or `s3:…`, "" the configured one; `password_file` a file of
    the daemon's host with its key, "" the configured one. What takes long returns the operation that does it.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self, *, repository: str = "", password_file: str = "", instance: str | None = None) -> list[BackupRow]:
        """All, the oldest first, or those of one instance."""
        filtered = f"instance={instance}" if instance else None
        where = {"repository": repository or None, "password_file": password_file or None, "filter": filtered}
        found: list[BackupRow] = []
        cursor: object = None
        while True:
            page = self._transport.call(
                "GET", target("/v1/backups", limit=1000, cursor=cursor, **where), timeout=_PATIENCE
            )
            found += page["items"]
            cursor = page["next"]
            if not cursor:
                return found

    def create(self, instance: str, *, repository: str = "", password_file: str = "") -> OperationRow:
        """Back up one instance; the operation's result has `backup` (its id), `size`, `added`, `consistency`…"""
        return self._post("", {"instance": instance}, repository, password_file)

    def restore(
        self,
        backup: str,
        name: str,
        *,
        repository: str = "",
        password_file: str = "",
        start: bool = False,
        skip_damaged: bool = False,
        publish: bool = True,
    ) -> OperationRow:
        """A new instance of a backup's id, or of the newest backup of an instance's name."""
        body = {"name": name, "start": start, "skip_damaged": skip_damaged, "publish": publish}
        return self._post(f"/{segment(backup)}/restore", body, repository, password_file)

    def verify(self, *, repository: str = "", password_file: str = "") -> OperationRow:
        """Read and check every byte; the result is `{ok, backups, damaged, problems}`."""
        return self._post("/verify", {}, repository, password_file)

    def prune(
        self,
        keep: Mapping[str, int],
        *,
        instance: str | None = None,
        dry_run: bool = False,
        repository: str = "",
        password_file: str = "",
    ) -> OperationRow:
        """Let go of what `keep` (last, hourly, daily, weekly, monthly, yearly) does not keep."""
        body = {"keep": dict(keep), "instance": instance, "dry_run": dry_run}
        return self._post("/prune", body, repository, password_file)

    def extract(
        self, backup: str, paths: Sequence[str], folder: str, *, repository: str = "", password_file: str = ""
    ) -> OperationRow:
        """Put files and folders of a backup into a folder of the daemon's host."""
        body = {"paths": [*paths], "target": folder}
        return self._post(f"/{segment(backup)}/extract", body, repository, password_file)

    def remove(self, backup: str, *, repository: str = "", password_file: str = "") -> OperationRow:
        """Remove one, and free what only it needed."""
        where = target(f"/v1/backups/{segment(backup)}", repository=repository, password_file=password_file)
        found: OperationRow = self._transport.call("DELETE", where, timeout=_PATIENCE)
        return found

    def content(self, backup: str, path: str, *, repository: str = "", password_file: str = "") -> Iterator[bytes]:
        """A file of a backup, in pieces. Raises NotFound, Unreachable where it breaks off."""
        query = {"path": path, "repository": repository, "password_file": password_file}
        where = f"/v1/backups/{segment(backup)}/content?{urlencode(query)}"
        response = self._transport.open("GET", where, timeout=_PATIENCE)

        def pieces() -> Iterator[bytes]:
            from triune.domain.errors import Unreachable

            try:
                yield from response.chunks()
            except (OSError, ProtocolError) as error:
                raise Unreachable(
                    "content_broke_off",
                    f"{path} of the backup {backup} broke off: {error}",
                    hint="See whether the repository is whole: triune backup verify",
                ) from None
            finally:
                response.close()

        return pieces()

    def _post(self, path: str, body: Mapping[str, object], repository: str, password_file: str) -> OperationRow:
        whole = {**body, "repository": repository, "password_file": password_file}
        found: OperationRow = self._transport.call("POST", f"/v1/backups{path}", whole, timeout=_PATIENCE)
        return found
