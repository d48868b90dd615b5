"""`density`."""

from __future__ import annotations

import click

from triune.cli.options import formatted

_EFFORT = 10.0


@click.command()
@click.option(
    "--fleet",
    nargs=2,
    metavar="HOSTS INSTANCES",
    help="Place the instances of one file on the hosts of another; CSV or YAML, - is stdin.",
)
@click.option("--effort", type=click.FloatRange(0, 3600), default=_EFFORT, metavar="SECONDS", show_default=True,
    help="With --fleet: work so long on what is only better.",
)  # fmt: skip
@click.option("--extra", multiple=True, metavar="ENGINE=SIZE",
    help="With --fleet: memory that an engine costs on top of what each of its instances asks.",
)  # fmt: skip
@formatted
def density(fleet: tuple[str, str] | None, effort: float, extra: tuple[str, ...], form: str) -> None:
    """Tell how many instances fit, and what stops them.

    With --fleet: where the instances of a fleet go. The engine of each is chosen by the rules of `triune advise` from
    the keys of a workload in its row, unless it names one; the answer says how far it is from the fewest hosts.

    \b
    triune density --fleet hosts.csv instances.csv
    triune density --fleet hosts.csv instances.csv --format csv > placement.csv
    """
    from triune.cli.fleet import show_fleet

    if fleet is None:
        raise click.UsageError("give --fleet HOSTS INSTANCES")
    show_fleet(*fleet, effort=effort, extra=extra, form=form)
