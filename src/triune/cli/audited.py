"""How `audit` shows its report in a terminal."""

from __future__ import annotations

import sys
import textwrap
from typing import TYPE_CHECKING, Any

from triune.cli.tables import Column, emit
from triune.cli.text import clean, colours, paint, width

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_HUES = {"critical": "red", "high": "red", "medium": "yellow", "low": "cyan", "info": "dim"}
_LEVELS = {"strong": "green", "fair": "cyan", "weak": "yellow", "poor": "red"}
_TOLD = 4  # instances whose findings a terminal holds
_PROMISES = {True: "allowed", False: "not allowed", None: "-"}

_SUMMARY = (
    Column("NAME", lambda row: row["name"]),
    Column("ENGINE", lambda row: row["engine"], keep=6),
    Column("STATE", lambda row: row["state"], keep=4),
    Column("SCORE", lambda row: row["score"], right=True, colour=lambda row: _LEVELS[row["level"]]),
    Column("LEVEL", lambda row: row["level"], colour=lambda row: _LEVELS[row["level"]]),
    Column("CRITICAL", lambda row: _count(row, "critical"), right=True),
    Column("HIGH", lambda row: _count(row, "high"), right=True),
    Column("MEDIUM", lambda row: _count(row, "medium"), right=True, keep=7),
    Column("LOW", lambda row: _count(row, "low"), right=True, keep=6),
    Column("PROBE", lambda row: _probed(row["probe"]), keep=5),
)
_STEPS = (
    Column("INSIDE IT COULD", lambda row: row["title"]),
    Column("OUTCOME", lambda row: row["outcome"], colour=lambda row: "red" if row["contradiction"] else ""),
    Column("CONFIGURED", lambda row: _PROMISES[row["promised"]], keep=7),
    Column("DETAIL", lambda row: row["detail"] or "-", keep=5),
)


def _count(row: Mapping[str, Any], severity: str) -> str:
    number = sum(found["severity"] == severity and not found["waived"] for found in row["findings"])
    return str(number or "-")


def _probed(probe: Mapping[str, Any]) -> str:
    if not probe["ran"]:
        return "not run"
    could = sum(step["outcome"] == "succeeded" for step in probe["steps"])
    return f"{could} of {len(probe['steps'])}"


def show(report: Mapping[str, Any]) -> None:
    """Print it: a table of all, then each instance's findings, the host's, waivers that do nothing, and what could not
    be looked at."""
    colour = colours(sys.stdout)
    rows = sorted(report["instances"], key=lambda row: (row["score"], row["name"]))
    emit(rows, _SUMMARY, empty="" if report["problems"] else "there are no instances to audit")
    alone = len(rows) == 1
    for row in rows if len(rows) <= _TOLD else ():
        print()
        _instance(row, colour, whole=alone)
    if len(rows) > _TOLD:
        print("\nFindings, and how to mend them: triune audit NAME; all on one page: triune audit --format html")
    if report["host"]["findings"]:
        print("\n" + paint("This host", "bold", colour))
        _findings(report["host"]["findings"], colour)
    for waiver in report["waivers"]["expired"]:
        _say(f"the waiver of {_waived(waiver)} expired on {waiver['expires']}: it counts again", "\n! ", "  ")
    for waiver in report["waivers"]["unused"]:
        _say(f"the waiver of {_waived(waiver)} fits nothing here", "\n! ", "  ")
    for problem in report["problems"]:
        _say(f"{problem['subject']} could not be looked at: {problem['error']['message']}", "\n! ", "  ")
        _say(problem["error"]["hint"], "  ", "  ")


def _waived(waiver: Mapping[str, Any]) -> str:
    return f"{waiver['rule']} for {waiver['instance']} ({waiver['reason']})"


def _instance(row: Mapping[str, Any], colour: bool, *, whole: bool) -> None:
    score = paint(f"{row['score']} of 100, {row['level']}", _LEVELS[row["level"]], colour)
    print(f"{paint(clean(row['name']), 'bold', colour)} ({clean(row['engine'])}): {score}")
    start = row["reasons"][0]
    _say(f"{start['points']:+d} {start['text']}", "  ", "      ")
    _findings(row["findings"], colour)
    for note in row["notes"]:
        _say(f"note: {note}", "  ", "      ")
    probe = row["probe"]
    if not probe["ran"]:
        _say(f"the probe inside did not run: {probe['reason']}", "  ", "      ")
    elif whole:
        print()
        emit(probe["steps"], _STEPS)
        _say(_how(row, probe), "", "")


def _how(row: Mapping[str, Any], probe: Mapping[str, Any]) -> str:
    said = f"Tried inside with {probe['language']} as user {probe['user']}."
    return f"{said} It reached its own kernel only." if row["facts"]["own_kernel"] else said


def _findings(found: Sequence[Mapping[str, Any]], colour: bool) -> None:
    """Each with its points; a command that mends several in a row stands below the last of them."""
    for number, one in enumerate(found):
        mark = "waived" if one["waived"] else one["severity"]
        hue = "dim" if one["waived"] else _HUES[one["severity"]]
        points = f"{-one['points']:+d} " if one["points"] and not one["waived"] else ""
        _say(f"{points}{mark}: {one['sentence']} [{one['rule']}]", "  ", "      ", (mark, hue, colour))
        if one["waived"]:
            _say(f"{one['waived']['reason']} (until {one['waived']['expires']})", "      ", "      ")
            continue
        if one["advice"]:
            _say(one["advice"], "      ", "      ")
        after = found[number + 1] if number + 1 < len(found) else None
        if after is None or after["waived"] or after["fix"] != one["fix"]:
            # Left whole, so that it can be copied as one line.
            print("      " + paint(f"$ {clean(one['fix'])}", "cyan", colour))


def _say(text: str, first: str, then: str, painted: tuple[str, str, bool] | None = None) -> None:
    limit = min(width(sys.stdout) or 120, 120)
    lines = textwrap.wrap(
        clean(text), limit, initial_indent=first, subsequent_indent=then, break_on_hyphens=False, break_long_words=False
    )
    if painted is not None and lines:
        mark, hue, wanted = painted
        lines[0] = lines[0].replace(mark, paint(mark, hue, wanted), 1)
    print("\n".join(lines))
