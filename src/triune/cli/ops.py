"""`ops`: list, show, wait, cancel."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import click

from triune.cli.listing import age, moment
from triune.cli.options import complete_operations, formatted
from triune.cli.tables import Column, emit, structured
from triune.cli.text import clean, colours, paint
from triune.cli.waiting import finish
from triune.domain.units import format_duration
from triune.sdk import Client

_COLOURS = {"done": "green", "failed": "red", "interrupted": "red", "cancelled": "yellow", "running": "cyan"}

_operation = click.argument("operation", shell_complete=complete_operations)


@click.group()
def ops() -> None:
    """Look at long-running operations, running and ended."""


@ops.command("list")
@formatted
@click.option("-q", "--quiet", is_flag=True, help="Print only the ids.")
@click.option("--running", is_flag=True, help="Only those that have not ended.")
@click.option(
    "-n", "--limit", type=click.IntRange(1, 10_000), default=50, show_default=True, metavar="N", help="How many."
)
def list_operations(form: str, quiet: bool, running: bool, limit: int) -> None:
    """List operations, newest first."""
    rows = Client().operations.list(limit=limit, running=running)
    emit(rows, _COLUMNS, form=form, quiet="id" if quiet else None, empty="No operations.")


@ops.command()
@_operation
@formatted
def show(operation: str, form: str) -> None:
    """Show an operation with its steps."""
    found = Client().operations.get(operation)
    if form != "table":
        sys.stdout.write(structured(dict(found), form))
        return
    colour = colours(sys.stdout)
    print(f"Operation: {clean(found['id'])}")
    print(f"Action:    {clean(found['kind'])} {clean(found['resource'])}")
    print(f"State:     {paint(clean(found['state']), _colour(found), colour)}")
    print(f"Created:   {clean(moment(found['created']))}")
    print(f"Took:      {_took(found)}")
    for step in found["steps"]:
        print(f"  {clean(step['time'])[11:23]}  {clean(step['name']):<14}{clean(step['text'])}")
    if found["error"]:
        print(f"Error:     {clean(found['error']['message'])} ({clean(found['error']['code'])})")
        if found["error"]["hint"]:
            print(f"Hint:      {clean(found['error']['hint'])}")


@ops.command()
@_operation
def wait(operation: str) -> None:
    """Wait until an operation has ended; the exit code is that of its outcome."""
    client = Client()
    found = client.operations.get(operation)
    finish(client, found, found["resource"].partition("/")[2], cancel=False)
    print(f"{clean(found['kind'])} of {clean(found['resource'].partition('/')[2])} is done")


@ops.command()
@_operation
def cancel(operation: str) -> None:
    """Cancel an operation; what it had made is removed."""
    found = Client().operations.cancel(operation)
    print(f"{clean(found['kind'])} of {clean(found['resource'].partition('/')[2])} is being cancelled")


def _took(row: Mapping[str, Any]) -> str:
    try:
        begun = datetime.fromisoformat(row["started"] or row["created"])
        return format_duration((datetime.fromisoformat(row["ended"]) - begun).total_seconds()) if row["ended"] else "-"
    except ValueError:
        return "-"


def _colour(row: Mapping[str, Any]) -> str:
    return _COLOURS.get(row["state"], "")


def _text(row: Mapping[str, Any]) -> str:
    """What it is doing, or why it failed; the last step of what is done tells nothing."""
    return str(row["error"]["message"] if row["error"] else "-" if row["ended"] else row["text"])


_COLUMNS = (
    Column("ID", lambda row: row["id"]),
    Column("ACTION", lambda row: row["kind"]),
    Column("RESOURCE", lambda row: row["resource"].partition("/")[2]),
    Column("STATE", lambda row: row["state"], colour=_colour),
    Column("AGE", lambda row: age(row["created"]), right=True, keep=5),
    Column("TOOK", _took, right=True, keep=4),
    Column("TEXT", _text, keep=3),
)
