"""What an extraction wrote: the manifest for people and programs, and the journal that it goes on from."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Any

from triune.domain.errors import Conflict
from triune.domain.rescue import Found
from triune.host.beneath import Root
from triune.services.rescue.names import OWN
from triune.services.rescue.selecting import Chosen

MANIFEST = "manifest.json"
JOURNAL = f"{OWN}.jsonl"

Entry = dict[str, Any]


def identity(chosen: Chosen) -> str:
    """Tells a file, and what is known of it, from every other: who was extracted as this needs not be once more."""
    found, volume = chosen.found, chosen.named.volume
    facts = (
        volume.uuid or volume.label,
        found.path,
        found.key,
        found.size,
        found.modified,
        found.status,
        found.missing,
    )
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:24]


def entry(chosen: Chosen, *, path: str, written_as: str) -> Entry:
    """A file's entry before it is written. `missing` are [offset, length] ranges, `modified` seconds of the epoch."""
    found: Found = chosen.found
    made: Entry = {
        "path": path,
        "size": found.size,
        "sha256": None,
        "status": str(found.status),
        "confidence": found.confidence,
        "missing": [],
        "evidence": list(found.evidence),
        "reasons": list(found.reasons),
        "kind": str(found.kind),
        "modified": found.modified,
        "verified": False,
    }
    if written_as != path:
        made["written_as"] = written_as
    return made


def merged(ranges: Iterable[tuple[int, int]]) -> list[list[int]]:
    """(offset, length) ranges in ascending order, neighbours and overlaps joined."""
    found: list[list[int]] = []
    for offset, length in sorted(ranges):
        if found and offset <= sum(found[-1]):
            found[-1][1] = max(found[-1][1], offset + length - found[-1][0])
        elif length > 0:
            found.append([offset, length])
    return found


class Journal:
    """What is known of each file, by its identity: a JSON object a line, the last one may be torn.

    `{"id", "as"}` gives a file its path, `{"id", "at"}` tells that it is written up to there, `{"id", "entry",
    "time"}` that it is done. Only one extraction at a time may work in a folder.
    """

    def __init__(self, root: Root, folder: Path) -> None:
        """Open the one of a folder, or begin it. Raises Conflict("folder_in_use")."""
        fd = root.open(JOURNAL, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_APPEND, 0o644)
        self._file = os.fdopen(fd, "r+", encoding="utf-8", errors="surrogatepass")
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise Conflict(
                "folder_in_use", f"another extraction writes to {folder}", hint="Wait for it, or give another folder."
            ) from None
        self._lock = Lock()
        self.names: dict[str, str] = {}
        self.at: dict[str, int] = {}
        self.done: dict[str, tuple[Entry, int]] = {}
        self._file.seek(0)
        for line in self._file:
            with suppress(ValueError, KeyError, TypeError):
                self._learn(json.loads(line))
        self._file.write("\n")  # ends a torn line

    def name(self, who: str, path: str) -> None:
        """A file is going to be written at a path."""
        self._tell({"id": who, "as": path})

    def mark(self, who: str, at: int) -> None:
        """Its first `at` bytes are written."""
        self._tell({"id": who, "at": at})

    def finish(self, who: str, made: Entry, time: int) -> None:
        """It is there, with this modification time in nanoseconds."""
        self._tell({"id": who, "entry": made, "time": time})

    def close(self) -> None:
        """Let another extraction work here."""
        self._file.close()

    def _learn(self, line: Mapping[str, Any]) -> None:
        who = str(line["id"])
        if "as" in line:
            self.names[who] = str(line["as"])
            self.at.pop(who, None)
            self.done.pop(who, None)
        elif "at" in line:
            self.at[who] = int(line["at"])
        else:
            self.done[who] = (dict(line["entry"]), int(line["time"]))

    def _tell(self, line: Mapping[str, Any]) -> None:
        with self._lock:
            self._learn(line)
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()


def write(root: Root, entries: Iterable[Entry]) -> None:
    """Put the manifest into the folder, in one step, in order of paths."""
    ordered = sorted(entries, key=lambda one: str(one["path"]))
    lines = ",\n".join(json.dumps(one) for one in ordered)
    root.write_bytes(MANIFEST, f"[\n{lines}\n]\n".encode())
