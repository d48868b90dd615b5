"""`triune list`: the quickest command, kept free of every costly import."""

from __future__ import annotations

from triune.cli.tables import FORMATS, Column, emit
from triune.domain.units import format_size
from triune.sdk.inventory import inventory
from triune.sdk.transport import Transport

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

_COLOURS = {"running": "green", "paused": "yellow", "error": "red", "stopped": "dim"}


def lean(arguments: list[str]) -> int | None:
    """Run `list` for arguments it understands; None for any other, which Click then explains."""
    form = "table"
    quiet = False
    filter_text: str | None = None
    rest = list(arguments)
    while rest:
        word, equals, value = rest.pop(0).partition("=")
        if word in ("-q", "--quiet") and not equals:
            quiet = True
        elif word in ("--format", "--filter"):
            if not equals:
                if not rest:
                    return None
                value = rest.pop(0)
            if word == "--filter":
                filter_text = value
            elif value in FORMATS:
                form = value
            else:
                return None
        else:
            return None
    list_instances(form=form, quiet=quiet, filter_text=filter_text)
    return 0


def list_instances(*, form: str, quiet: bool, filter_text: str | None) -> None:
    """Print the inventory; engines that can't be reached are told on stderr."""
    rows, problems = inventory(Transport(), filter_text)
    empty = "No instances. Launch one: triune launch debian/12 web"
    emit(rows, COLUMNS, form=form, quiet="name" if quiet else None, empty=empty)
    for problem in problems:
        from triune.cli.problems import warn

        hint = problem["error"]["hint"]
        warn(f"{problem['engine']}: {problem['error']['message']}" + (f" ({hint})" if hint else ""))


def engine(row: Mapping[str, Any]) -> str:
    """The engine's name; emulation is said."""
    return f"{row['engine']} (emulated)" if row["accelerated"] is False else str(row["engine"])


def addresses(row: Mapping[str, Any]) -> str:
    """The first address, and how many more there are."""
    found = row["addresses"]
    if not found:
        return "-"
    return str(found[0]) + (f" +{len(found) - 1}" if len(found) > 1 else "")


def state_colour(row: Mapping[str, Any]) -> str:
    """Colour of a state."""
    return _COLOURS.get(row["state"], "")


def moment(text: str | None) -> str:
    """An RFC 3339 time for people: to the second, in this machine's zone, and how long ago it was."""
    if not text:
        return "-"
    from datetime import datetime

    try:
        when = datetime.fromisoformat(text).astimezone()
    except ValueError:
        return text
    return f"{when:%Y-%m-%d %H:%M:%S %Z} ({age(text)} ago)"


def age(text: str | None) -> str:
    """How long ago an RFC 3339 time was, in one unit."""
    if not text:
        return "-"
    from datetime import UTC, datetime

    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        return "-"
    seconds = int((datetime.now(UTC) - (when if when.tzinfo else when.replace(tzinfo=UTC))).total_seconds())
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= 2 * size or (unit == "m" and seconds >= size):
            return f"{seconds // size}{unit}"
    return f"{max(0, seconds)}s"


COLUMNS = (
    Column("NAME", lambda row: row["name"]),
    Column("ENGINE", engine),
    Column("STATE", lambda row: row["state"], colour=state_colour),
    Column("ADDRESS", addresses),
    Column("IMAGE", lambda row: row["image"] or "-", keep=6),
    Column("CPUS", lambda row: "-" if row["cpus"] is None else f"{row['cpus']:g}", right=True, keep=2),
    Column("MEMORY", lambda row: format_size(row["memory_bytes"]), right=True, keep=3),
    Column("AGE", lambda row: age(row["created"]), right=True, keep=5),
    Column("ORIGIN", lambda row: row["origin"], keep=4),
)
