"""The one table of all lists, and their other formats.

A table is columns in the manner of `docker ps`: upper-case titles, two blanks between, no lines. On a terminal that
is too narrow, columns that matter least are left out first, then the widest are cut short.
"""

from __future__ import annotations

import sys

from triune.cli.text import clean, colours, paint, width

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

FORMATS = ("table", "json", "yaml", "csv")

_GAP = "  "
_SHORTEST = 8


class Column:
    """A column: its title, the text of a row, and how it behaves.

    `keep` tells its weight: columns with less go first on a narrow terminal. `colour` names the colour of a row.
    """

    __slots__ = ("colour", "keep", "right", "text", "title")

    def __init__(
        self,
        title: str,
        text: Callable[[Mapping[str, Any]], object],
        *,
        right: bool = False,
        keep: int = 9,
        colour: Callable[[Mapping[str, Any]], str] | None = None,
    ) -> None:
        self.title = title
        self.text = text
        self.right = right
        self.keep = keep
        self.colour = colour


def emit(
    rows: Sequence[Mapping[str, Any]],
    columns: Sequence[Column],
    *,
    form: str = "table",
    quiet: str | None = None,
    empty: str = "",
) -> None:
    """Print a list to stdout in a format; `quiet` names the one field to print instead, a line each.

    `empty` is said on stderr where a table would have no row.
    """
    if quiet is not None:
        text = "".join(f"{clean(row[quiet])}\n" for row in rows)
    elif form != "table":
        text = structured(rows, form)
    elif rows or not empty:
        text = table(rows, columns, limit=width(sys.stdout), colour=colours(sys.stdout))
    else:
        print(empty, file=sys.stderr)
        return
    sys.stdout.write(text)


def structured(value: object, form: str) -> str:
    """JSON, YAML or CSV. JSON and YAML are ASCII, CSV is cleaned: none can steer a terminal."""
    if form == "json":
        import json

        return json.dumps(value, indent=2) + "\n"
    if form == "yaml":
        import yaml

        return str(yaml.safe_dump(value, sort_keys=False, allow_unicode=False))
    return _csv(value if isinstance(value, list) else [value])


def _csv(rows: Sequence[Any]) -> str:
    import csv
    import io
    import json

    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    keys = list(dict.fromkeys(key for row in rows for key in row))
    writer.writerow(keys)
    for row in rows:
        values = [row.get(key) for key in keys]
        writer.writerow(
            ["" if item is None else clean(item if isinstance(item, str) else json.dumps(item)) for item in values]
        )
    return out.getvalue()


def table(
    rows: Sequence[Mapping[str, Any]], columns: Sequence[Column], *, limit: int | None = None, colour: bool = False
) -> str:
    """The table as text; `limit` is the terminal's width."""
    cells = [[clean(column.text(row)) for column in columns] for row in rows]
    widths = [max([len(column.title), *(len(line[at]) for line in cells)]) for at, column in enumerate(columns)]
    shown = list(range(len(columns)))
    if limit is not None:
        shown = _fitting(columns, widths, limit)
        _shorten(shown, columns, widths, limit)
    head = [_cell(columns[at].title, widths[at], columns[at].right) for at in shown]
    lines = [paint(_GAP.join(head).rstrip(), "bold", colour)]
    for row, line in zip(rows, cells, strict=True):
        parts = []
        for at in shown:
            column = columns[at]
            text = _cell(line[at], widths[at], column.right)
            parts.append(paint(text, column.colour(row), True) if colour and column.colour else text)
        lines.append(_GAP.join(parts).rstrip())
    return "\n".join(lines) + "\n"


def _fitting(columns: Sequence[Column], widths: Sequence[int], limit: int) -> list[int]:
    """Leave out the columns that matter least until the rest fits, or only the important ones are left."""
    shown = list(range(len(columns)))
    while _total(shown, widths) > limit:
        least = min(shown, key=lambda at: (columns[at].keep, -at))
        if columns[least].keep >= 9:
            break
        shown.remove(least)
    return shown


def _shorten(shown: Sequence[int], columns: Sequence[Column], widths: list[int], limit: int) -> None:
    while (over := _total(shown, widths) - limit) > 0:
        widest = max(shown, key=lambda at: widths[at])
        floor = max(_SHORTEST, len(columns[widest].title))
        if widths[widest] <= floor:
            return
        widths[widest] = max(floor, widths[widest] - over)


def _total(shown: Sequence[int], widths: Sequence[int]) -> int:
    return sum(widths[at] for at in shown) + len(_GAP) * (len(shown) - 1)


def _cell(text: str, size: int, right: bool) -> str:
    if len(text) > size:
        text = text[: size - 1] + "…"
    return text.rjust(size) if right else text.ljust(size)
