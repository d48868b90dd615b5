"""Commands that work on this host without the daemon: doctor and setup."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from triune.cli.tables import FORMATS, structured
from triune.cli.text import clean, width

if TYPE_CHECKING:
    from triune.domain.finding import Finding
    from triune.host.setup.step import Say

_UNBOUNDED = 10_000


@click.command()
@click.option(
    "--format", "form", type=click.Choice(FORMATS), default="table", show_default=True, help="How to print it."
)
@click.option(
    "--require",
    "required",
    multiple=True,
    metavar="ENGINE",
    help="Exit with 6 unless this engine can run instances here (may be repeated).",
)
def doctor(form: str, required: Sequence[str]) -> None:
    """Explain what this host can do, and what mends the rest.

    Reads, tries and changes nothing. KVM is proved by running a tiny guest. As another user than root it says
    what it could not look at. Exit code 0 whatever it finds, unless --require asks for more.
    """
    from triune.host.probe.examine import examine

    found = examine()
    if form == "table":
        from rich.console import Console

        from triune.cli.findings import print_table

        # Where there is no terminal, lines may be as long as they like.
        print_table(found, Console(highlight=False, width=width(sys.stdout) or _UNBOUNDED))
    else:
        click.echo(structured([finding.as_dict() for finding in found], form).rstrip("\n"))
    _require(found, required)


def _require(findings: Sequence[Finding], required: Sequence[str]) -> None:
    """Raise Unsupported for the first required engine that cannot run instances, Invalid for an unknown one."""
    from triune.domain.errors import Invalid, Unsupported

    known = {str(finding.facts["engine"]): finding for finding in findings if "engine" in finding.facts}
    for name in required:
        if name not in known:
            hint = f"The engines are {', '.join(known)}."
            raise Invalid("unknown_engine", f"{name!r} is not an engine", hint=hint)
        if not known[name].facts.get("usable"):
            raise Unsupported(
                "engine_unusable", known[name].sentence, hint=f"Run: {known[name].fix or 'triune doctor'}"
            )


@click.command()
@click.option("--check", is_flag=True, help="Only say what would be done. Exit 1 if there is anything to do.")
@click.option("--no-daemon", is_flag=True, help="Leave the Triune daemon alone.")
@click.option("--live-restore", is_flag=True, help="Also make Docker's containers outlive restarts of its daemon.")
@click.option("--rootless-docker", is_flag=True, help="Also make a second Docker daemon that is not root.")
@click.option("-q", "--quiet", is_flag=True, help="Say only what is changed.")
@click.pass_context
def setup(
    ctx: click.Context, check: bool, no_daemon: bool, live_restore: bool, rootless_docker: bool, quiet: bool
) -> None:
    """Install what is missing and start what is not running.

    System packages (by apt), the group `triune`, root's ranges of subordinate ids, the daemons of the engines, the
    command on PATH, shell completion and the Triune daemon. Safe to repeat; quick when nothing is to do.
    """
    from triune.host.setup.plan import Options, apply, plan

    steps = plan(Options(daemon=not no_daemon, live_restore=live_restore, rootless=rootless_docker))
    if check:
        gaps = [(step.title, gap) for step in steps if (gap := step.gap()) is not None]
        for title, gap in gaps:
            click.echo(f"{title}: {gap}")
        if not gaps and not quiet:
            click.echo("Nothing is to do.")
        ctx.exit(1 if gaps else 0)
    apply(steps, teller(quiet=quiet))


_MARK = {"ok": ("✔", "green"), "do": ("…", "cyan"), "done": ("✔", "green"), "warn": ("!", "yellow")}


def teller(*, quiet: bool) -> Say:
    """Tells of steps, line by line; `quiet`: only of what is changed."""

    def say(mark: str, text: str) -> None:
        if not (quiet and mark == "ok"):
            click.echo(f"{click.style(*_MARK[mark])} {clean(text)}")

    return say
