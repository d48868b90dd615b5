"""What a step of setup is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

Say = Callable[[str, str], None]
"""Tells people: a mark (ok, do, done, warn) and a line."""


class Step(Protocol):
    """One thing the host needs. `needed` False: when it fails, setup goes on and says so."""

    title: str
    needed: bool

    def gap(self) -> str | None:
        """What is to do, as one line for people; None when nothing is. Changes nothing; quick."""

    def fill(self, say: Say) -> None:
        """Do it. Safe to repeat. Raises TriuneError."""
