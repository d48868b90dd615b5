"""Groups whose commands are imported when they are used: their help comes from a table."""

from __future__ import annotations

import difflib
import importlib

import click

from triune.cli.text import clean

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any


class Lazy(click.Group):
    """A group whose commands are imported when they are used.

    `table` maps a name to ("module:attribute", help, section), the module below `package`; `aliases` map to its names.
    """

    def __init__(
        self,
        *args: Any,
        package: str = "triune.cli",
        table: Mapping[str, tuple[str, str, str]] | None = None,
        aliases: Mapping[str, str] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(*args, **options)
        self._package = package
        self._table = table or {}
        self._aliases = aliases or {}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, in the order of the help."""
        del ctx
        return list(self._table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command."""
        del ctx
        found = self._table.get(self._aliases.get(cmd_name, cmd_name))
        if found is None:
            return None
        module, _, attribute = found[0].partition(":")
        command: click.Command = getattr(importlib.import_module(f"{self._package}.{module}"), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As Click does, with the nearest name where there is none."""
        if args and self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            near = difflib.get_close_matches(args[0], [*self._table, *self._aliases], 1)
            did = f" Did you mean '{near[0]}'?" if near else ""
            ctx.fail(f"there is no command {clean(args[0])!r}.{did}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The help, by section, from the table."""
        del ctx
        for section in dict.fromkeys(section for _, _, section in self._table.values()):
            rows = [(name, text) for name, (_, text, where) in self._table.items() if where == section]
            with formatter.section(section):
                formatter.write_dl(rows, col_max=14)
