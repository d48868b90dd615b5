"""Rows of a CSV or YAML file, checked column by column: errors name the file, the line and the column.

A CSV file of a million rows is read in blocks, and each text of a column is converted once.
"""

from __future__ import annotations

import csv
import difflib
import io
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from triune.domain.errors import Invalid

_BLOCK = 20_000
_LONGEST = 4096
_CACHED = 1 << 18
_YAML = (".yaml", ".yml", ".json")


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """`read` makes a value of a text and raises ValueError (or Invalid); `default` is for an empty cell.

    An `optional` column that a file has not is not in its rows.
    """

    name: str
    read: Callable[[str], Any]
    expected: str
    default: Any = None
    required: bool = False
    optional: bool = False


@dataclass(slots=True)
class Rows:
    """A file's columns, each as a list of values; `first` is the line of row 0, `words` what rows are called."""

    where: str
    columns: dict[str, list[Any]]
    lines: list[int] = field(default_factory=list)
    unit: str = "line"

    def __len__(self) -> int:
        return len(self.lines)

    def at(self, row: int) -> str:
        """Where a row stands, for an error."""
        return f"{self.where}, {self.unit} {self.lines[row]}"


def read(name: str, raw: bytes, known: Sequence[Column], most: int, what: str) -> Rows:
    """The rows of a file; `known` are the columns it may have. Raises Invalid that names file, line and column."""
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise Invalid("bad_row", f"{name}, line {line} is not UTF-8 text", hint="Save the file as UTF-8.") from None
    if name.lower().endswith(_YAML):
        return _yaml(name, text, {column.name: column for column in known}, most, what)
    return _csv(name, text, {column.name: column for column in known}, most, what)


def _csv(name: str, text: str, known: Mapping[str, Column], most: int, what: str) -> Rows:
    reader = csv.reader(io.StringIO(text), strict=True)
    try:
        head = [word.strip().lower() for word in next(reader, [])]
        _check_head(name, head, known)
        rows = Rows(name, {word: [] for word in head})
        caches: list[dict[str, Any]] = [{} for _ in head]
        while True:
            block, lines = _block(reader, name, len(head))
            if not lines:
                break
            if len(rows) + len(lines) > most:
                raise too_many(name, what, most)
            for word, texts, cache in zip(head, zip(*block, strict=True), caches, strict=True):
                _convert(rows, known[word], texts, lines, cache)
            rows.lines += lines
    except csv.Error as error:
        raise Invalid(
            "bad_row", f"{name}, line {reader.line_num} is no CSV: {error}", hint="Close each quote that is opened."
        ) from None
    return _whole(rows, known)


def _block(reader: Any, name: str, width: int) -> tuple[list[list[str]], list[int]]:
    """The next rows and their lines. Raises Invalid for a row with more or fewer cells than the head."""
    block, lines = [], []
    for row in itertools.islice(reader, _BLOCK):
        block.append(row)
        lines.append(reader.line_num)
    if set(map(len, block)) <= {width}:
        return block, lines
    for row, line in zip(block, lines, strict=True):
        if row and len(row) != width:
            raise Invalid(
                "bad_row",
                f"{name}, line {line} has {len(row)} cells, and the head has {width}",
                hint="Give each row a cell for each column, empty where nothing is said; quote what has a comma.",
                line=line,
            )
    kept = [(row, line) for row, line in zip(block, lines, strict=True) if row]
    return [row for row, _ in kept], [line for _, line in kept]


def _convert(rows: Rows, column: Column, texts: Sequence[str], lines: Sequence[int], cache: dict[str, Any]) -> None:
    """Add a block's values of a column; each text is read once, and plain words not even that."""
    if column.read is str and _plain(texts):
        rows.columns[column.name].extend(texts)
        return
    if len(cache) > _CACHED:
        cache.clear()
    new = set(texts).difference(cache)
    if new:
        for line, text in zip(lines, texts, strict=True):
            if text in new:
                cache[text] = _value(f"{rows.where}, line {line}", column, text)
                new.discard(text)
    rows.columns[column.name].extend(map(cache.__getitem__, texts))


def _plain(texts: Sequence[str]) -> bool:
    """Whether all are printable words without blanks, none empty or over-long."""
    joined = "".join(texts)
    return joined.isprintable() and " " not in joined and "" not in texts and len(max(texts, key=len)) <= _LONGEST


def _value(where: str, column: Column, text: str) -> Any:
    word = text.strip()
    if not word:
        if column.required:
            raise Invalid("bad_row", f"{where}: {column.name} is empty", hint=f"Give {column.expected}.", where=where)
        return column.default
    try:
        if len(word) > _LONGEST or not word.isprintable():
            raise ValueError
        return column.read(word)
    except (ValueError, Invalid):
        raise Invalid(
            "bad_row",
            f"{where}: {word[:80]!r} is no value of {column.name}",
            hint=f"Give {column.expected}.",
            where=where,
        ) from None


def _check_head(name: str, head: Sequence[str], known: Mapping[str, Column]) -> None:
    if not any(head):
        raise Invalid("bad_row", f"{name} is empty", hint=f"Its first line names columns: {', '.join(known)}.")
    unknown = [word for word in head if word not in known]
    if unknown:
        raise unknown_keys(f"{name}, line 1", unknown, known)
    double = next((word for at, word in enumerate(head) if word in head[:at]), None)
    if double is not None:
        raise Invalid("bad_row", f"{name}, line 1 names {double} twice", hint="Name each column once.")
    missing = [column.name for column in known.values() if column.required and column.name not in head]
    if missing:
        raise Invalid(
            "bad_row", f"{name}, line 1 has no column {', '.join(missing)}", hint=f"Columns are {', '.join(known)}."
        )


def unknown_keys(where: str, unknown: Sequence[str], known: Mapping[str, object]) -> Invalid:
    """The error for keys that nobody knows, with the nearest known ones."""
    told = [word[:60] for word in unknown[:5]]
    near = [difflib.get_close_matches(word.replace("-", "_"), known, 1, 0.5) for word in told]
    hints = [
        f"Did you mean {found[0]!r} for {word!r}?" if found else f"Nothing is like {word!r}."
        for word, found in zip(told, near, strict=True)
    ]
    return Invalid(
        "unknown_key",
        f"{where} has {'keys' if len(unknown) > 1 else 'a key'} that nobody knows: "
        + ", ".join(repr(word) for word in told),
        hint=" ".join(hints),
        keys=list(unknown[:64]),
    )


def too_many(name: str, what: str, most: int) -> Invalid:
    """The error for more than can be placed."""
    return Invalid(
        "fleet_too_large", f"{name} has more than {most:,} {what}", hint="Plan parts of the fleet one by one."
    )


def _whole(rows: Rows, known: Mapping[str, Column]) -> Rows:
    """With defaults for columns that the file has not."""
    if not len(rows):
        raise Invalid("bad_row", f"{rows.where} has no rows", hint="Write one row for each below the head.")
    for word, column in known.items():
        if word not in rows.columns and not column.optional:
            rows.columns[word] = [column.default] * len(rows)
    return rows


def _yaml(name: str, text: str, known: Mapping[str, Column], most: int, what: str) -> Rows:
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        data = yaml.load(text, Loader=loader)  # noqa: S506 - the safe loader, in C where there is one
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark is not None else ""
        raise Invalid("bad_row", f"{name}{line} is no YAML", hint="Write a list of mappings.") from None
    if isinstance(data, Mapping) and len(data) == 1:
        data = next(iter(data.values()))
    if not isinstance(data, list):
        raise Invalid("bad_row", f"{name} is no list of mappings", hint="Write `- name: …` for each.")
    if len(data) > most:
        raise too_many(name, what, most)
    rows = Rows(name, {word: [] for word in known}, unit="entry")
    for number, entry in enumerate(data, 1):
        where = f"{name}, entry {number}"
        if not isinstance(entry, Mapping):
            raise Invalid("bad_row", f"{where} is no mapping", hint=f"Its keys are {', '.join(known)}.")
        unknown = [str(word) for word in entry if word not in known]
        if unknown:
            raise unknown_keys(where, unknown, known)
        for word, value in _texts(entry, known):
            rows.columns[word].append(_value(where, known[word], value))
        rows.lines.append(number)
    return _whole(rows, known)


def _texts(entry: Mapping[Any, Any], known: Mapping[str, Column]) -> Iterator[tuple[str, str]]:
    """Each column's value as a cell of CSV would have it."""
    for word in known:
        value = entry.get(word)
        if isinstance(value, list | tuple):
            yield word, " ".join(str(item) for item in value)
        else:
            yield word, "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
