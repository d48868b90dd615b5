"""Reports of audits, kept as files: they are too large for the history of operations."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from triune.domain.errors import NotFound

KEPT = 20
_ID = re.compile(r"[0-9a-f]{8,40}", re.ASCII)


class Reports:
    """The newest reports, by the id of the operation that made each. Readable by root only."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def keep(self, operation: str, report: Mapping[str, Any]) -> None:
        """Write one down in one step, and forget the oldest beyond `KEPT`."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        fresh = self._folder / f".{operation}.new"
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "w", encoding="ascii") as file:
            json.dump(report, file)
        fresh.rename(self._folder / f"{operation}.json")
        # Ids sort by time. What a crash left half-written goes too, once it is old.
        for old in sorted(self._folder.iterdir(), key=lambda path: path.name.lstrip("."), reverse=True)[KEPT:]:
            old.unlink(missing_ok=True)

    def get(self, operation: str) -> bytes:
        """One as JSON. Raises NotFound("audit_not_found")."""
        if _ID.fullmatch(operation):
            try:
                return (self._folder / f"{operation}.json").read_bytes()
            except FileNotFoundError:
                pass
        raise NotFound(
            "audit_not_found",
            f"there is no report of an audit {operation[:40]!r}",
            hint=f"The newest {KEPT} are kept. Make one: triune audit",
        )
