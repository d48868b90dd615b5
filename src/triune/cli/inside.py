"""`exec`, `shell` and `console`."""

from __future__ import annotations

import sys
from collections.abc import Callable

import click

from triune.cli import terminal
from triune.cli.options import instance_argument
from triune.cli.pairs import pairs
from triune.cli.problems import tell
from triune.domain.errors import TriuneError
from triune.sdk import Client

# As `docker run` has it: the command was not started, for a reason that is not the command's own.
_OURS = 125
_DETACH = b"\x1d"


class Trailing(click.Command):
    """A command whose last argument is a command line: everything after `--`, or after the name."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Options after the name are ours only where a `--` ends them."""
        ctx.allow_interspersed_args = "--" in args
        return super().parse_args(ctx, args)


_user = click.option("-u", "--user", help="As which user of the instance.")
_cwd = click.option("-w", "--cwd", help="In which folder of the instance.")
_env = click.option("-e", "--env", metavar="KEY=VALUE", multiple=True, help="An environment variable.")


@click.command("exec", cls=Trailing)
@click.option("-t/-T", "--tty/--no-tty", default=None, help="With a terminal, or not (default: as this is one).")
@click.option("-i/-n", "--stdin/--no-stdin", default=True, help="Pass stdin on, or not (default: pass it).")
@_user
@_cwd
@_env
@instance_argument
@click.argument("command", metavar="-- COMMAND...", nargs=-1, required=True, type=click.UNPROCESSED)
def execute(
    name: str,
    command: tuple[str, ...],
    tty: bool | None,
    stdin: bool,
    user: str | None,
    cwd: str | None,
    env: tuple[str, ...],
) -> int:
    """Run a command in an instance and end with its exit code.

    125 says that Triune could not run it, 126 that it can't be executed, 127 that it was not found.
    """
    return _guarded(lambda: _run(name, command, tty, stdin, user, cwd, env))


@click.command()
@_user
@_cwd
@_env
@instance_argument
def shell(name: str, user: str | None, cwd: str | None, env: tuple[str, ...]) -> int:
    """Open a login shell in an instance."""
    return _guarded(lambda: _run(name, (), None, True, user, cwd, env))


@click.command()
@instance_argument
def console(name: str) -> int:
    """Attach to an instance's console; Ctrl-] leaves it."""
    session = Client().instances.console(name, terminal.size())
    if sys.stderr.isatty():
        print(f"console of {name}; press Enter if it is silent, Ctrl-] to leave", file=sys.stderr)
    attachment = terminal.Attachment(session, terminal=True, detach=_DETACH)
    code = attachment.run()
    if sys.stderr.isatty():
        print(f"\nleft the console of {name}", file=sys.stderr)
    return code


def _run(
    name: str,
    command: tuple[str, ...],
    tty: bool | None,
    stdin: bool,
    user: str | None,
    cwd: str | None,
    env: tuple[str, ...],
) -> int:
    wanted = terminal.both_terminals() if tty is None else tty
    session = Client().instances.exec(
        name,
        command,
        env=pairs(env, "--env"),
        user=user,
        cwd=cwd,
        terminal=terminal.size() if wanted else None,
    )
    return terminal.Attachment(session, terminal=wanted, stdin=stdin).run()


def _guarded(action: Callable[[], int]) -> int:
    try:
        return action()
    except TriuneError as error:
        tell(error)
        return _OURS
