"""Which of libvirt's checkpoints is the point in time of which backup.

Kept in `.UUID.backups.json` in the engine's folder: `[[BACKUP, CHECKPOINT], …]`, the oldest first. A checkpoint is a
bitmap in each qcow2 disk in which QEMU notes what is written from there on; all of them stay active.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

MOST = 4  # each costs a little at every write; one per repository in use is enough


class Bases:
    """Of one domain."""

    def __init__(self, state_dir: Path, uuid: str) -> None:
        self._file = state_dir / f".{uuid}.backups.json"

    def checkpoint(self, backup: str | None) -> str | None:
        """The checkpoint of a backup."""
        return dict(self._read()).get(backup) if backup else None

    def checkpoints(self) -> Sequence[str]:
        """All that stand for a backup, the oldest first."""
        return list(dict.fromkeys(checkpoint for _, checkpoint in self._read()))

    def add(self, backup: str, checkpoint: str) -> Sequence[str]:
        """Remember one; returns the checkpoints that stand for none any more."""
        before = self._read()
        after = [*(pair for pair in before if pair[0] != backup), (backup, checkpoint)][-MOST:]
        self._write(after)
        left = {kept for _, kept in after}
        return [gone for gone in dict.fromkeys(one for _, one in before) if gone not in left]

    def clear(self) -> None:
        """Forget all: the next backup reads everything."""
        self._file.unlink(missing_ok=True)

    def _read(self) -> list[tuple[str, str]]:
        try:
            return [(str(backup), str(checkpoint)) for backup, checkpoint in json.loads(self._file.read_text())]
        except (FileNotFoundError, ValueError, TypeError):
            return []

    def _write(self, pairs: Sequence[tuple[str, str]]) -> None:
        half = self._file.with_suffix(".new")
        half.write_text(json.dumps(pairs))
        half.rename(self._file)
