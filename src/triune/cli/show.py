"""`list` (through Click), `show` and `version`."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import click

from triune import __version__
from triune.cli.listing import engine, list_instances, moment, state_colour
from triune.cli.options import formatted, instance_argument, quietable
from triune.cli.tables import structured
from triune.cli.text import clean, colours, paint, said
from triune.domain.errors import Unreachable
from triune.domain.limits import FIELDS, format_value
from triune.domain.units import format_duration, format_size
from triune.sdk import Client


@click.command("list")
@formatted
@quietable
@click.option("--filter", "filter_text", metavar="KEY=VALUE,...", help="Keys: engine, state, origin, image, name.")
def list_command(form: str, quiet: bool, filter_text: str | None) -> None:
    """List the instances of every engine.

    Engines that can't be reached are told on stderr; the exit code is 0 all the same.
    """
    list_instances(form=form, quiet=quiet, filter_text=filter_text)


@click.command()
@instance_argument
@formatted
def show(name: str, form: str) -> None:
    """Show everything known of an instance."""
    found: Mapping[str, Any] = Client().instances.get(name)
    if form != "table":
        sys.stdout.write(structured(dict(found), form))
        return
    colour = colours(sys.stdout)
    for key, value in _lines(found):
        text = clean(value)
        print(f"{key + ':':<11}{paint(text, state_colour(found), colour) if key == 'State' else text}")
    for title, facts in _sections(found):
        print(f"\n{paint(title, 'bold', colour)}")
        size = max(len(key) for key, _ in facts) + 1
        for key, value in facts:
            print(f"  {clean(key) + ':':<{size}} {clean(value)}".rstrip())


def _lines(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The plain facts."""
    cpus = found["cpus"]
    yield "Name", found["name"]
    yield "Engine", engine(found)
    yield "State", found["state"]
    if found["error"]:
        yield "Error", found["error"]
    yield "Addresses", ", ".join(found["addresses"]) or "-"
    yield "Image", found["image"] or "-"
    yield "Origin", found["origin"]
    yield "Created", moment(found["created"])
    yield "Uptime", format_duration(found["uptime_s"])
    yield "Restarts", "-" if found["restarts"] is None else str(found["restarts"])
    yield "CPUs", "no limit" if cpus is None else f"{cpus:g}"
    used = format_size(found["memory_used_bytes"])
    limit = found["memory_bytes"]
    yield "Memory", f"{used} (no limit)" if limit is None else f"{used} (limit {format_size(limit)})"
    yield "Disk", format_size(found["disk_used_bytes"])
    yield "Kernel", found["kernel"] or "-"
    if found["command"]:
        yield "Command", shlex.join(found["command"])


def _sections(found: Mapping[str, Any]) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """(title, facts) of what comes in groups; of several things each begins with a line of its own."""
    for title, items in (
        ("Isolation", [found["isolation"]]),
        ("Network", found["network"]),
        ("Devices", found["devices"]),
        ("Settings", [found["settings"]]),
        ("Limits", [_limits(found.get("limits") or {})]),
    ):
        there = [item for item in items if item]
        if len(there) == 1:
            yield title, [(key, _value(key, value)) for key, value in there[0].items()]
        elif there:
            yield title, [fact for item in there for fact in _facts(item)]


def _limits(limits: Mapping[str, Any]) -> dict[str, str]:
    """Those that are set, for people."""
    return {key: format_value(key, value) for key, value in limits.items() if value is not None and key in FIELDS}


def _facts(item: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    named = str(item.get("type") or item.get("interface") or item.get("network") or "-")
    yield named, ""
    for key, value in item.items():
        if value not in (None, "", [], named):
            yield f"  {key}", _value(key, value)


def _value(key: str, value: Any) -> str:
    if key == "id_map" and isinstance(value, list):
        return "; ".join(_id_range(entry) for entry in value) or "-"
    if isinstance(value, list):
        return ", ".join(_value("", item) for item in value) or "-"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_value(name, item)}" for name, item in value.items() if item) or "as by default"
    return said(value)


def _id_range(entry: Any) -> str:
    """A line of /proc/PID/uid_map in words."""
    if not (isinstance(entry, list) and len(entry) == 3 and all(isinstance(number, int) for number in entry)):
        return str(entry)
    inside, outside, count = entry
    return f"{inside} to {inside + count - 1} inside are {outside} to {outside + count - 1} of the host"


@click.command()
@formatted
def version(form: str) -> None:
    """Show the versions of this program and of the daemon."""
    client = Client()
    daemon: dict[str, Any] | None = None
    problem = ""
    try:
        daemon = client.version()
    except Unreachable as error:
        problem = error.message
    if form != "table":
        sys.stdout.write(structured({"version": __version__, "daemon": daemon}, form))
        return
    print(f"triune {__version__}")
    print(f"daemon {clean(daemon['version'])} at {client.transport.socket_path}" if daemon else f"daemon: {problem}")
