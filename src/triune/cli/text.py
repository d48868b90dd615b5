"""Text for a terminal: nothing from the daemon or a guest may steer it; colours only where they are wanted."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TextIO

_CODES = {"red": "31", "green": "32", "yellow": "33", "cyan": "36", "dim": "2", "bold": "1"}


def clean(text: object) -> str:
    """The text with everything unprintable (controls, line breaks, bidirectional overrides) as an escape."""
    line = str(text)
    if line.isprintable():
        return line
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape", "surrogatepass").decode() for char in line
    )


def said(value: object) -> str:
    """A plain value of the API's JSON in a word."""
    return "-" if value is None else str(value) if not isinstance(value, bool) else "yes" if value else "no"


def colours(stream: TextIO) -> bool:
    """Whether to use colours there: a terminal, and neither NO_COLOR nor TERM=dumb."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def paint(text: str, colour: str, wanted: bool) -> str:
    """The text in a colour, if wanted."""
    return f"\033[{_CODES[colour]}m{text}\033[0m" if wanted and colour else text


def width(stream: TextIO) -> int | None:
    """Columns of the terminal, or None where there is none (then lines may be as long as they like)."""
    if not stream.isatty():
        return None
    try:
        return int(os.environ.get("COLUMNS") or 0) or os.get_terminal_size(stream.fileno()).columns or None
    except (OSError, ValueError):
        return None
