"""`set`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import click
from click.shell_completion import CompletionItem

from triune.cli.options import instance_argument, silenceable
from triune.cli.pairs import pairs
from triune.cli.text import clean
from triune.cli.waiting import finish
from triune.domain.limits import FIELDS, format_value, parse
from triune.sdk import Client


def _complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Keys not named yet."""
    del param
    named = {word.partition("=")[0] for word in ctx.params.get("changes") or ()}
    return [CompletionItem(f"{key}=") for key in FIELDS if key.startswith(incomplete) and key not in named]


@click.command("set")
@instance_argument
@click.argument("changes", metavar="KEY=VALUE...", nargs=-1, required=True, shell_complete=_complete)
@silenceable
def set_limits(name: str, changes: tuple[str, ...], quiet: bool) -> None:
    """Limit what an instance may use; a running one at once, where its engine can.

    Keys: cpus=1.5, cpu.weight=200 (100 is normal), cpu.pin=0-1, memory=512MiB, swap=1GiB, pids=500, io.read=50MiB/s,
    io.write=50MiB/s, iops.read=1000, iops.write=1000, net.in=100Mbit/s, net.out=100Mbit/s. KEY=none lifts a limit. What
    is not named stays.
    """
    client = Client()
    wanted = parse(pairs(changes, ""))
    result = finish(client, client.instances.set_limits(name, wanted), name, quiet=True)
    if not quiet:
        for line in _lines(name, wanted, result):
            print(clean(line))


def _lines(name: str, wanted: Mapping[str, Any], result: Mapping[str, Any]) -> Iterator[str]:
    """What acts now, as the engine tells it, and what from the next start, as it was asked for."""
    for values, when in ((result["limits"], "now"), (wanted, "from its next start")):
        keys = result["now"] if when == "now" else result["later"]
        if keys:
            said = ", ".join(f"{key} {format_value(key, values.get(key))}" for key in keys)
            yield f"{name} has {said} {when}"
