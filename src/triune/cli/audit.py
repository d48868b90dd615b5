"""`audit`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from triune.cli.options import complete_instances
from triune.cli.tables import structured
from triune.cli.text import clean
from triune.cli.waiting import finish
from triune.domain.errors import Invalid, TriuneError
from triune.sdk import Client

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

_FORMATS = ("table", "json", "sarif", "html")


@click.command()
@click.argument("name", required=False, shell_complete=complete_instances)
@click.option("--all", "every", is_flag=True, help="Audit every instance; so it is without a NAME.")
@click.option("--format", "form", type=click.Choice(_FORMATS), default="table", show_default=True, help="How to print.")
@click.option("--fix", is_flag=True, help="Set at once the limits that are missing, where that is safe.")
@click.option(
    "--probe/--no-probe", default=True, show_default=True, help="Try inside what instances can do; harmless, seconds."
)
@click.option(
    "--waivers",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False),
    help="Findings that are accepted, in YAML: rule, instance, reason, expires.",
)
def audit(name: str | None, every: bool, form: str, fix: bool, probe: bool, waivers: str | None) -> int:
    """Tell how strongly an instance, or each of them, is isolated from the host, and how to harden it.

    Each gets a score from 0 to 100 with its reasons; each finding comes with a command that mends it. A probe run
    inside tries the classic ways out, and what it can do is compared with what the configuration allows. --fix sets
    missing limits where that cannot hurt what runs. An engine that does not answer is named in the report, the
    instances of the others are looked at, and the exit code is 1.

    \b
    triune audit web
    triune audit --all --format sarif > audit.sarif
    triune audit --all --format html > audit.html
    """
    if name is not None and every:
        raise click.UsageError("give a NAME or --all")
    accepted = _waivers(waivers)
    client = Client()
    report = _report(client, name, accepted, probe=probe)
    if fix:
        fixed, failed = _fixed(client, report)
        if fixed:
            report = _report(client, name, accepted, probe=probe)
        for line in (*(fixed or ("there was nothing that could be mended safely",)), *failed):
            print(clean(line), file=sys.stderr)
    _print(report, form)
    for one in report["problems"] if form != "table" else ():
        print(clean(f"{one['subject']} could not be looked at: {one['error']['message']}"), file=sys.stderr)
    return 1 if report["problems"] or (fix and failed) else 0


def _waivers(path: str | None) -> list[dict[str, str]]:
    if path is None:
        return []
    from pathlib import Path

    from triune.services.audit.waivers import read

    return [one.as_dict() for one in read(_text(Path(path)), path)]


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(2 << 20).decode()
    except OSError as error:
        raise Invalid("bad_waivers", f"can't read {path}: {error.strerror}", hint="Name a readable file.") from None
    except UnicodeDecodeError:
        raise Invalid("bad_waivers", f"{path} is not UTF-8 text", hint="Name a file of waivers in YAML.") from None


def _report(client: Client, name: str | None, waivers: list[dict[str, str]], *, probe: bool) -> Mapping[str, Any]:
    operation = client.audits.start([name] if name else [], probe=probe, waivers=waivers)
    finish(client, operation, name or "the host", quiet=not sys.stderr.isatty())
    return client.audits.report(operation["id"])


def _fixed(client: Client, report: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Set the limits that can safely be set; what was done, and what was refused."""
    done, failed = [], []
    for name, change in _changes(report):
        words = " ".join(f"{key}={value}" for key, value in change.items())
        try:
            finish(client, client.instances.set_limits(name, change), name, quiet=True)
            done.append(f"{name}: set {words}")
        except TriuneError as error:
            failed.append(f"{name}: {words} was refused: {error.message}")
    return done, failed


def _changes(report: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, str]]]:
    for one in report["instances"]:
        safe = [found["change"] for found in one["findings"] if found["safe"] and not found["waived"]]
        if change := {key: value for each in safe for key, value in each.items()}:
            yield one["name"], change


def _print(report: Mapping[str, Any], form: str) -> None:
    if form == "json":
        sys.stdout.write(structured(report, "json"))
    elif form == "sarif":
        from importlib.metadata import version

        from triune.services.audit.sarif import sarif

        sys.stdout.write(structured(sarif(report, version("triune")), "json"))
    elif form == "html":
        from triune.services.audit.page import page

        sys.stdout.write(page(report))
    else:
        from triune.cli.audited import show

        show(report)
