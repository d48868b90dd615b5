"""A finding: one thing that `doctor` knows about this host."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class FindingStatus(StrEnum):
    """`ok`: as it should be. `warning`: works with a drawback, or could not be looked at. `missing`: not there."""

    OK = "ok"
    WARNING = "warning"
    MISSING = "missing"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One fact about the host.

    `id` is stable and dotted (`kvm.device`); `area` groups findings for people; `sentence` is one sentence; `fix`
    is at most one shell command, for root, that mends it; `facts` are the values it was judged by, JSON-safe.
    """

    id: str
    area: str
    status: FindingStatus
    sentence: str
    fix: str | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return `{id, area, status, sentence, fix, facts}`, as `doctor --format json` prints it."""
        return {
            "id": self.id,
            "area": self.area,
            "status": str(self.status),
            "sentence": self.sentence,
            "fix": self.fix,
            "facts": dict(self.facts),
        }
