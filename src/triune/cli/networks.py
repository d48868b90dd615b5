"""`network`: create, list, show, rm."""

from __future__ import annotations

import sys

import click

from triune.cli.options import complete_networks, confirm, confirmable, formatted, quietable, silenceable
from triune.cli.tables import Column, emit, structured
from triune.cli.text import clean
from triune.sdk import Client

_network = click.argument("name", shell_complete=complete_networks)


@click.group()
def network() -> None:
    """Create, list and remove networks."""


@network.command("list")
@formatted
@quietable
def list_networks(form: str, quiet: bool) -> None:
    """List the networks."""
    emit(Client().networks.list(), _COLUMNS, form=form, quiet="name" if quiet else None, empty="No networks.")


@network.command()
@_network
@formatted
def show(name: str, form: str) -> None:
    """Show a network and the instances in it."""
    found = Client().networks.get(name)
    if form != "table":
        sys.stdout.write(structured(dict(found), form))
        return
    for label, value in (
        ("Name", found["name"] + (" (the default)" if found["default"] else "")),
        ("Bridge", found["bridge"]),
        ("Subnet", found["subnet"]),
        ("Gateway", found["gateway"]),
        ("Domain", found["domain"]),
        ("Members", ", ".join(found["members"]) or "-"),
    ):
        print(f"{label + ':':<10}{clean(value)}")


@network.command()
@click.argument("name")
@click.option("--subnet", metavar="CIDR", help="Like 10.99.0.0/16 (default: a free one).")
@silenceable
def create(name: str, subnet: str | None, quiet: bool) -> None:
    """Make a network; its bridge has its name."""
    made = Client().networks.create(name, subnet)
    if not quiet:
        print(clean(f"{made['name']} is made: {made['subnet']}, gateway {made['gateway']}"))


@network.command("rm")
@_network
@click.option("--force", is_flag=True, help="Also if instances use it.")
@confirmable
@silenceable
def remove(name: str, force: bool, yes: bool, quiet: bool) -> None:
    """Remove a network."""
    confirm(f"Remove the network {name}?", yes=yes)
    Client().networks.remove(name, force=force)
    if not quiet:
        print(f"{name} is removed")


_COLUMNS = (
    Column("NAME", lambda row: row["name"]),
    Column("SUBNET", lambda row: row["subnet"]),
    Column("GATEWAY", lambda row: row["gateway"]),
    Column("DOMAIN", lambda row: row["domain"], keep=5),
    Column("INSTANCES", lambda row: len(row["members"]), right=True, keep=4),
    Column("DEFAULT", lambda row: "yes" if row["default"] else "-", keep=3),
)
