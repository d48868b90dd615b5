"""`completion`: the script that makes a shell complete commands, options and names."""

from __future__ import annotations

import click
from click.shell_completion import BashComplete, FishComplete, ShellComplete, ZshComplete

_SHELLS: dict[str, type[ShellComplete]] = {"bash": BashComplete, "zsh": ZshComplete, "fish": FishComplete}


@click.command()
@click.argument("shell", type=click.Choice(list(_SHELLS)))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the completion script of a shell.

    \b
    bash:  triune completion bash > /etc/bash_completion.d/triune
    zsh:   triune completion zsh > "${fpath[1]}/_triune"
    fish:  triune completion fish > ~/.config/fish/completions/triune.fish
    """
    made = _SHELLS[shell](ctx.find_root().command, {}, "triune", "_TRIUNE_COMPLETE")
    # Not `source()`: it runs the shell to see its version, and this may be printed for another machine.
    print((made.source_template % made.source_vars()).strip())
