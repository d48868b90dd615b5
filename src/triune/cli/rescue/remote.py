"""What every rescue command takes for sources on hosts: `--accept-new` and `--password-file`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from triune.cli.text import clean

if TYPE_CHECKING:
    from triune.services.rescue.esxi.access import Access

F = TypeVar("F", bound=Callable[..., Any])

_KEY = "triune.rescue.remote"
_CACHE = "cache"


def remote(command: F) -> F:
    """Add the options. They are not given to the command; `access` finds them in its context."""
    accept = click.option(
        "--accept-new",
        is_flag=True,
        expose_value=False,
        callback=_kept,
        help="Trust the key or certificate of an esxi:// host that is seen the first time.",
    )
    password = click.option(
        "--password-file",
        metavar="FILE",
        type=click.Path(path_type=Path),
        expose_value=False,
        callback=_kept,
        help="Its first line is the password of esxi:// hosts (default: TRIUNE_ESXI_PASSWORD, or it is asked for).",
    )
    return accept(password(command))


def access(session: Path | None = None) -> Access:
    """How hosts are entered, as the running command was told; the folder of a `session` holds the cache."""
    from triune.services.rescue.esxi.access import Access, Passwords

    told = click.get_current_context().meta.get(_KEY, {})
    return Access(
        passwords=Passwords(told.get("password_file"), _ask if os.isatty(0) else None),
        accept_new=told.get("accept_new", False),
        cache=None if session is None else session / _CACHE,
        tell=_tell,
    )


def _kept(context: click.Context, option: click.Parameter, value: Any) -> Any:
    context.meta.setdefault(_KEY, {})[option.name] = value
    return value


def _ask(who: str) -> str:
    return str(click.prompt(f"Password of {clean(who)}", hide_input=True, err=True))


def _tell(sentence: str) -> None:
    print(clean(sentence), file=sys.stderr, flush=True)
