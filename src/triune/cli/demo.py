"""`demo`: a VM, a system container and an app container from one image, on one network, in one table."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from operator import itemgetter
from time import monotonic
from typing import Any

import click

from triune.cli.options import confirm, confirmable
from triune.cli.problems import tell, warn
from triune.cli.progress import Progress
from triune.cli.tables import Column, table
from triune.cli.text import clean, colours, paint, width
from triune.cli.trio import HOST, IMAGE, TRIO, bring_up, build, fetch_all
from triune.cli.waiting import each
from triune.domain.errors import NotFound, TriuneError
from triune.domain.units import format_duration, format_size
from triune.sdk import Client


@click.group()
def demo() -> None:
    """A VM, a system container and an app container that know each other by name."""


@demo.command()
def up() -> int:
    """Build the image if need be, launch the three, and let each fetch the others' pages.

    Repeating it is quick, and mends what is missing.
    """
    client = Client()
    begun = monotonic()
    with Progress() as progress:
        if build(client, progress):
            progress.print(f"{IMAGE} is built ({format_duration(monotonic() - begun)})")
        made = bring_up(client, progress)
        progress.update("pages", "fetching each page from each instance and from the host, by name")
        fetched = fetch_all(client, list(made.details))
    if made.details:
        _print_instances(client, made.details)
        _print_matrix(list(made.details), fetched)
        print(f"\nAll of it took {format_duration(monotonic() - begun)}. Remove it: triune demo down")
    codes = [tell(error, name=name) for name, error in made.errors.items()]
    return max([1 if any(fetched.values()) else 0, *codes])


@demo.command()
@confirmable
def down(yes: bool) -> int:
    """Remove the demo's three instances, and nothing else."""
    client = Client()
    there = []
    for name, engine in TRIO.items():
        try:
            found = client.instances.get(name)
        except NotFound:
            continue
        if found["origin"] == "managed" and found["engine"] == engine:
            there.append(name)
        else:
            warn(f"{name} is not the demo's and stays")
    if not there:
        print("Nothing of the demo is here.")
        return 0
    if sys.stdin.isatty():
        confirm(f"Remove {', '.join(there)} with all their data?", yes=yes)
    code = each(there, lambda client, name: client.instances.remove(name, force=True), "is removed")
    print(f"Nothing else was touched; the image {IMAGE} stays.")
    return code


def _print_instances(client: Client, details: Mapping[str, Mapping[str, Any]]) -> None:
    """One table: a column for each instance, a line for each fact."""
    took = _launch_times(client)
    emulated = _why_emulated(client)
    facts: Sequence[tuple[str, Any]] = (
        ("engine", lambda found: found["engine"]),
        ("state", lambda found: found["state"]),
        ("address", lambda found: ", ".join(found["addresses"]) or "-"),
        ("request to ready", lambda found: format_duration(took.get(found["name"]))),
        ("memory it costs", lambda found: format_size(found["memory_used_bytes"])),
        ("disk it costs", lambda found: format_size(found["disk_used_bytes"])),
        ("guest kernel", lambda found: found["kernel"] or "-"),
        ("isolation", lambda found: found["isolation"].get("boundary") or "-"),
        ("CPU", lambda found: _CPU[found["accelerated"]]),
    )
    rows = [{"": label, **{name: read(found) for name, found in details.items()}} for label, read in facts]
    columns = [Column(name.upper(), itemgetter(name)) for name in ("", *details)]
    print()
    sys.stdout.write(table(rows, columns, limit=width(sys.stdout), colour=colours(sys.stdout)))
    if emulated and any(found["accelerated"] is False for found in details.values()):
        print(f"\nemulated: {clean(emulated)}")


_CPU: Mapping[bool | None, str] = {True: "KVM, accelerated", False: "emulated (TCG)", None: "the host's, directly"}


def _launch_times(client: Client) -> Mapping[str, float]:
    """Seconds from request to ready of each one's last launch, from the history of operations."""
    found: dict[str, float] = {}
    for operation in client.operations.list(limit=1000):
        name = operation["resource"].partition("/")[2]
        if operation["kind"] == "launch" and operation["state"] == "done" and name in TRIO and name not in found:
            begun = datetime.fromisoformat(operation["created"])
            found[name] = (datetime.fromisoformat(operation["ended"] or operation["created"]) - begun).total_seconds()
    return found


def _why_emulated(client: Client) -> str:
    try:
        engines = client.host()["engines"]
    except TriuneError:
        return ""
    reasons = [engine["facts"].get("kvm") for engine in engines if engine["facts"].get("accelerated") is False]
    return str(reasons[0] or "") if reasons else ""


def _print_matrix(names: Sequence[str], fetched: Mapping[tuple[str, str], str]) -> None:
    """Who fetched whose page: a line for each source."""
    colour = colours(sys.stdout)
    size = max(len(name) for name in names)
    print("\n" + paint(f"{'page of':<{size}}  " + "  ".join(f"{name:<{size}}" for name in names), "bold", colour))
    for source in (*names, HOST):
        cells = []
        for name in names:
            came = not fetched[source, name]
            cells.append(paint(f"{'✓' if came else '✗':<{size}}", "green" if came else "red", colour))
        print(f"{source:<{size}}  " + "  ".join(cells).rstrip())
    for (source, name), reason in fetched.items():
        if reason:
            warn(f"{source} could not fetch the page of {name}: {reason}")
