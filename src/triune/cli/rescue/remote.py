"""What every rescue command takes for sources on hosts: `--accept-new` and `--password-file`."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from triune.cli.text import clean
from triune.services.rescue.esxi.access import Access, Passwords

F = TypeVar("F", bound=Callable[..., Any])

_CACHE = "cache"


def remote(command: F) -> F:
    """Add the options; the command gets them as `access`. Its own `session`, where it has one, holds the cache."""

    @click.option(
        "--accept-new",
        is_flag=True,
        help="Trust the key or certificate of an esxi:// host that is seen the first time.",
    )
    @click.option(
        "--password-file",
        metavar="FILE",
        type=click.Path(path_type=Path),
        help="Its first line is the password of esxi:// hosts (default: TRIUNE_ESXI_PASSWORD, or it is asked for).",
    )
    @functools.wraps(command)
    def wrapped(*args: Any, accept_new: bool, password_file: Path | None, **options: Any) -> Any:
        session = options.get("session")
        options["access"] = Access(
            passwords=Passwords(password_file, _ask if os.isatty(0) else None),
            accept_new=accept_new,
            cache=None if session is None else Path(session) / _CACHE,
            tell=_tell,
        )
        return command(*args, **options)

    return wrapped  # type: ignore[return-value]


def _ask(who: str) -> str:
    return str(click.prompt(f"Password of {clean(who)}", hide_input=True, err=True))


def _tell(sentence: str) -> None:
    print(clean(sentence), file=sys.stderr, flush=True)
