"""`compare`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from triune.cli.options import formatted
from triune.cli.tables import structured
from triune.cli.text import clean, width

if TYPE_CHECKING:
    from collections.abc import Mapping

_WIDTH = 130
_MEASURED = "measured"
_MARKS = {"probe": "● ", _MEASURED: "◆ "}


@click.command()
@click.option("--no-host", is_flag=True, help="Published cells only.")
@formatted
def compare(no_host: bool, form: str) -> None:
    """Compare the engines, feature by feature.

    A cell marked ● is what this host's probe tells, one marked ◆ was measured here (triune bench); the others are
    published. --format json has each one's source.
    """
    from triune.cli.advise import host_facts
    from triune.services.advice.comparing import compare as compared

    found = compared({} if no_host else host_facts())
    if form == "table":
        _show(found)
        return
    rows = [
        {"feature": row["feature"], "engine": engine, **cell}
        for row in found["rows"]
        for engine, cell in row["cells"].items()
    ]
    sys.stdout.write(structured(rows if form == "csv" else found, form))


def _show(found: Mapping[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for title in ("FEATURE", *(engine.upper() for engine in found["engines"])):
        table.add_column(title, overflow="fold")
    for row in found["rows"]:
        cells = [row["cells"][engine] for engine in found["engines"]]
        texts = [Text(_MARKS.get(cell["from"], "") + clean(cell["text"])) for cell in cells]
        table.add_row(Text(clean(row["title"]), style="bold"), *texts)
    console = Console(width=width(sys.stdout) or _WIDTH, highlight=False)
    console.print(table)
    if not found["host"]:
        console.print("\nNo daemon told of this host: all cells are published.")
        return
    sources = sorted(
        {cell["source"] for row in found["rows"] for cell in row["cells"].values() if cell["from"] == _MEASURED}
    )
    console.print(f"\n● this host's probe ({clean(found['host'])}); the unmarked are published.")
    for source in sources:
        console.print(f"◆ {clean(source)}")
    if not sources:
        console.print("Nothing was measured here yet: triune bench run")
