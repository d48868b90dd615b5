"""`logs` and `events`."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

import click

from triune.cli.options import formatted, instance_argument
from triune.cli.tables import Column, emit, structured
from triune.cli.text import clean
from triune.sdk import Client


@click.command()
@instance_argument
@click.option("-f", "--follow", is_flag=True, help="Go on as more comes.")
@click.option("-n", "--tail", type=click.IntRange(0, 1_000_000), metavar="N", help="Only the last N lines.")
def logs(name: str, follow: bool, tail: int | None) -> None:
    """Show what an instance wrote: a container's output, a system's journal, a VM's serial console.

    On a terminal, control characters are shown as escapes; redirected, the bytes are unchanged.
    """
    pieces = Client().instances.logs(name, tail=tail, follow=follow)
    if not sys.stdout.isatty():
        for piece in pieces:
            sys.stdout.buffer.write(piece)
            sys.stdout.buffer.flush()
        return
    rest = b""
    for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            print(_line(line))
        sys.stdout.flush()
    if rest:
        print(_line(rest))


def _line(line: bytes) -> str:
    """A line without what could steer the terminal; tabs stay."""
    return "\t".join(clean(part) for part in line.rstrip(b"\r").decode(errors="replace").split("\t"))


@click.command()
@click.option("-f", "--follow", is_flag=True, help="Go on as more happens.")
@click.option("--since", type=click.IntRange(0), metavar="N", help="After the event with this number (default: all).")
@click.option("--type", "kind", metavar="PREFIX", help="Only types that begin so, like instance.")
@formatted
def events(follow: bool, since: int | None, kind: str | None, form: str) -> None:
    """Show what happens; without --follow what happened and is kept. JSON is one object a line with --follow."""
    begin = since if since is not None else None if follow else 0
    stream = Client().events.stream(since=begin, kind=kind, follow=follow)
    if not follow:
        emit(list(stream), _EVENTS, form=form, empty="No events are kept.")
        return
    for event in stream:
        if form == "table":
            when = event["time"][11:19] if event["time"] else ""
            print(clean(f"{when}  {event['type']:<22}{event['subject']:<24}  {_data(event)}".rstrip()), flush=True)
        elif form == "json":
            print(json.dumps(event), flush=True)
        else:
            sys.stdout.write(structured([event], form))
            sys.stdout.flush()


def _data(event: Mapping[str, Any]) -> str:
    shown = {
        key: value for key, value in event["data"].items() if value not in (None, "") and key not in ("id", "kind")
    }
    return "  ".join(f"{key}={value}" for key, value in shown.items())


_EVENTS = (
    Column("NUMBER", lambda row: row["sequence"], right=True, keep=3),
    Column("TIME", lambda row: (row["time"] or "")[:19].replace("T", " ")),
    Column("TYPE", lambda row: row["type"]),
    Column("SUBJECT", lambda row: row["subject"]),
    Column("DATA", _data, keep=8),
)
