"""Waiting until a daemon answers: as long as its process lives and works, which on a slow host takes minutes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

_STEP = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """Seconds: without work of the process, in all, and until it is told what is waited for."""

    idle: float = 60.0
    most: float = 300.0
    told: float = 10.0

    @property
    def waiting(self) -> str:
        """What is told."""
        return f"it does not answer yet; waiting for it as long as it works, {self.most / 60:g} minutes at most"


def await_answer(
    answers: Callable[[], bool],
    spent: Callable[[], float | None],
    tell: Callable[[str], None],
    patience: Patience | None = None,
) -> str:
    """Return "" once it `answers`; else why it is not waited for any longer, as the end of a sentence about it.

    `spent` is the processor time that it has used, in seconds, None once it has ended; `tell` is told once what takes
    so long.
    """
    patience = patience or Patience()
    begun = worked = time.monotonic()
    used: float | None = 0.0
    told = False
    while not answers():
        now, before = time.monotonic(), used
        used = spent()
        if used is None:
            return "has ended"
        worked = now if used != before else worked
        if now - worked > patience.idle:
            return f"does not answer, and has done nothing for {patience.idle:g} s"
        if now - begun > patience.most:
            return f"does not answer after {patience.most:g} s"
        if not told and now - begun > patience.told:
            told = True
            tell(patience.waiting)
        time.sleep(_STEP)
    return ""
