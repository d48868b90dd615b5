"""`snapshot schedule`: add, list, rm. The word `add` may be left out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem

from triune.cli.listing import age
from triune.cli.options import Duration, formatted, instance_argument, quietable, silenceable
from triune.cli.tables import Column, emit
from triune.cli.text import clean
from triune.domain.errors import TriuneError
from triune.domain.units import format_period
from triune.sdk import Client

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any


class Adding(click.Group):
    """A group where what begins with no command is meant for `add`."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """`add` for a word that is none."""
        found = super().get_command(ctx, cmd_name)
        return found or (None if cmd_name.startswith("-") else super().get_command(ctx, "add"))

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put `add` before what names no command; an option may come first."""
        if args and args[0] not in ctx.help_option_names and super().get_command(ctx, args[0]) is None:
            args = ["add", *args]
        return super().parse_args(ctx, args)


def complete_schedules(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Schedules."""
    del ctx, param
    try:
        found = [row["name"] for row in Client().schedules.list()]
    except (TriuneError, KeyError, TypeError):
        return []
    return [CompletionItem(one) for one in found if one.startswith(incomplete)]


@click.group(cls=Adding, subcommand_metavar="NAME --every TIME | list | rm SCHEDULE...")
def schedule() -> None:
    """Take snapshots of an instance again and again, and let the old ones go.

    triune snapshot schedule NAME --every 1h --keep 24
    """


@schedule.command()
@instance_argument
@click.option("--every", type=Duration(), metavar="TIME", help="How often: 30m, 1h, 1d.")
@click.option("--at", metavar="HH:MM", help="Daily at this time of the daemon's host, instead of --every.")
@click.option("--keep", type=click.IntRange(1, 100_000), metavar="N", help="How many of its snapshots stay [all].")
@click.option("--memory", "--stateful", is_flag=True, help="With the running state.")
@click.option("--name", "called", metavar="SCHEDULE", help="Its own name [made of the instance's and the time].")
@silenceable
def add(
    name: str,
    every: float | None,
    at: str | None,
    keep: int | None,
    memory: bool,
    called: str | None,
    quiet: bool,
) -> None:
    """Add a schedule. A run that is missed, because the host was off, is made up for once."""
    if every is None and at is None:
        raise click.UsageError("say when: --every 1h, or --at 03:00")
    made = Client().schedules.create(name, name=called, every=every, at=at, keep=keep, memory=memory)
    if not quiet:
        kept = f", keeping {keep}" if keep is not None else ""
        print(clean(f"schedule {made['name']}: a snapshot of {name} {when(made)}{kept}"))


def add_list_and_rm(group: click.Group, action: str, empty: str) -> None:
    """The two commands that are the same whatever is scheduled; `empty` is said where nothing is."""

    @group.command("list", help=f"List the schedules of {action}s.")
    @formatted
    @quietable
    def list_schedules(form: str, quiet: bool) -> None:
        rows = Client().schedules.list(action)
        emit(rows, COLUMNS, form=form, quiet="name" if quiet else None, empty=empty)

    @group.command("rm", help=f"Remove schedules; the {action}s they made stay.")
    @click.argument("schedules", metavar="SCHEDULE...", nargs=-1, required=True, shell_complete=complete_schedules)
    @silenceable
    def remove(schedules: tuple[str, ...], quiet: bool) -> None:
        client = Client()
        for one in schedules:
            client.schedules.remove(one)
            if not quiet:
                print(clean(f"schedule {one} is removed"))


add_list_and_rm(schedule, "snapshot", "No schedules. Add one: triune snapshot schedule NAME --every 1h --keep 24")


def when(row: Mapping[str, Any]) -> str:
    """How often, in words."""
    return f"daily at {row['at']}" if row["at"] else f"every {format_period(row['every'])}"


def _next(row: Mapping[str, Any]) -> str:
    from datetime import datetime

    return f"{datetime.fromisoformat(row['next_run']).astimezone():%Y-%m-%d %H:%M}"


COLUMNS = (
    Column("NAME", lambda row: row["name"]),
    Column("INSTANCE", lambda row: row["subject"] or "all"),
    Column("WHEN", when, keep=7),
    Column("KEEP", lambda row: " ".join(f"{key}={number}" for key, number in row["keep"].items()) or "all", keep=6),
    Column("NEXT", _next, keep=5),
    Column("LAST", lambda row: f"{age(row['last_run'])} ago" if row["last_run"] else "-", keep=4),
    Column("RESULT", lambda row: row["last_result"] or "-", keep=3),
)
