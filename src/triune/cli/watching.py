"""`logs`, `stats` and `events`."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import click

from triune.cli.options import complete_instances, formatted, instance_argument
from triune.cli.tables import Column, emit, structured, table
from triune.cli.text import clean, colours, width
from triune.domain.units import format_size
from triune.sdk import Client

_PAUSE = 1.0


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
@click.argument("name", required=False, shell_complete=complete_instances)
@click.option("--once", is_flag=True, help="Print it once, without a live display.")
@formatted
def stats(name: str | None, once: bool, form: str) -> None:
    """Show what one or all running instances use; live on a terminal."""
    client = Client()
    before, taken = client.instances.stats(name), time.monotonic()
    if form != "table":
        sys.stdout.write(structured(list(before) if name is None else before[0], form))
        return
    live = sys.stdout.isatty() and not once
    while True:
        time.sleep(_PAUSE)
        now, at = client.instances.stats(name), time.monotonic()
        rows = _rates(before, now, at - taken)
        before, taken = now, at
        text = table(rows, _STATS, limit=width(sys.stdout), colour=colours(sys.stdout))
        if not live:
            sys.stdout.write(text)
            return
        # Home, the lines each cleared to their end, then everything below: no flicker, and no further library.
        sys.stdout.write("\033[H" + text.replace("\n", "\033[K\n") + "\033[J")
        sys.stdout.flush()


def _rates(
    before: Sequence[Mapping[str, Any]], now: Sequence[Mapping[str, Any]], seconds: float
) -> list[dict[str, Any]]:
    earlier = {row["name"]: row["cpu_time_s"] for row in before}
    return [
        {**row, "cpu": max(0.0, row["cpu_time_s"] - earlier.get(row["name"], row["cpu_time_s"])) / seconds * 100}
        for row in now
    ]


def _memory(row: Mapping[str, Any]) -> str:
    limit = row["memory_limit_bytes"]
    return format_size(row["memory_bytes"]) + (f" / {format_size(limit)}" if limit else "")


_STATS = (
    Column("NAME", lambda row: row["name"]),
    Column("CPU", lambda row: f"{row['cpu']:.1f} %", right=True),
    Column("MEMORY", _memory, right=True),
    Column("DISK READ", lambda row: format_size(row["disk_read_bytes"]), right=True, keep=3),
    Column("DISK WRITE", lambda row: format_size(row["disk_write_bytes"]), right=True, keep=4),
    Column("NET IN", lambda row: format_size(row["net_rx_bytes"]), right=True, keep=5),
    Column("NET OUT", lambda row: format_size(row["net_tx_bytes"]), right=True, keep=6),
    Column("PIDS", lambda row: "-" if row["pids"] is None else row["pids"], right=True, keep=2),
)


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
