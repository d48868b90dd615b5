"""Pages, cursors, selected fields and filters of lists."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Protocol, TypeVar

from fastapi import Depends, Query

from triune.domain.errors import Invalid

LARGEST = 1000

Limit = Annotated[int, Query(ge=1, le=LARGEST, description="How many items at most")]
Cursor = Annotated[str | None, Query(max_length=1000, description="`next` of the page before; opaque")]
Fields = Annotated[str | None, Query(max_length=500, description="Like name,state; all if left out")]
Filter = Annotated[str | None, Query(alias="filter", max_length=1000, description="Like engine=lxc,state=running")]

Row = Mapping[str, Any]


class Named(Protocol):
    """What has a name."""

    @property
    def name(self) -> str: ...


N = TypeVar("N", bound=Named)


def encode_cursor(*key: str) -> str:
    """An opaque cursor that leads on after the item with this key."""
    return base64.urlsafe_b64encode(json.dumps(key).encode()).decode().rstrip("=")


def decode_cursor(text: str | None, parts: int) -> tuple[str, ...] | None:
    """The key inside. Raises Invalid."""
    if text is None:
        return None
    try:
        key = json.loads(base64.urlsafe_b64decode(text.encode() + b"=" * (-len(text) % 4)))
    except (binascii.Error, ValueError, RecursionError):
        key = None
    if not (isinstance(key, list) and len(key) == parts and all(isinstance(part, str) for part in key)):
        raise Invalid(
            "bad_cursor", "the cursor is not one of this list", hint="Start again without it; cursors are opaque."
        )
    return tuple(key)


def parse_fields(text: str | None, known: Collection[str], key: str = "name") -> tuple[str, ...] | None:
    """The fields asked for, with the key always among them. Raises Invalid for an unknown one."""
    if text is None:
        return None
    fields = tuple(dict.fromkeys([key, *(part.strip() for part in text.split(",") if part.strip())]))
    for field in fields:
        if field not in known:
            raise Invalid(
                "unknown_field", f"there is no field {field!r}", hint=f"Fields are {', '.join(sorted(known))}."
            )
    return fields


def parse_filter(text: str | None, known: Collection[str]) -> Mapping[str, frozenset[str]]:
    """`engine=lxc,state=running` as sets by key; a key given twice means either. Raises Invalid."""
    wanted: dict[str, set[str]] = {}
    for part in (text or "").split(","):
        if not part.strip():
            continue
        key, equals, value = part.partition("=")
        if not equals or key.strip() not in known:
            raise Invalid(
                "bad_filter",
                f"{part.strip()!r} is not a filter",
                hint=f"Write it like engine=lxc,state=running; keys are {', '.join(sorted(known))}.",
            )
        wanted.setdefault(key.strip(), set()).add(value.strip())
    return {key: frozenset(values) for key, values in wanted.items()}


class Selection:
    """Which rows of a list are wanted, and which of their fields. Raises Invalid for unknown ones.

    `known` are the fields a row has, `keys` those to filter by, `key` the field that every row keeps.
    """

    def __init__(
        self,
        fields: str | None,
        filter_text: str | None,
        *,
        known: Collection[str],
        keys: Collection[str],
        key: str = "name",
    ) -> None:
        self._fields = parse_fields(fields, known, key)
        self._wanted = parse_filter(filter_text, keys)

    def page(self, rows: Iterable[Row], *, limit: int, cursor: Callable[[Row], tuple[str, ...]]) -> dict[str, Any]:
        """`{items, next}` of the rows that follow the cursor; no more of them are made than the page needs."""
        found: list[Row] = []
        following = None
        for row in rows:
            if any(str(row[key]) not in values for key, values in self._wanted.items()):
                continue
            if len(found) == limit:
                following = encode_cursor(*cursor(found[-1]))
                break
            found.append(row)
        items = found if self._fields is None else [{field: row[field] for field in self._fields} for row in found]
        return {"items": items, "next": following}


def by_name(row: Row) -> tuple[str, ...]:
    """The cursor of lists in order of their names."""
    return (str(row["name"]),)


@dataclass(frozen=True, slots=True)
class NamedQuery:
    """The query of a list in order of names, as a dependency of its route."""

    limit: Limit = 100
    cursor: Cursor = None
    fields: Fields = None
    filtered: Filter = None

    def selection(self, *, known: Collection[str], keys: Collection[str]) -> NamedSelection:
        """Checked before anything is read. Raises Invalid."""
        after = decode_cursor(self.cursor, 1)
        return NamedSelection(Selection(self.fields, self.filtered, known=known, keys=keys), self.limit, after)


@dataclass(frozen=True, slots=True)
class NamedSelection:
    """What of a list in order of names is wanted."""

    _selection: Selection
    _limit: int
    _after: tuple[str, ...] | None

    def page(self, found: Iterable[N], view: Callable[[N], Row]) -> dict[str, Any]:
        """`{items, next}`; `found` is in order of names."""
        rows = (view(one) for one in found if self._after is None or (one.name,) > self._after)
        return self._selection.page(rows, limit=self._limit, cursor=by_name)


ByName = Annotated[NamedQuery, Depends()]
