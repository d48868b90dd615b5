"""What requests and replies about backups look like."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, Field

from triune.api.schemas import Body, Name, Text, list_row

Repository = Annotated[Text, Field(description="A host's folder, sftp:USER@HOST:/folder or s3:URL; empty: the default")]
PasswordFile = Annotated[Text, Field(description="A host's file with the repository's key; empty: the default")]
Count = Annotated[int, Field(ge=0, le=100_000)]


class RepositoryBody(Body):
    """Which repository."""

    repository: Repository = ""
    password_file: PasswordFile = ""


class BackupBody(RepositoryBody):
    """What to back up."""

    instance: Name


class KeepBody(Body):
    """How many stay of each instance: the newest, and the newest of so many hours, days, weeks, months, years."""

    last: Count = 0
    hourly: Count = 0
    daily: Count = 0
    weekly: Count = 0
    monthly: Count = 0
    yearly: Count = 0


class PruneBody(RepositoryBody):
    """What stays; of one instance, or of all."""

    keep: KeepBody
    instance: Name | None = None
    dry_run: bool = False


class BackupRestoreBody(RepositoryBody):
    """What to make of it."""

    name: Name
    start: bool = False
    skip_damaged: Annotated[bool, Field(description="Leave out what the repository has lost")] = False
    publish: Annotated[bool, Field(description="Publish the ports it had")] = True


class ExtractBody(RepositoryBody):
    """What to put where, on the daemon's host."""

    paths: Annotated[list[Text], Field(min_length=1, max_length=256, description="Absolute, as inside")]
    target: Annotated[Text, Field(description="An existing folder of the host")]


class Backup(BaseModel):
    """One backup. Sizes in bytes where this host made it, else null; `added` before compression."""

    id: str
    instance: str
    engine: str
    time: datetime
    consistency: str
    host: str
    size: int | None
    added: int | None


if TYPE_CHECKING:
    BackupRow = Backup
else:
    BackupRow = list_row(Backup, "id")


class BackupList(BaseModel):
    """A page of backups, the oldest first."""

    items: list[BackupRow]
    next: str | None
