"""Options and arguments that commands share, and the completion of names."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from triune.cli.tables import FORMATS
from triune.domain.errors import Invalid, TriuneError
from triune.domain.units import parse_duration

F = TypeVar("F", bound=Callable[..., Any])

_QUICK = 1.0
AUTO = "auto"
ENGINES = (AUTO, "lxc", "kvm", "docker", "rootless")


def _offer(words: Iterable[object], incomplete: str) -> list[CompletionItem]:
    """Words that go on from what is typed; none that a shell or terminal could take for something else."""
    found = [str(word) for word in words]
    return [
        CompletionItem(word)
        for word in found
        if word.startswith(incomplete) and word.isprintable() and not any(char in " \t\"'`$\\;&|<>()" for char in word)
    ]


def _names(path: str, key: str = "name", limit: int = 1000) -> list[str]:
    """Names in a list of the API, quickly or not at all: a completion never shows an error."""
    from triune.sdk.transport import Transport, target

    try:
        page = Transport().call("GET", target(path, limit=limit), timeout=_QUICK)
        return [str(item[key]) for item in page["items"]]
    except (TriuneError, KeyError, TypeError):
        return []


def complete_instances(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Instances not named yet."""
    del param
    named = set(ctx.params.get("names") or ())
    return _offer((name for name in _names("/v1/instances") if name not in named), incomplete)


def complete_ends(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Instances as NAME: and files of this machine."""
    del ctx, param
    if "/" in incomplete or ":" in incomplete:
        return [CompletionItem(incomplete, type="file")]
    return [*_offer((f"{name}:/" for name in _names("/v1/instances")), incomplete), CompletionItem("", type="file")]


def complete_images(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Images of this host."""
    del ctx, param
    return _offer(_names("/v1/images"), incomplete)


def complete_networks(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Networks."""
    del ctx, param
    return _offer(_names("/v1/networks"), incomplete)


def complete_pools(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Pools."""
    del ctx, param
    return _offer(_names("/v1/pools"), incomplete)


def complete_volumes(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Volumes."""
    del ctx, param
    return _offer(_names("/v1/volumes"), incomplete)


def complete_operations(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The newest operations."""
    del ctx, param
    return _offer(_names("/v1/operations", "id", limit=30), incomplete)


def complete_engines(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Engines."""
    del ctx, param
    return _offer(ENGINES, incomplete)


def formatted(command: F) -> F:
    """Add --format."""
    return click.option(
        "--format", "form", type=click.Choice(FORMATS), default="table", help="How to print it.", show_default=True
    )(command)


def quietable(command: F) -> F:
    """Add --quiet."""
    return click.option("-q", "--quiet", is_flag=True, help="Print only the names.")(command)


def silenceable(command: F) -> F:
    """Add --quiet, of a command that changes something."""
    return click.option("-q", "--quiet", is_flag=True, help="Say nothing but errors.")(command)


def confirmable(command: F) -> F:
    """Add --yes."""
    return click.option("-y", "--yes", is_flag=True, help="Do not ask.")(command)


instance_argument = click.argument("name", shell_complete=complete_instances)
instances_argument = click.argument(
    "names", metavar="NAME...", nargs=-1, required=True, shell_complete=complete_instances
)


class Duration(click.ParamType[float]):
    """`30`, `10m`, `1h`."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Seconds."""
        if isinstance(value, int | float):
            return float(value)
        try:
            return parse_duration(str(value))
        except Invalid as error:
            self.fail(f"{error.message}. {error.hint}", param, ctx)


def confirm(question: str, *, yes: bool) -> None:
    """Ask on the terminal. Raises Invalid where there is none and `yes` was not given, Abort for a no."""
    if yes:
        return
    if not os.isatty(0):
        raise Invalid(
            "confirmation_needed", "this asks for a confirmation, and there is no terminal", hint="Say it with --yes."
        )
    click.confirm(question, abort=True, err=True)
