"""Plots of a result as SVG text, to be put into a page. matplotlib is imported here only."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from triune.services.benchmarks.results import Cell, Result
from triune.services.benchmarks.subject import NATIVE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Told apart by people who see fewer colours, too (Okabe and Ito).
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00")
_NATIVE = "#555555"
_ACROSS = 3
_FINE = (0.2, 0.3, 0.5, 0.7, 0.85, 1, 1.2, 1.5, 2, 3, 5)
_COARSE = (1e-4, 1e-3, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20)
_STYLE: Any = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "text.parse_math": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#999999",
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}


def colours(result: Result) -> dict[str, str]:
    """A colour for each subject."""
    names = [subject["name"] for subject in result["subjects"] if subject["name"] != NATIVE]
    found = {name: _COLOURS[number % len(_COLOURS)] for number, name in enumerate(names)}
    return {NATIVE: _NATIVE, **found}


def called(subject: Mapping[str, Any]) -> str:
    """A subject in a plot or table: its name, and that it is emulated."""
    return f"{subject['name']}, {subject['label']}" if subject["label"] else str(subject["name"])


def headline(result: Result) -> str:
    """Performance relative to native of every benchmark, with its interval; "" where nothing is relative."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    cells = [cell for cell in result.cells() if cell.ratio is not None]
    if not cells:
        return ""
    rows = list(dict.fromkeys(cell.benchmark["id"] for cell in cells))
    titles = {cell.benchmark["id"]: cell.benchmark["title"] for cell in cells}
    subjects = [found for found in result["subjects"] if found["name"] != NATIVE]
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(9.6, 1.4 + 0.42 * len(rows)))
        axes = figure.add_subplot()
        _ratios(axes, cells, rows, subjects, colours(result))
        axes.set_yticks(range(len(rows)), [_short(titles[row], 52) for row in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_xlabel("performance relative to native (right is better); bars: 95 % intervals")
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=len(subjects), frameon=False)
        return _svg(figure, "headline")


def _ratios(
    axes: Axes,
    cells: Sequence[Cell],
    rows: Sequence[str],
    subjects: Sequence[Mapping[str, Any]],
    colour: Mapping[str, str],
) -> None:
    axes.axvline(1, color=_NATIVE, linewidth=1)
    for number, subject in enumerate(subjects):
        ours = [cell for cell in cells if cell.subject["name"] == subject["name"]]
        shift = (number - (len(subjects) - 1) / 2) * 0.2
        where = [rows.index(cell.benchmark["id"]) + shift for cell in ours]
        ratios = [cell.ratio for cell in ours if cell.ratio is not None]
        values = [found.value for found in ratios]
        sides = [[max(0.0, one.value - one.low) for one in ratios], [max(0.0, one.high - one.value) for one in ratios]]
        axes.errorbar(
            values,
            where,
            xerr=sides,
            fmt="o",
            markersize=5,
            capsize=2.5,
            linewidth=1.4,
            color=colour[subject["name"]],
            markerfacecolor="white" if subject["label"] else colour[subject["name"]],
            label=called(subject),
        )
    low, high = (pick(found for cell in cells if cell.ratio for found in (cell.ratio.low, cell.ratio.high)) for pick in (min, max))  # fmt: skip  # noqa: E501
    axes.set_xscale("log")
    axes.set_xlim(min(0.8, low * 0.85), max(1.25, high * 1.15))
    left, right = axes.get_xlim()
    steps = _FINE if right < 10 * left else _COARSE
    ticks = [tick for tick in steps if left <= tick <= right]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.xaxis.set_minor_locator(_none())
    axes.grid(axis="x", color="#e4e4e4", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)


def area(result: Result, name: str) -> str:
    """One small chart for each benchmark of an area: every sample, and the median. "" where there are none."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    cells = [cell for cell in result.cells() if cell.benchmark["area"] == name]
    ids = list(dict.fromkeys(cell.benchmark["id"] for cell in cells))
    if not ids:
        return ""
    deep = -(-len(ids) // _ACROSS)
    tall = 1.0 + 0.3 * len(result["subjects"])
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(9.6, deep * tall), layout="constrained")
        grid = figure.subplots(deep, _ACROSS, squeeze=False)
        for number, axes in enumerate(grid.flat):
            if number < len(ids):
                _samples(axes, [cell for cell in cells if cell.benchmark["id"] == ids[number]], result)
            else:
                axes.set_visible(False)
        return _svg(figure, name)


def _samples(axes: Axes, cells: Sequence[Cell], result: Result) -> None:
    colour = colours(result)
    benchmark = cells[0].benchmark
    for row, cell in enumerate(cells):
        name = cell.subject["name"]
        axes.plot(
            cell.samples,
            [row] * len(cell.samples),
            "o",
            markersize=4,
            alpha=0.65,
            color=colour[name],
            markerfacecolor="none" if cell.subject["label"] else colour[name],
            markeredgewidth=0.9,
        )
        axes.plot([cell.summary.median] * 2, [row - 0.32, row + 0.32], color=colour[name], linewidth=2)
    axes.set_yticks(range(len(cells)), [_name(cell.subject) for cell in cells])
    axes.set_ylim(len(cells) - 0.45, -0.55)
    least, most = min(cell.summary.least for cell in cells), max(cell.summary.most for cell in cells)
    if most > 8 * least:
        axes.set_xscale("log")
        axes.set_xlim(least / 1.6, most * 1.6)
        axes.xaxis.set_major_locator(_decades(most / least))
        axes.xaxis.set_major_formatter(_plain)
        axes.xaxis.set_minor_locator(_none())
    else:
        axes.set_xlim(0, most * 1.08)
        axes.xaxis.set_major_locator(_few())
        axes.xaxis.set_major_formatter(_plain)
    axes.set_title(_short(benchmark["title"], 44), fontsize=9, loc="left")
    arrow = "less is better" if benchmark["better"] == "lower" else "more is better"
    axes.set_xlabel(f"{benchmark['unit']} ({arrow})", fontsize=8, color="#555555")
    axes.tick_params(axis="both", labelsize=8)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="#e8e8e8", linewidth=0.6)
    axes.set_axisbelow(True)


def _name(subject: Mapping[str, Any]) -> str:
    """In a small chart: the label in lines of its own."""
    return "\n".join([str(subject["name"]), *textwrap.wrap(str(subject["label"]), 18)])


def _short(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1].rstrip(" ,(") + "…"


def _plain(value: float, _: float) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1000 if letter == 'k' else size):g}{letter}"
    return f"{value:g}"


def _none() -> Any:
    from matplotlib.ticker import NullLocator

    return NullLocator()


def _decades(span: float) -> Any:
    from matplotlib.ticker import LogLocator

    return LogLocator(subs=(1, 2, 5) if span < 60 else (1,), numticks=6)


def _few() -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(4)


def _svg(figure: Figure, salt: str) -> str:
    """Its `<svg>` element; ids differ from those of other plots of the page."""
    import matplotlib as mpl

    out = io.StringIO()
    with mpl.rc_context({**_STYLE, "svg.hashsalt": f"triune {salt}"}):
        figure.savefig(out, format="svg", bbox_inches="tight", metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    return text[text.index("<svg") :]
