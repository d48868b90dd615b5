"""Snapshots: points in time of one instance, kept beside it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class Consistency(StrEnum):
    """How the data was held still: `stopped`, `agent` (guest file systems frozen), `frozen` (processes stood still),
    `memory` (taken with the running state), `crash` (as after a power cut)."""

    STOPPED = "stopped"
    AGENT = "agent"
    FROZEN = "frozen"
    MEMORY = "memory"
    CRASH = "crash"


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """One snapshot. `size` is what it alone costs on disk in bytes, None where that can't be known cheaply.

    `memory`: it holds the running state (a VM's memory, or a container's processes by CRIU). `parent` is the snapshot
    it stands on, where the technology has a chain. `expires`: when a schedule or the user lets it go. `schedule` names
    what made it, "" for a person.
    """

    name: str
    created: datetime
    consistency: Consistency
    memory: bool = False
    size: int | None = None
    parent: str | None = None
    expires: datetime | None = None
    schedule: str = ""
    comment: str = ""
