"""How `bench run` shows itself: a live table on a terminal, few lines elsewhere; and the table at the end."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator, Mapping
from statistics import median
from typing import TYPE_CHECKING, Any

from triune.cli.text import clean, width
from triune.domain.units import format_duration
from triune.services.benchmarks.telling import figure, remarks, spread

if TYPE_CHECKING:
    from types import TracebackType

    from rich.console import RenderableType
    from rich.live import Live
    from rich.table import Table

    from triune.services.benchmarks.catalogue import Benchmark
    from triune.services.benchmarks.results import Cell, Result

_WIDTH = 140
_MARKS: Mapping[str, str] = {"equal": "≈", "better": "▲", "worse": "▼", "unsure": "?"}
_STYLES: Mapping[str, str] = {"equal": "", "better": "green", "worse": "yellow", "unsure": "dim"}


class Screen:
    """The Watcher of a run: on stderr."""

    def __init__(self, benchmarks: tuple[Benchmark, ...], *, quiet: bool) -> None:
        self._benchmarks = benchmarks
        self._quiet = quiet
        self._values: dict[tuple[str, str], list[float]] = {}
        self._columns: list[str] = []
        self._text = "preparing"
        self._fraction = 0.0
        self._begun = time.monotonic()
        self._told = ""
        self._lock = threading.Lock()
        self._live: Live | None = None

    def __enter__(self) -> Screen:
        """Begin the display, where there is a terminal."""
        if sys.stderr.isatty() and not self._quiet:
            from rich.console import Console
            from rich.live import Live

            self._live = Live(
                console=Console(stderr=True), get_renderable=self._drawn, refresh_per_second=4, transient=True
            )
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def step(self, text: str, fraction: float) -> None:
        """What is done now."""
        with self._lock:
            self._text, self._fraction = text, fraction
        marker = text.rpartition(", ")[2] if ", round " in text else text
        if self._live is None and not self._quiet and marker != self._told:
            self._told = marker
            print(clean(marker), file=sys.stderr, flush=True)

    def sampled(self, benchmark: Benchmark, subject: str, value: float) -> None:
        """A figure for the table."""
        with self._lock:
            if subject not in self._columns:
                self._columns.append(subject)
            self._values.setdefault((benchmark.id, subject), []).append(value)

    def problem(self, text: str) -> None:
        """A line that stays."""
        if self._live is not None:
            from rich.text import Text

            self._live.console.print(Text(f"! {clean(text)}"))
        else:
            print(f"! {clean(text)}", file=sys.stderr, flush=True)

    def _drawn(self) -> RenderableType:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        with self._lock:
            line = Table.grid(padding=(0, 1))
            taken = time.monotonic() - self._begun
            left = taken / self._fraction - taken if self._fraction > 0.03 else None
            rest = f", about {format_duration(left)} left" if left is not None else ""
            line.add_row(
                ProgressBar(total=1.0, completed=self._fraction, width=24),
                Text(f"{self._fraction:.0%}"),
                Text(f"{format_duration(taken)}{rest}", style="dim"),
                Text(clean(self._text)),
            )
            return Group(self._table(), line) if self._columns else line

    def _table(self) -> Table:
        from rich.table import Table

        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
        table.add_column("BENCHMARK", no_wrap=True)
        table.add_column("UNIT", no_wrap=True)
        for name in self._columns:
            table.add_column(name.upper(), justify="right", no_wrap=True)
        for benchmark in self._benchmarks:
            found = [self._values.get((benchmark.id, name)) for name in self._columns]
            if any(found):
                cells = [figure(median(values)) if values else "" for values in found]
                table.add_row(benchmark.id, benchmark.unit, *cells)
        return table


def show(result: Result, path: str) -> None:
    """The table of a result: medians, and what they are relative to native."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    cells: dict[tuple[str, str], Cell] = {(cell.benchmark["id"], cell.subject["name"]): cell for cell in result.cells()}
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("BENCHMARK", overflow="fold", max_width=50)
    table.add_column("UNIT", no_wrap=True)
    for subject in result["subjects"]:
        label = f"\n{subject['label']}" if subject["label"] else ""
        table.add_column(f"{clean(subject['name']).upper()}{clean(label)}".replace("\\n", "\n"), justify="right")
    area = ""
    order = {name: number for number, name in enumerate(dict.fromkeys(row["area"] for row in result["benchmarks"]))}
    for benchmark in sorted(result["benchmarks"], key=lambda row: order[row["area"]]):
        row = [cells.get((benchmark["id"], subject["name"])) for subject in result["subjects"]]
        if not any(row):
            continue
        if benchmark["area"] != area:
            area = benchmark["area"]
            table.add_row(Text(clean(areas().get(area, area)), style="bold"))
        arrow = "↓" if benchmark["better"] == "lower" else "↑"
        table.add_row(
            Text(f"  {clean(benchmark['title'])}"), Text(f"{clean(benchmark['unit'])} {arrow}"), *map(_cell, row)
        )
    console = Console(width=width(sys.stdout) or _WIDTH, highlight=False)
    console.print(table)
    console.print(
        "\n↑ more is better, ↓ less is better; × is performance relative to native (above 1 is better): "
        f"▲ ▼ the 95 % interval excludes 1, ≈ it does not, ? fewer than {_least()} samples",
        soft_wrap=False,
    )
    for line in _pairs(result):
        console.print(line)
    for line in remarks(result.data, "triune bench report --json"):
        console.print(Text(f"! {clean(line)}"))
    console.print(Text(f"{_state(result.data)}; {clean(path)}"))


def _pairs(result: Result) -> Iterator[RenderableType]:
    """One way beside another, a line each."""
    from rich.text import Text

    from triune.services.benchmarks.pairs import pairs

    for pair in pairs(result):
        line = Text(f"{clean(pair.title)}: ")
        for number, (name, one) in enumerate(pair.ratios.items()):
            label = (result.subject(name) or {}).get("label", "")
            line.append(f"{', ' if number else ''}{clean(name).upper()}{f' ({clean(label)})' if label else ''} ")
            line.append(f"{one.value:.2f}×{_MARKS[one.verdict]}", _STYLES[one.verdict])
        yield line


def _cell(cell: Cell | None) -> Any:
    from rich.text import Text

    if cell is None:
        return Text("-", style="dim")
    shown = f"{figure(cell.summary.median)}{spread(cell.summary.count, cell.summary.spread)}"
    if cell.ratio is None:
        return Text(shown)
    verdict = cell.ratio.verdict
    return Text.assemble(shown, (f"  {cell.ratio.value:.2f}×{_MARKS[verdict]}", _STYLES[verdict]))


def areas() -> Mapping[str, str]:
    """What areas are called."""
    from triune.services.benchmarks.catalogue import catalogue

    return catalogue().areas


def _least() -> int:
    from triune.services.benchmarks.statistics import LEAST

    return LEAST


def _state(data: Mapping[str, Any]) -> str:
    count = len(data["samples"])
    return f"{count} samples, {clean(data['suite'])}, {clean(data['state'])}"


def show_comparison(found: Mapping[str, Any]) -> None:
    """The table of two results."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for title in ("BENCHMARK", "SUBJECT", "UNIT", "A", "B", "B RELATIVE TO A", "VERDICT"):
        table.add_column(title, justify="right" if title in ("A", "B", "B RELATIVE TO A") else "left", overflow="fold")
    for row in found["rows"]:
        label = next((label for label in row["labels"] if label), "")
        against = row["ratio"]
        table.add_row(
            clean(row["title"]),
            Text(clean(f"{row['subject']}{f', {label}' if label else ''}")),
            clean(row["unit"]),
            *(
                figure(row[which]["median"]) + spread(row[which]["count"], row[which]["spread"])
                for which in ("first", "second")
            ),
            f"{against['value']:.2f}× ({against['low']:.2f} to {against['high']:.2f})",
            Text(_VERDICTS[against["verdict"]], style=_STYLES[against["verdict"]]),
        )
    console = Console(width=width(sys.stdout) or _WIDTH, highlight=False)
    console.print(table)
    console.print("\n× is performance, above 1 is better; the interval holds it with 95 %.")
    for line in found["differences"]:
        console.print(Text(f"! {clean(line)}"))


_VERDICTS: Mapping[str, str] = {
    "better": "better",
    "worse": "worse",
    "equal": "no difference shown",
    "unsure": "too few samples",
}
