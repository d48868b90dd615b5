"""The scheduled action `snapshot`."""

from __future__ import annotations

from collections.abc import Callable

from triune.domain.operation import Operation
from triune.services.schedules import Schedule
from triune.services.snapshots.service import SnapshotRequest, Snapshots


def scheduled(snapshots: Snapshots) -> Callable[[Schedule], Operation]:
    """What a run of a schedule does: take a snapshot, and let the oldest beyond `keep["last"]` go.

    `options` may have `memory` (bool).
    """

    def run(schedule: Schedule) -> Operation:
        request = SnapshotRequest(
            instance=schedule.subject,
            memory=bool(schedule.options.get("memory")),
            schedule=schedule.name,
            keep=schedule.keep.get("last"),
        )
        return snapshots.create(request)

    return run
