"""How `doctor` shows its findings: a table by area, for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from triune.cli.text import clean
from triune.domain.finding import Finding, FindingStatus

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

AREAS = {
    "engines": "Engines",
    "cpu": "Processor",
    "virtualization": "Virtual machines",
    "cgroups": "Control groups",
    "namespaces": "Namespaces",
    "security": "Confinement",
    "storage": "Storage",
    "network": "Network",
    "programs": "Programs",
    "resources": "Resources",
}
_MARKS = {
    FindingStatus.OK: ("✔", "green"),
    FindingStatus.WARNING: ("!", "yellow"),
    FindingStatus.MISSING: ("✘", "red"),
}
_OPTIONAL = ("–", "bright_black")


def optional(finding: Finding) -> bool:
    """Whether it is missing, or a drawback, that nothing of Triune's own needs mended."""
    return finding.status is not FindingStatus.OK and finding.facts.get("optional") is True


def summary(findings: Sequence[Finding]) -> str:
    """One line: how many of each."""
    plain = [finding for finding in findings if not optional(finding)]
    warnings = sum(finding.status is FindingStatus.WARNING for finding in plain)
    counts = [
        f"{sum(finding.status is FindingStatus.OK for finding in plain)} ok",
        f"{warnings} warning{'' if warnings == 1 else 's'}",
        f"{sum(finding.status is FindingStatus.MISSING for finding in plain)} missing",
        f"{len(findings) - len(plain)} optional",
    ]
    return ", ".join(counts)


def print_table(findings: Sequence[Finding], console: Console) -> None:
    """Print the findings grouped by area, each with its mark, and beneath it the command that mends it."""
    from rich.text import Text

    for area, members in _grouped(findings):
        console.print(Text(AREAS.get(area, area.capitalize()), style="bold"))
        for finding in members:
            console.print(_row(finding))
            if finding.fix:
                # Left to the terminal to wrap, so that it can be copied as one line.
                console.print(Text(f"    $ {clean(finding.fix)}", style="cyan"), soft_wrap=True)
        console.print()
    console.print(Text(summary(findings), style="bold"))
    if any(finding.fix for finding in findings if not optional(finding)):
        console.print(Text("A line after $ mends the finding above it; run it as root.", style="bright_black"))


def _grouped(findings: Sequence[Finding]) -> Iterator[tuple[str, list[Finding]]]:
    order = list(AREAS)
    ranked = sorted(findings, key=lambda one: order.index(one.area) if one.area in order else len(order))
    for area, members in groupby(ranked, key=lambda one: one.area):
        yield area, list(members)


def _row(finding: Finding) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 1, 0, 0))
    table.add_column(width=3, justify="right")
    table.add_column(overflow="fold")
    mark, colour = _OPTIONAL if optional(finding) else _MARKS[finding.status]
    style = "bright_black" if optional(finding) else ""
    table.add_row(Text(mark, style=colour), Text(clean(finding.sentence), style=style))
    return table
