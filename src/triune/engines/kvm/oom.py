"""Guests that ran out of memory: their kernels say so on the serial console, whose log is looked at.

A guest can write such a line itself; it then deceives nobody but its own administrator.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

_SAID = b"Out of memory: Killed process"  # mm/oom_kill.c
_LOG = "serial.log"
_PIECE = 1 << 20


class Kills:
    """Reads on in the logs of all instances beneath a folder. What was there before the first look is not told."""

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir
        self._read: dict[Path, int] = {}
        self._first = True

    def poll(self) -> Iterator[tuple[str, int]]:
        """(instance, processes killed) since the last look."""
        sizes = {path: path.stat().st_size for path in self._state_dir.glob(f"*/{_LOG}") if path.is_file()}
        self._read = {path: at for path, at in self._read.items() if path in sizes}
        for path, size in sizes.items():
            at = self._read.get(path, size if self._first else 0)
            if size < at:  # begun anew, as it had grown too large
                at = 0
            killed = 0
            if size > at:
                killed, at = _count(path, at)
            self._read[path] = at
            if killed:
                yield path.parent.name, killed
        self._first = False


def _count(path: Path, at: int) -> tuple[int, int]:
    """(lines that say so, where the first unfinished line begins) from an offset on; of much, the last."""
    with path.open("rb") as file:
        at = max(at, file.seek(0, 2) - _PIECE)
        file.seek(at)
        data = file.read(_PIECE)
    whole = data.rfind(b"\n") + 1
    return data.count(_SAID, 0, whole), at + whole
