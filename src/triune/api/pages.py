"""Pages, cursors, selected fields and filters of lists."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Collection, Mapping
from typing import Annotated, Any

from fastapi import Query

from triune.domain.errors import Invalid

LARGEST = 1000

Limit = Annotated[int, Query(ge=1, le=LARGEST, description="How many items at most")]
Cursor = Annotated[str | None, Query(max_length=1000, description="`next` of the page before; opaque")]


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


def parse_fields(text: str | None, known: Collection[str]) -> tuple[str, ...] | None:
    """The fields asked for, with `name` always among them. Raises Invalid for an unknown one."""
    if text is None:
        return None
    fields = tuple(dict.fromkeys(["name", *(part.strip() for part in text.split(",") if part.strip())]))
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


def chosen(row: Mapping[str, Any], fields: tuple[str, ...] | None) -> Mapping[str, Any]:
    """The row, reduced to the fields asked for."""
    return row if fields is None else {field: row[field] for field in fields}
