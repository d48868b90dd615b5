"""`bench run`, `report` and `compare`."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from triune.cli.options import formatted, silenceable
from triune.cli.tables import structured
from triune.domain.errors import Invalid
from triune.domain.units import parse_size

if TYPE_CHECKING:
    from triune.services.benchmarks.results import Result


@click.group()
def bench() -> None:
    """Measure native, KVM, LXC and Docker on this host, and tell what the figures say."""


@bench.command("run")
@click.option(
    "--suite",
    type=click.Choice(["quick", "standard", "full"]),
    default="quick",
    show_default=True,
    help="Under 3 minutes, under 20 minutes, or everything.",
)
@click.option("--engines", metavar="NAME,...", help="kvm, lxc, docker, native (default: all there are).")
@click.option("--repeat", type=click.IntRange(1, 100), metavar="N", help="Samples of each (default: the suite's).")
@click.option("--only", metavar="NAME,...", multiple=True, help="Only these areas or benchmarks, of any suite.")
@click.option("--cpus", type=click.IntRange(1, 1024), metavar="N", help="For each (default: 2, or all there are).")
@click.option("--memory", metavar="SIZE", default="1GiB", show_default=True, help="For each.")
@click.option("--image", default="", metavar="NAME", help="Another image, with the programs in it.")
@click.option("--output", metavar="FILE", help="Where the result goes (default: bench/ in Triune's data).")
@formatted
@silenceable
def run_command(
    suite: str,
    engines: str | None,
    repeat: int | None,
    only: tuple[str, ...],
    cpus: int | None,
    memory: str,
    image: str,
    output: str | None,
    form: str,
    quiet: bool,
) -> None:
    """Run the same programs natively and inside each engine, in turn, with the same limits.

    What is measured is in docs/BENCH.md. An interrupted run keeps what it has; nothing else is left behind.
    """
    from triune.cli.bench_run import Bench, planned
    from triune.cli.bench_screen import Screen, show
    from triune.sdk import Client

    plan = planned(suite, _words(only), repeat, cpus, parse_size(memory))
    target = Path(output).absolute() if output else None
    run = Bench(Client(), plan, image=image, output=target, quiet=quiet)
    asked = _words([engines or ""])
    try:
        with Screen(plan.benchmarks, quiet=quiet) as screen:
            result = run.run(asked, screen)
    except KeyboardInterrupt:
        print(f"interrupted; what was measured is in {run.path}", file=sys.stderr)
        raise
    if form == "table":
        show(result, str(run.path))
    else:
        _structured(result, form)


@bench.command()
@click.argument("file", required=False)
@click.option("--html", metavar="OUT", help="Write a page with plots there; - is stdout.")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
@click.option("--markdown", is_flag=True, help="Print it as Markdown.")
def report(file: str | None, html: str | None, as_json: bool, markdown: bool) -> None:
    """Report a result: FILE, or the newest of this host."""
    from triune.cli.bench_run import read
    from triune.cli.bench_screen import show

    if sum((html is not None, as_json, markdown)) > 1:
        raise Invalid("two_forms", "a report has one form", hint="Choose one of --html, --json and --markdown.")
    result = read(file)
    if as_json:
        from triune.services.benchmarks.pairs import pairs
        from triune.services.benchmarks.published import beside

        more = {"published": beside(result), "pairs": [pair.as_dict() for pair in pairs(result)]}
        sys.stdout.write(structured({**result.as_dict(), **more}, "json"))
    elif markdown or html:
        from triune.services.benchmarks import page

        text = page.markdown(result) if markdown else page.html(result)
        _write(text, "-" if markdown else html or "-")
    else:
        show(result, file or f"result {result['id']}")


def _words(given: Iterable[str]) -> list[str]:
    """What stands between commas, in each."""
    return [word.strip() for text in given for word in text.split(",") if word.strip()]


def _write(text: str, target: str) -> None:
    if target == "-":
        sys.stdout.write(text)
        return
    try:
        Path(target).write_text(text, encoding="utf-8")
    except OSError as error:
        raise Invalid("bad_path", f"can't write {target}: {error.strerror}", hint="Name another file.") from None


def _structured(result: Result, form: str) -> None:
    rows = [cell.as_dict() for cell in result.cells()]
    for row in rows if form == "csv" else ():
        row.update({f"ratio_{key}": value for key, value in (row.pop("relative_to_native") or {}).items()})
    sys.stdout.write(structured(rows if form == "csv" else result.as_dict(), form))


@bench.command()
@click.argument("first", metavar="A")
@click.argument("second", metavar="B")
@formatted
def compare(first: str, second: str, form: str) -> None:
    """Compare two results, of two runs or two hosts: B relative to A.

    There is a verdict only where the 95 % interval of the ratio excludes 1.
    """
    from triune.cli.bench_screen import show_comparison
    from triune.services.benchmarks.comparing import compare as compared
    from triune.services.benchmarks.results import load

    found = compared(load(Path(first)), load(Path(second)))
    if form == "table":
        show_comparison(found)
    else:
        rows = [{**row, **{f"ratio_{key}": value for key, value in row["ratio"].items()}} for row in found["rows"]]
        sys.stdout.write(structured(rows if form == "csv" else found, form))
