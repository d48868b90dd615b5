"""The figure in what a tool printed: a regular expression or a path in JSON, as the catalogue says."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import Any

from triune.domain.errors import Failed

_MOST = 4 * 2**20


@dataclass(frozen=True, slots=True)
class Parser:
    """`pattern` (its first group) or `json` (keys and indices joined by dots); × `scale`; with `per`, `scale` ÷ it."""

    pattern: str = ""
    json: str = ""
    take: str = "first"
    scale: float = 1.0
    per: bool = False

    def figure(self, text: str) -> float:
        """The figure. Raises Failed("no_figure")."""
        text = text[:_MOST]
        found = self._in_json(text) if self.json else self._by_pattern(text)
        try:
            value = float(found)
            value = self.scale / value if self.per else value * self.scale
        except (TypeError, ValueError, ZeroDivisionError):
            raise _no_figure(text) from None
        if not math.isfinite(value) or value <= 0:
            raise _no_figure(text)
        return value

    def _by_pattern(self, text: str) -> Any:
        found = re.findall(self.pattern, text)
        if not found:
            raise _no_figure(text)
        return found[-1 if self.take == "last" else 0]

    def _in_json(self, text: str) -> Any:
        # Warnings may stand before it.
        begin = text.find("{")
        try:
            found: Any = json.JSONDecoder().raw_decode(text, begin)[0] if begin >= 0 else None
            for key in self.json.split("."):
                found = found[int(key)] if isinstance(found, list) else found[key]
        except (ValueError, KeyError, IndexError, TypeError, RecursionError):
            raise _no_figure(text) from None
        return found


def _no_figure(text: str) -> Failed:
    said = " / ".join(line.strip() for line in text.strip().splitlines()[-3:])[-300:]
    return Failed("no_figure", f"there is no figure in what it printed: {said or 'nothing'}", hint="Try it by hand.")
