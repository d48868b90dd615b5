"""`rescue stat`: all that is known of one file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from triune.cli.rescue.sources import moment, opened, row, session_option, volume_option, with_path
from triune.cli.tables import structured
from triune.cli.text import clean
from triune.domain.rescue import FileKind
from triune.domain.units import format_size
from triune.services.rescue.manifest import merged

if TYPE_CHECKING:
    from triune.services.rescue.selecting import Chosen


@click.command()
@click.argument("arguments", metavar="SOURCE... PATH", nargs=-1, required=True)
@click.option("--format", "form", type=click.Choice(("text", "json", "yaml")), default="text", help="How to print it.")
@volume_option
@session_option
def stat(arguments: tuple[str, ...], form: str, only: str | None, session: Path | None) -> None:
    """Show all that is known of a file: size, what it takes, what is missing, what vouches for it.

    The last argument is its path.
    """
    from triune.services.rescue.selecting import file

    sources, path = with_path(arguments)
    with opened(sources, session, only) as volumes:
        facts = _facts(file(path, volumes))
    if form != "text":
        sys.stdout.write(structured(facts, form))
        return
    for key, text in _lines(facts):
        print(f"{key:<11} {clean(text)}")


def _facts(one: Chosen) -> dict[str, Any]:
    facts = row(one)
    if one.found.kind not in (FileKind.FOLDER, FileKind.LINK, FileKind.RDM):
        facts["data"], missing = 0, []
        for run in one.named.volume.open(one.found).runs():
            if run.missing:
                missing.append((run.offset, run.length))
            elif run.source is not None:
                facts["data"] += run.length
        facts["missing"] = merged([*missing, *one.found.missing])
    return facts


def _lines(facts: dict[str, Any]) -> list[tuple[str, str]]:
    lines = [
        ("path", facts["path"]),
        ("volume", f"{facts['volume']} ({facts['version']}, {facts['uuid'] or 'no UUID'})"),
        ("kind", facts["kind"] + (f" to {facts['target']}" if facts["target"] else "")),
        ("size", f"{facts['size']} bytes ({format_size(facts['size'])})"),
        ("status", f"{facts['status']}, {facts['confidence']:.0%} sure"),
        ("modified", moment(facts["modified"])),
        ("mode", f"{facts['mode']:04o}, owner {facts['uid']}:{facts['gid']}"),
        ("key", facts["key"]),
    ]
    if "data" in facts:
        lines.insert(4, ("data", f"{format_size(facts['data'])}, the rest is holes"))
    lines += [("missing", f"{length} bytes at {offset}") for offset, length in facts["missing"][:20]]
    if len(facts["missing"]) > 20:
        lines.append(("", f"and {len(facts['missing']) - 20} ranges more: --format json"))
    lines += [("because", reason) for reason in facts["reasons"]]
    return lines + [("evidence", text) for text in facts["evidence"]]
