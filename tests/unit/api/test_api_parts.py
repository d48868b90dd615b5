"""Parts of the API without a server: cursors, filters, volumes, JSON of anything."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triune.api import pages, views
from triune.api.launch import parse_volume
from triune.api.replies import Json
from triune.domain.errors import Invalid


@given(st.lists(st.text(max_size=20), min_size=1, max_size=3))
def test_cursors_come_back(key: list[str]) -> None:
    cursor = pages.encode_cursor(*key)
    assert cursor.isascii()
    assert pages.decode_cursor(cursor, len(key)) == tuple(key)


@given(st.text(max_size=60))
def test_other_cursors_are_refused(text: str) -> None:
    with pytest.raises(Invalid) as caught:
        pages.decode_cursor(text, 3)
    assert caught.value.code == "bad_cursor"


@given(st.text(max_size=60))
def test_filters_parse_or_are_refused(text: str) -> None:
    try:
        found = pages.parse_filter(text, ("engine", "state"))
    except Invalid as error:
        assert error.code == "bad_filter"
    else:
        assert set(found) <= {"engine", "state"}


def test_filters_and_fields() -> None:
    assert pages.parse_filter("engine=lxc, engine=kvm,state=running", ("engine", "state")) == {
        "engine": frozenset({"lxc", "kvm"}),
        "state": frozenset({"running"}),
    }
    assert pages.parse_fields("state, state", {"name", "state"}) == ("name", "state")
    with pytest.raises(Invalid):
        pages.parse_fields("secret", {"name", "state"})


ROWS = [{"name": name, "state": state} for name, state in zip("abcdef", ("on", "off") * 3, strict=True)]


def test_pages_count_what_the_filter_leaves_and_end_where_nothing_is_left() -> None:
    selection = pages.Selection("name", "state=off", known=("name", "state"), keys=("state",))
    first = selection.page(ROWS, limit=2, cursor=pages.by_name)
    assert first["items"] == [{"name": "b"}, {"name": "d"}]
    assert pages.decode_cursor(first["next"], 1) == ("d",)
    assert selection.page(ROWS[4:], limit=1, cursor=pages.by_name) == {"items": [{"name": "f"}], "next": None}


def test_pages_make_no_more_rows_than_they_need() -> None:
    made: list[str] = []
    rows = (made.append(row["name"]) or row for row in ROWS)  # type: ignore[func-returns-value]
    pages.Selection(None, None, known=(), keys=()).page(rows, limit=2, cursor=pages.by_name)
    assert made == ["a", "b", "c"]


class Colour(StrEnum):
    RED = "red"


JSONISH = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.just(Colour.RED)
    | st.just(Path("/a"))
    | st.just(datetime.now(UTC))
    | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4) | st.tuples(inner),
    max_leaves=12,
)


@given(JSONISH)
def test_anything_an_engine_tells_becomes_json(value: Any) -> None:
    body = bytes(Json(views.plain(value)).body)
    json.loads(body)
    assert body.isascii()


def test_floats_without_a_value_are_null() -> None:
    assert views.plain([math.nan, math.inf, 1.5, Colour.RED]) == [None, None, 1.5, "red"]


@pytest.mark.parametrize("text", ["", "/a", ":/b", "a:", "a:/b:rx", "a:/b:ro:x"])
def test_bad_volumes(text: str) -> None:
    with pytest.raises(Invalid) as caught:
        parse_volume(text)
    assert caught.value.code == "bad_volume"
    assert parse_volume("a:/b:ro").read_only
    assert not parse_volume("a:/b").read_only
