"""What requests and replies about snapshots, clones and schedules look like."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, Field

from triune.api.schemas import Body, Name, Seconds, Text, list_row
from triune.domain.snapshot import Consistency

Period = Annotated[
    Annotated[float, Field(ge=0, le=1e9)] | Annotated[str, Field(max_length=40)],
    Field(description="Seconds, or text like 1h"),
]

Kept = Annotated[int, Field(ge=1, le=100_000)]
_KEPT = "How many stay; left out: all. Of backups also by last, hourly, daily, weekly, monthly, yearly"


class SnapshotBody(Body):
    """What to take."""

    name: Annotated[Name | None, Field(description="Left out: snap-YYYYMMDD-HHMMSS")] = None
    memory: Annotated[bool, Field(description="With the running state")] = False
    expires: Annotated[str | None, Field(max_length=64, description="Like 7d, or a time (RFC 3339)")] = None
    comment: Annotated[str, Field(max_length=1000)] = ""


class RestoreBody(Body):
    """How to put it back: a running instance needs `force`; it is stopped, put back and started again."""

    force: bool = False


class CloneBody(Body):
    """What to make of it."""

    name: Annotated[Name, Field(description="Of the clone")]
    snapshot: Annotated[Name | None, Field(description="Left out: as it is now")] = None
    start: bool = False
    timeout: Annotated[Seconds, Field(description="For becoming ready, with `start`")] = 180.0


class ScheduleBody(Body):
    """What to do again and again: `every` so often, or daily `at` a time; one of both."""

    name: Annotated[Name | None, Field(description="Left out: made of subject and time")] = None
    action: Annotated[Literal["snapshot", "backup"], Field(description="What to do")] = "snapshot"
    subject: Annotated[
        Name | None, Field(description="The instance; null: every one, those launched later included (of backups)")
    ]
    every: Period | None = None
    at: Annotated[str | None, Field(max_length=5, description="HH:MM of the host's local time")] = None
    keep: Annotated[Kept | dict[str, Kept] | None, Field(description=_KEPT)] = None
    memory: bool = False
    repository: Annotated[Text, Field(description="Of backups; empty: the default")] = ""
    password_file: Annotated[Text, Field(description="Of backups; empty: the default")] = ""


class Snapshot(BaseModel):
    """One snapshot."""

    name: str
    instance: str
    created: datetime
    consistency: Consistency
    memory: bool
    size: Annotated[int | None, Field(description="Bytes it alone costs; null: not known cheaply")]
    parent: str | None
    expires: datetime | None
    schedule: Annotated[str, Field(description="What made it; empty: a person")]
    comment: str


if TYPE_CHECKING:
    SnapshotRow = Snapshot
else:
    SnapshotRow = list_row(Snapshot, "name")


class SnapshotList(BaseModel):
    """A page of snapshots, the oldest first."""

    items: list[SnapshotRow]
    next: str | None


class Schedule(BaseModel):
    """One schedule."""

    name: str
    action: str
    subject: Annotated[str, Field(description="The instance; empty: every one")]
    every: float | None
    at: str | None
    keep: dict[str, int]
    options: dict[str, Any]
    created: datetime
    next_run: datetime
    last_run: datetime | None
    last_operation: Annotated[str, Field(description="The id of the newest run's operation; empty: none")]
    last_result: Annotated[str, Field(description="empty, running, done, or what went wrong")]


if TYPE_CHECKING:
    ScheduleRow = Schedule
else:
    ScheduleRow = list_row(Schedule, "name")


class ScheduleList(BaseModel):
    """A page of schedules, by name."""

    items: list[ScheduleRow]
    next: str | None
