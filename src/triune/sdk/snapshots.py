"""Snapshots of instances, and schedules that take them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from triune.sdk.pages import pages
from triune.sdk.transport import Transport, segment, target

if TYPE_CHECKING:
    from collections.abc import Mapping

    from triune.sdk.types import OperationRow, ScheduleRow, SnapshotRow


class Snapshots:
    """Points in time of instances. What changes something returns the operation that does it."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self, instance: str) -> list[SnapshotRow]:
        """All of an instance, the oldest first."""
        return [row for page in pages(self._transport, _path(instance), limit=1000) for row in page["items"]]

    def get(self, instance: str, snapshot: str) -> SnapshotRow:
        """One of them. Raises NotFound."""
        found: SnapshotRow = self._transport.call("GET", _path(instance, snapshot))
        return found

    def create(
        self,
        instance: str,
        name: str | None = None,
        *,
        memory: bool = False,
        expires: str | None = None,
        comment: str = "",
    ) -> OperationRow:
        """Take one; the operation's result has its `name`. `expires` like "7d", or a time (RFC 3339)."""
        body = {"name": name, "memory": memory, "expires": expires, "comment": comment}
        found: OperationRow = self._transport.call("POST", _path(instance), body)
        return found

    def restore(self, instance: str, snapshot: str, *, force: bool = False) -> OperationRow:
        """Put the instance back; a running one needs `force`: it is stopped, put back and started again."""
        found: OperationRow = self._transport.call("POST", _path(instance, snapshot) + "/restore", {"force": force})
        return found

    def remove(self, instance: str, snapshot: str) -> OperationRow:
        """Remove one; the operation fails with Conflict where others need it."""
        found: OperationRow = self._transport.call("DELETE", _path(instance, snapshot))
        return found


class Schedules:
    """What is done again and again."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self, action: str | None = None) -> list[ScheduleRow]:
        """All by name, or those of one action ("snapshot", "backup")."""
        filtered = f"action={action}" if action else None
        where = pages(self._transport, "/v1/schedules", limit=1000, filter=filtered)
        return [row for page in where for row in page["items"]]

    def get(self, name: str) -> ScheduleRow:
        """One of them. Raises NotFound."""
        found: ScheduleRow = self._transport.call("GET", f"/v1/schedules/{segment(name)}")
        return found

    def create(
        self,
        subject: str | None,
        *,
        name: str | None = None,
        every: float | str | None = None,
        at: str | None = None,
        keep: int | Mapping[str, int] | None = None,
        action: str = "snapshot",
        **options: object,
    ) -> ScheduleRow:
        """Do `action` (snapshot, backup) with an instance `every` so often ("1h"), or daily `at` "03:00".

        `subject` None: with every instance, those launched later included (of backups only).
        `keep` the newest so many; of backups also by word (daily, weekly, …). `options`: `memory` of snapshots,
        `repository` and `password_file` of backups.
        """
        body = {"name": name, "subject": subject, "every": every, "at": at, "keep": keep, "action": action, **options}
        found: ScheduleRow = self._transport.call("POST", "/v1/schedules", body)
        return found

    def remove(self, name: str) -> None:
        """Remove one; what it made stays."""
        self._transport.call("DELETE", target(f"/v1/schedules/{segment(name)}"))


def _path(instance: str, snapshot: str = "") -> str:
    where = f"/v1/instances/{segment(instance)}/snapshots"
    return f"{where}/{segment(snapshot)}" if snapshot else where
