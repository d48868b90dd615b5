"""What is printed: nothing from outside steers the terminal, tables fit, formats are what they say."""

from __future__ import annotations

import csv
import io
import json

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from triune.cli.listing import COLUMNS, age
from triune.cli.tables import Column, emit, structured, table
from triune.cli.text import clean

EVIL = "web\x1b]0;owned\x07\n\x9b2J\u202eexe\u2028\x7f\ud800"
ROW = {
    "name": "web",
    "engine": "kvm",
    "state": "running",
    "addresses": ["10.87.0.10", "10.87.0.11"],
    "image": "debian/12",
    "origin": "managed",
    "created": "2026-01-01T00:00:00+00:00",
    "cpus": 1.5,
    "memory_bytes": 512 << 20,
    "accelerated": False,
    "error": None,
}


@given(st.text())
def test_clean_text_is_printable_and_keeps_what_was(text: str) -> None:
    found = clean(text)
    assert found.isprintable()
    assert clean("é ü 漢 " + EVIL).startswith("é ü 漢 web\\x1b]0;owned\\x07\\n\\x9b2J\\u202e")
    if text.isprintable():
        assert found == text


@given(st.lists(st.text(max_size=30), min_size=1, max_size=5), st.integers(20, 200), st.booleans())
def test_no_table_is_wider_than_the_terminal_or_has_more_lines(names: list[str], limit: int, right: bool) -> None:
    columns = [
        Column("NAME", lambda row: row["name"], right=right),
        Column("AGAIN", lambda row: row["name"] * 3, keep=3),
    ]
    lines = table([{"name": name} for name in names], columns, limit=limit).split("\n")
    assert len(lines) == len(names) + 2
    assert all(len(line) <= limit for line in lines)


def test_columns_that_matter_least_go_first() -> None:
    wide = table([ROW], COLUMNS)
    assert wide.split("\n")[0].split() == [
        "NAME", "ENGINE", "STATE", "ADDRESS", "IMAGE", "CPUS", "MEMORY", "AGE", "ORIGIN"
    ]  # fmt: skip
    assert "kvm (emulated)" in wide
    assert "10.87.0.10 +1" in wide
    narrow = table([ROW], COLUMNS, limit=70)
    assert "CPUS" not in narrow
    assert "IMAGE" in narrow
    assert max(map(len, narrow.split("\n"))) <= 70


@pytest.mark.parametrize("form", ["table", "json", "yaml", "csv"])
def test_no_format_lets_a_control_character_through(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    row = {**ROW, "name": EVIL, "image": EVIL, "addresses": [EVIL]}
    emit([row], COLUMNS, form=form)
    emit([row], COLUMNS, quiet="name")
    for line in capsys.readouterr().out.split("\n"):
        assert line.isprintable(), line


def test_formats_carry_the_same() -> None:
    rows = [ROW, {**ROW, "name": "b", "image": None}]
    assert json.loads(structured(rows, "json")) == rows
    assert yaml.safe_load(structured(rows, "yaml")) == rows
    found = list(csv.DictReader(io.StringIO(structured(rows, "csv"))))
    assert [row["name"] for row in found] == ["web", "b"]
    assert json.loads(found[0]["addresses"]) == ROW["addresses"]
    assert found[1]["image"] == ""


def test_colours_are_only_codes_around_the_text() -> None:
    plain = table([ROW], COLUMNS)
    painted = table([ROW], COLUMNS, colour=True)
    for code in ("\033[1m", "\033[32m", "\033[0m"):
        assert code in painted
        painted = painted.replace(code, "")
    assert [line.rstrip() for line in painted.split("\n")] == plain.split("\n")


@pytest.mark.parametrize("text", [None, "", "nonsense", "2026-13-01"])
def test_an_unknown_age(text: str | None) -> None:
    assert age(text) == "-"
    assert age("2020-01-01T00:00:00+00:00").endswith("d")
    assert age("2020-01-01T00:00:00").endswith("d")
    assert age("2999-01-01T00:00:00+00:00") == "0s"
