"""Print docs/CLI.md: every command, its usage, help and options, from the commands themselves (`make docs`)."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator

import click

from triune.cli.root import root

HEAD = """# The command line

Written by `make docs` from the commands themselves; `triune COMMAND --help` says the same.

Exit codes: 0 done; 1 failed; 2 usage; 3 not found; 4 conflict or exists; 5 denied; 6 this host or engine cannot;
7 daemon unreachable. `exec` passes on the code of what it ran, and 125, 126, 127 as Docker does.

| variable | what it does |
|---|---|
| `TRIUNE_HOST` | the daemon's socket, like `unix:///run/triune/triune.sock` (the default) |
| `TRIUNE_TOKEN` | a token that is sent along |
| `TRIUNE_PROJECT` | empty or `default`: there are no other projects yet |
| `TRIUNE_REGISTRY_PASSWORD` | for `image pull --username` |
| `NO_COLOR` | no colours |
| `TRIUNE_DEBUG` | a bug in the command line shows where it is |
| `TRIUNE_CONFIG`, `TRIUNE_DATA`, `TRIUNE_SOCKET`, `TRIUNE_GROUP` | of the daemon, see `triune serve` |
"""


def walk(command: click.Command, context: click.Context) -> Iterator[tuple[click.Command, click.Context]]:
    """A command and what is below it, in the order of its help, without hidden ones."""
    if command.hidden:
        return
    yield command, context
    if isinstance(command, click.Group):
        for word in command.list_commands(context):
            inner = command.get_command(context, word)
            if inner is not None:
                yield from walk(inner, click.Context(inner, parent=context, info_name=word))


def options(command: click.Command, context: click.Context) -> Iterator[str]:
    """A table of the options; nothing where there are none but --help."""
    records = [
        record
        for parameter in command.params
        if isinstance(parameter, click.Option) and (record := parameter.get_help_record(context))
    ]
    if records:
        yield "\n| option | what it does |\n|---|---|"
        for names, text in records:
            yield f"| `{names.replace('|', chr(92) + '|')}` | {text.replace('|', chr(92) + '|')} |"


def section(command: click.Command, context: click.Context) -> Iterator[str]:
    """One command as Markdown."""
    usage = command.get_usage(context).removeprefix("Usage: ")
    yield f"\n## triune {context.command_path.removeprefix('triune').strip()}".rstrip()
    yield f"\n```\n{' '.join(usage.split())}\n```\n"
    yield inspect.cleandoc(command.help or "").replace("\b\n", "")
    yield from options(command, context)


if __name__ == "__main__":
    lines = [HEAD]
    for found, where in walk(root, click.Context(root, info_name="triune")):
        lines += section(found, where)
    sys.stdout.write("\n".join(lines).replace("\n\n\n", "\n\n").rstrip() + "\n")
