"""`start`, `stop`, `restart`, `pause`, `resume`, `rename` and `rm`."""

from __future__ import annotations

import click

from triune.cli.launching import PATIENCE
from triune.cli.options import Duration, confirm, confirmable, instance_argument, instances_argument, silenceable
from triune.cli.waiting import each

_PATIENCE = 30.0

_timeout = click.option(
    "--timeout",
    type=Duration(),
    default=None,
    metavar="TIME",
    help=f"How long it may take to shut down (default: {_PATIENCE:g} s; 0 with --force alone).",
)
_force = click.option("--force", is_flag=True, help="Kill it if it does not shut down in time.")


def _patience(timeout: float | None, force: bool) -> float:
    """`--force` alone kills at once; with `--timeout` it asks first."""
    if timeout is not None:
        return timeout
    return 0.0 if force else _PATIENCE


@click.command()
@instances_argument
@click.option(
    "--wait",
    type=click.Choice(["running", "ready"]),
    default="running",
    show_default=True,
    help="Until when: it runs, or is ready for work.",
)
@click.option(
    "--timeout",
    type=Duration(),
    default=PATIENCE,
    metavar="TIME",
    help=f"How long it may take to become ready (default: {PATIENCE:g} s).",
)
@silenceable
def start(names: tuple[str, ...], wait: str, timeout: float, quiet: bool) -> int:
    """Start instances; those that run already are left alone."""
    return each(
        names,
        lambda client, name: client.instances.start(name, wait=wait, timeout=timeout),
        f"is {wait}",
        quiet=quiet,
    )


@click.command()
@instances_argument
@_timeout
@_force
@silenceable
def stop(names: tuple[str, ...], timeout: float | None, force: bool, quiet: bool) -> int:
    """Shut instances down.

    A guest that does not shut down in time is left running, and that is an error; --force kills it: at once, or
    after --timeout.
    """
    wait = _patience(timeout, force)
    return each(
        names, lambda client, name: client.instances.stop(name, timeout=wait, force=force), "is stopped", quiet=quiet
    )


@click.command()
@instances_argument
@_timeout
@_force
@silenceable
def restart(names: tuple[str, ...], timeout: float | None, force: bool, quiet: bool) -> int:
    """Stop and start instances."""
    wait = _patience(timeout, force)
    return each(
        names, lambda client, name: client.instances.restart(name, timeout=wait, force=force), "is running", quiet=quiet
    )


@click.command()
@instances_argument
@silenceable
def pause(names: tuple[str, ...], quiet: bool) -> int:
    """Freeze instances: their processes stand still and keep their memory."""
    return each(names, lambda client, name: client.instances.pause(name), "is paused", quiet=quiet)


@click.command()
@instances_argument
@silenceable
def resume(names: tuple[str, ...], quiet: bool) -> int:
    """Let frozen instances go on."""
    return each(names, lambda client, name: client.instances.resume(name), "is running", quiet=quiet)


@click.command()
@instance_argument
@click.argument("new")
@silenceable
def rename(name: str, new: str, quiet: bool) -> int:
    """Give an instance another name, in its engine and on the network."""
    return each([name], lambda client, old: client.instances.rename(old, new), f"is now {new}", quiet=quiet)


@click.command("rm")
@instances_argument
@click.option("--force", is_flag=True, help="Also if it runs.")
@click.option("--adopted", is_flag=True, help="Also if Triune did not make it.")
@confirmable
@silenceable
def remove(names: tuple[str, ...], force: bool, adopted: bool, yes: bool, quiet: bool) -> int:
    """Remove instances with their disks. This can't be undone."""
    confirm(f"Remove {', '.join(names)} with all their data?", yes=yes)
    return each(
        names,
        lambda client, name: client.instances.remove(name, force=force, adopted=adopted),
        "is removed",
        quiet=quiet,
    )
