"""`snapshot`: create, list, restore, rm, schedule."""

from __future__ import annotations

import os
from time import monotonic
from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem

from triune.cli.listing import age
from triune.cli.options import (
    complete_instances,
    confirm,
    confirmable,
    formatted,
    instance_argument,
    quietable,
    silenceable,
)
from triune.cli.schedules import schedule
from triune.cli.tables import Column, emit
from triune.cli.text import clean
from triune.cli.waiting import each, finish
from triune.domain.errors import TriuneError
from triune.domain.units import format_duration, format_size
from triune.sdk import Client

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any


def complete_snapshots(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The snapshots of the instance named before."""
    del param
    named = set(ctx.params.get("snapshots") or ())
    try:
        found = [row["name"] for row in Client().snapshots.list(str(ctx.params.get("name")))]
    except (TriuneError, KeyError, TypeError):
        return []
    return [CompletionItem(one) for one in found if one.startswith(incomplete) and one not in named]


@click.group()
def snapshot() -> None:
    """Take, list, put back and remove snapshots of instances."""


@snapshot.command()
@instance_argument
@click.argument("snapshot_name", metavar="[SNAP]", required=False)
@click.option("--memory", "--stateful", is_flag=True, help="With the running state: restoring it goes on where it was.")
@click.option("--expires", metavar="TIME", help="When it goes by itself: 12h, 7d, or a time (RFC 3339).")
@click.option("--comment", default="", metavar="TEXT", help="What it is for.")
@silenceable
def create(name: str, snapshot_name: str | None, memory: bool, expires: str | None, comment: str, quiet: bool) -> None:
    """Take a snapshot of an instance, running or stopped.

    Without a name it is called snap-YYYYMMDD-HHMMSS. A running instance is held still for a moment.
    """
    client = Client()
    begun = monotonic()
    operation = client.snapshots.create(name, snapshot_name, memory=memory, expires=expires, comment=comment)
    result = finish(client, operation, name, quiet=quiet)
    if not quiet:
        took = format_duration(monotonic() - begun)
        print(clean(f"snapshot {result['name']} of {name} is taken ({result['consistency']}, {took})"))


@snapshot.command("list")
@instance_argument
@formatted
@quietable
def list_snapshots(name: str, form: str, quiet: bool) -> None:
    """List the snapshots of an instance, the oldest first."""
    empty = f"No snapshots of {clean(name)}. Take one: triune snapshot create {clean(name)}"
    emit(Client().snapshots.list(name), _COLUMNS, form=form, quiet="name" if quiet else None, empty=empty)


@snapshot.command()
@instance_argument
@click.argument("snapshot_name", metavar="SNAP", shell_complete=complete_snapshots)
@click.option("--force", is_flag=True, help="Also if it runs: stop it, put it back, start it again. Does not ask.")
@confirmable
@silenceable
def restore(name: str, snapshot_name: str, force: bool, yes: bool, quiet: bool) -> None:
    """Put an instance back to a snapshot; what it has done since is lost.

    Whoever runs is asked about, or refused where nobody can be asked. A snapshot with the running state goes on
    running; after any other the instance is stopped, unless it ran before.
    """
    client = Client()
    running = client.instances.get(name)["state"] != "stopped"
    if not force:
        client.snapshots.get(name, snapshot_name)
        force = _agreed(name, snapshot_name, running=running, yes=yes)
    begun = monotonic()
    operation = client.snapshots.restore(name, snapshot_name, force=force)
    result = finish(client, operation, name, cancel=False, quiet=quiet)
    if not quiet:
        took = format_duration(monotonic() - begun)
        print(clean(f"{name} is put back to {snapshot_name} and {result['state']} ({took})"))


def _agreed(name: str, snapshot_name: str, *, running: bool, yes: bool) -> bool:
    """Ask; returns whether a running instance may be stopped for it. A running one nobody agreed to stop is refused
    by the daemon, with the next step."""
    back = f"put it back to {clean(snapshot_name)}"
    if not running:
        confirm(f"{clean(name)}: {back}? What it has done since is lost.", yes=yes)
        return False
    if yes or not os.isatty(0):
        return False
    confirm(f"{clean(name)} is running: stop it, {back} and start it again? What it has done since is lost.", yes=yes)
    return True


@snapshot.command("rm")
@instance_argument
@click.argument("snapshots", metavar="SNAP...", nargs=-1, required=True, shell_complete=complete_snapshots)
@silenceable
def remove(name: str, snapshots: tuple[str, ...], quiet: bool) -> int:
    """Remove snapshots of an instance. The instance stays as it is."""
    client = Client()
    codes = [
        each([one], lambda _, which: _removal(client, name, which), "is removed", quiet=quiet) for one in snapshots
    ]
    return max(codes)


def _removal(client: Client, name: str, which: str) -> Any:
    return client.snapshots.remove(name, which)


snapshot.add_command(schedule)


@click.command()
@click.argument("name", shell_complete=complete_instances)
@click.argument("new")
@click.option("--snapshot", "of", metavar="SNAP", shell_complete=complete_snapshots, help="As it was at this snapshot.")
@click.option("--start/--no-start", default=False, show_default=True, help="Start it and wait until it is ready.")
@silenceable
def clone(name: str, new: str, of: str | None, start: bool, quiet: bool) -> None:
    """Copy an instance under a new name, sharing what did not change where the storage can.

    The copy has its own identity: host name, machine-id, card, address, SSH host keys. Published ports stay with
    the original. It is stopped, as a copy in other tools is; --start starts it.
    """
    client = Client()
    begun = monotonic()
    operation = client.instances.clone(name, new, snapshot=of, start=start)
    result = finish(client, operation, new, quiet=quiet)
    if quiet:
        return
    took = format_duration(monotonic() - begun)
    where = ", ".join(result["addresses"]) if start else ""
    source = f"{name} at {of}" if of else name
    did = f"runs{f' at {where}' if where else ''}" if start else "is made, stopped"
    print(clean(f"{new}, a copy of {source}, {did} ({result['engine']}, {took})"))


def _expires(row: Mapping[str, Any]) -> str:
    """In how long, in one unit."""
    if not row["expires"]:
        return "-"
    from datetime import UTC, datetime

    left = (datetime.fromisoformat(row["expires"]) - datetime.now(UTC)).total_seconds()
    return f"in {format_duration(left)}" if left > 0 else "now"


_COLUMNS = (
    Column("NAME", lambda row: row["name"]),
    Column("AGE", lambda row: age(row["created"]), right=True, keep=8),
    Column("CONSISTENCY", lambda row: row["consistency"], keep=4),
    Column("MEMORY", lambda row: "yes" if row["memory"] else "-", keep=5),
    Column("SIZE", lambda row: format_size(row["size"]), right=True, keep=6),
    Column("EXPIRES", _expires, keep=5),
    Column("SCHEDULE", lambda row: row["schedule"] or "-", keep=3),
    Column("COMMENT", lambda row: row["comment"] or "-", keep=2),
)
