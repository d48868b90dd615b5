"""`pool`: create, list, show, rm."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from triune.cli.options import complete_pools, confirm, confirmable, formatted, quietable, silenceable
from triune.cli.tables import Column, emit, structured
from triune.cli.text import clean
from triune.cli.waiting import finish
from triune.domain.units import format_size, parse_size
from triune.sdk import Client

_pool = click.argument("name", shell_complete=complete_pools)


@click.group()
def pool() -> None:
    """Create, list and remove storage pools."""


@pool.command("list")
@formatted
@quietable
def list_pools(form: str, quiet: bool) -> None:
    """List the pools."""
    emit(Client().pools.list(), _COLUMNS, form=form, quiet="name" if quiet else None, empty="No pools.")


@pool.command()
@_pool
@formatted
def show(name: str, form: str) -> None:
    """Show a pool and what is in it."""
    found = Client().pools.get(name)
    if form != "table":
        sys.stdout.write(structured(dict(found), form))
        return
    lines = [
        ("Name", found["name"]),
        ("Driver", found["driver"]),
        ("State", "available" if found["available"] else f"unavailable: {found['reason']}"),
        ("Path", found["path"]),
        *([("File", found["loop"])] if found["loop"] else []),
        *([("Dataset", found["dataset"])] if found["dataset"] else []),
        ("Size", f"{format_size(found['size'])}, {format_size(found['free'])} free"),
        ("Reflinks", "yes" if found["reflink"] else "no"),
        ("Quotas", "yes" if found["quota"] else f"no: {found['quota_reason'] or 'it is unavailable'}"),
        ("Used by", ", ".join(found["used_by"]) or "-"),
    ]
    for label, value in lines:
        print(f"{label + ':':<10}{clean(value)}")


@pool.command()
@click.argument("name")
@click.option(
    "--driver", type=click.Choice(["dir", "btrfs", "zfs"]), default="dir", show_default=True, help="What it is made of."
)
@click.option("--path", metavar="DIR", help="An empty folder of this host, or one to make (default: Triune's own).")
@click.option("--size", metavar="SIZE", help="Of a btrfs in a file of its own, like 10GiB.")
@click.option("--dataset", metavar="NAME", help="Dataset to make for zfs, like tank/triune.")
@silenceable
def create(name: str, driver: str, path: str | None, size: str | None, dataset: str | None, quiet: bool) -> None:
    """Make a pool: a folder, a btrfs (in a folder, or in a file of --size), or a dataset of ZFS."""
    client = Client()
    where = None if path is None else str(Path(path).expanduser().absolute())
    operation = client.pools.create(
        name, driver=driver, path=where, size=None if size is None else parse_size(size), dataset=dataset or ""
    )
    result = finish(client, operation, name, quiet=quiet)
    if not quiet:
        print(clean(f"{name} is made at {result['path']}"))


@pool.command("rm")
@_pool
@confirmable
@silenceable
def remove(name: str, yes: bool, quiet: bool) -> None:
    """Remove a pool that nothing uses."""
    confirm(f"Remove the pool {name}?", yes=yes)
    client = Client()
    finish(client, client.pools.remove(name), name, cancel=False, quiet=quiet)
    if not quiet:
        print(f"{name} is removed")


def _state(row: Mapping[str, Any]) -> str:
    return "available" if row["available"] else "unavailable"


_COLUMNS = (
    Column("NAME", lambda row: row["name"]),
    Column("DRIVER", lambda row: row["driver"]),
    Column("STATE", _state, colour=lambda row: "green" if row["available"] else "red"),
    Column("SIZE", lambda row: format_size(row["size"]), right=True, keep=6),
    Column("FREE", lambda row: format_size(row["free"]), right=True),
    Column("QUOTAS", lambda row: "yes" if row["quota"] else "-", keep=3),
    Column("USED BY", lambda row: len(row["used_by"]) or "-", right=True, keep=5),
    Column("PATH", lambda row: row["path"], keep=4),
)
