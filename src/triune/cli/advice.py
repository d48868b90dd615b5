"""How `advise` shows its answer: the choice, a table, the reasons with their sources."""

from __future__ import annotations

import shlex
import sys
import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from triune.cli.tables import Column, emit
from triune.cli.text import clean, colours, paint, said, width

if TYPE_CHECKING:
    from triune.services.advice.answer import Answer, Ranked, Reason

_RANKING = (
    Column("ENGINE", lambda row: row["engine"]),
    Column("SCORE", lambda row: "-" if row["blocked_by"] else f"{row['score']:g}", right=True),
    Column("FOR", lambda row: len(row["for"]), right=True, keep=5),
    Column("AGAINST", lambda row: len(row["against"]), right=True, keep=5),
    Column("BLOCKED BY", lambda row: ", ".join(reason["rule"] for reason in row["blocked_by"]) or "-", keep=7),
)


def show(answer: Answer, *, explain: bool = False) -> None:
    """Print an answer for people."""
    colour = colours(sys.stdout)
    name = f"{answer.name}: " if answer.name else ""
    print(paint(clean(f"{name}{answer.choice}"), "bold", colour))
    for note in answer.notes:
        _say(note, "note: ", "")
    print()
    if answer.parts:
        for number, part in enumerate(answer.parts):
            if number:
                print()
            show(part, explain=explain)
    else:
        emit([ranked.as_dict() for ranked in answer.ranking], _RANKING)
        for ranked in answer.ranking:
            _reasons(ranked, colour)
    for title, lines in _rest(answer):
        if lines:
            print("\n" + paint(title, "bold", colour))
            for line in lines:
                _say(line, "  ", "    ")
    if answer.command:
        print("\n" + paint("Command", "bold", colour))
        print(f"  {clean(shlex.join(answer.command))}")
    if explain:
        _explained(answer)


def _reasons(ranked: Ranked, colour: bool) -> None:
    print("\n" + paint(ranked.engine, "bold", colour))
    for mark, hue, reasons in (("✘", "red", ranked.blocked), ("+", "green", ranked.pro), ("-", "yellow", ranked.con)):
        for reason in reasons:
            _say(_sentence(reason, mark), "  ", "       ", paint_first=(mark, hue, colour))


def _sentence(reason: Reason, mark: str) -> str:
    points = f" {abs(reason.weight):>2g}" if mark != "✘" else "   "
    return f"{mark}{points} {reason.text} [{reason.source}]"


def _rest(answer: Answer) -> Iterator[tuple[str, list[str]]]:
    yield "Settings", [f"{each['setting']}={each['value']}: {each['text']}" for each in answer.settings]
    yield "Together", [f"{each['text']} [{each['source']}]" for each in answer.hybrid]
    yield "What would change it", [str(each["text"]) for each in answer.would_change]


def _say(text: str, first: str, then: str, paint_first: tuple[str, str, bool] | None = None) -> None:
    limit = width(sys.stdout) or 120
    lines = textwrap.wrap(
        clean(text), limit, initial_indent=first, subsequent_indent=then, break_on_hyphens=False, break_long_words=False
    )
    if paint_first is not None and lines:
        mark, hue, wanted = paint_first
        lines[0] = lines[0].replace(mark, paint(mark, hue, wanted), 1)
    print("\n".join(lines))


def _when(condition: Any) -> str:
    """A rule's condition for people."""
    if isinstance(condition, list):
        return " or ".join(map(_when, condition))
    return " and ".join(f"{key} {_expected(expected)}" for key, expected in condition.items())


def _expected(expected: Any) -> str:
    if isinstance(expected, dict):
        return " and ".join(f"{name.replace('_', ' ')} {_expected(operand)}" for name, operand in expected.items())
    return "|".join(expected) if isinstance(expected, list) else said(expected)


def _explained(answer: Answer) -> None:
    print()
    columns = (
        Column("RULE", lambda row: row["rule"]),
        Column("FIRED", lambda row: "yes" if row["fired"] else "no"),
        Column("WHEN", lambda row: _when(row["when"]), keep=7),
        Column("BLOCKS", lambda row: ", ".join(row["blocks"]) or "-", keep=8),
        Column("WEIGHTS", lambda row: ", ".join(f"{name} {points:+g}" for name, points in row["weights"].items())),
    )
    emit(answer.rules, columns)
