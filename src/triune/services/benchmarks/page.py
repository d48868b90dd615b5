"""A result as a self-contained HTML page, and as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from triune.domain.units import format_size
from triune.services.benchmarks import plots
from triune.services.benchmarks.catalogue import catalogue
from triune.services.benchmarks.pairs import pairs
from triune.services.benchmarks.published import TOLERANCE, beside
from triune.services.benchmarks.results import Cell, Result
from triune.services.benchmarks.statistics import LEAST, Ratio
from triune.services.benchmarks.telling import figure, spread
from triune.services.benchmarks.telling import remarks as told

_STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #222; background: #fff; max-width: 62rem; margin: 2rem auto; padding: 0 1.2rem; }
h1 { font-size: 1.7rem; margin: 0 0 .2rem; } h2 { font-size: 1.2rem; margin: 2.4rem 0 .4rem; }
p.sub { color: #555; margin: 0 0 1rem; } .warn { background: #fff4e0; border-left: 4px solid #d98200; padding: .4rem .8rem; margin: .4rem 0; }
svg { max-width: 100%; height: auto; display: block; } .scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .87rem; } th, td { text-align: left; padding: .28rem .6rem; border-bottom: 1px solid #e5e5e5; vertical-align: top; }
th { border-bottom: 2px solid #bbb; } td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; } td small { color: #666; white-space: nowrap; }
.better { color: #00704f; } .worse { color: #b34a00; } .equal, .unsure { color: #666; } .agrees { color: #00704f; } .lower, .higher { color: #b34a00; }
.emulated, .missing, .unpublished { color: #777; } dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1rem; font-size: .88rem; } dt { color: #666; } dd { margin: 0; }
code { font-size: .85em; overflow-wrap: anywhere; } summary { cursor: pointer; margin: .6rem 0; } @media (max-width: 40rem) { dl { grid-template-columns: 1fr; } }
"""  # noqa: E501
_IN_FRONT = 4  # remarks before the first picture
_VERDICTS: Mapping[str, str] = {
    "better": "better than native",
    "worse": "worse than native",
    "equal": "no difference shown",
    "unsure": "too few samples to say",
    "agrees": "agrees",
    "lower": "lower here",
    "higher": "higher here",
    "emulated": "not compared: emulated",
    "missing": "not measured",
    "unpublished": "not published",
}


def html(result: Result) -> str:
    """The page: no script, nothing loaded from elsewhere."""
    host = result["host"]
    title = f"Benchmarks of {host.get('hostname')}"
    body = "\n".join(_parts(result))
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>\n<body>\n<h1>{escape(title)}</h1>\n"
        f"{body}\n</body></html>\n"
    )


def _parts(result: Result) -> Iterator[str]:
    host = result["host"]
    yield (
        f'<p class="sub">{_e(host.get("cpu"))}, {_e(host.get("system"))}, Linux {_e(host.get("kernel"))}; suite '
        f"{_e(result['suite'])}, {_e(result['started'][:16].replace('T', ' '))}, {_e(result['state'])}</p>"
    )
    told = [f'<p class="warn">{_e(line)}</p>' for line in remarks(result)]
    yield from told[:_IN_FRONT]
    if len(told) > _IN_FRONT:
        rest = "".join(told[_IN_FRONT:])
        yield f"<details><summary>and {len(told) - _IN_FRONT} remarks more</summary>{rest}</details>"
    chart = plots.headline(result)
    if chart:
        yield "<h2>Relative to native</h2>"
        yield f'<p class="sub">Above 1 is better than native, whichever way the unit points. {_rule()}</p>{chart}'
    for name, title in catalogue().areas.items():
        panel = plots.area(result, name)
        if panel:
            yield f'<h2 id="{_e(name)}">{_e(title)}</h2>{panel}'
            yield _table([cell for cell in result.cells() if cell.benchmark["area"] == name], result)
    yield _pairs(result)
    yield _published(result)
    yield _conditions(result)


def _rule() -> str:
    return f"A difference is called real where the 95 % interval excludes 1 and each has at least {LEAST} samples."


def _e(value: object) -> str:
    return escape(str(value))


def remarks(result: Result) -> list[str]:
    """What must be known to read the figures."""
    labels = {f"{subject['title']}: {subject['label']}" for subject in result["subjects"] if subject["label"]}
    return [*sorted(labels), *told(result.data, "in the result")]


def _table(cells: Sequence[Cell], result: Result) -> str:
    subjects = result["subjects"]
    found = {(cell.benchmark["id"], cell.subject["name"]): cell for cell in cells}
    head = "".join(f'<th class="n">{_e(plots.called(subject))}</th>' for subject in subjects)
    rows = []
    for benchmark in {cell.benchmark["id"]: cell.benchmark for cell in cells}.values():
        row = "".join(_cell(found.get((benchmark["id"], subject["name"]))) for subject in subjects)
        rows.append(f"<tr><td>{_e(benchmark['title'])}</td><td>{_e(benchmark['unit'])}</td>{row}</tr>")
    return (
        f'<div class="scroll"><table><tr><th>Median, and half the interquartile range</th><th>Unit</th>{head}</tr>'
        f"{''.join(rows)}</table></div>"
    )


def _cell(cell: Cell | None) -> str:
    if cell is None:
        return '<td class="n missing">–</td>'
    one = cell.summary
    shown = f"{figure(one.median)} <small>{f'{spread(one.count, one.spread)}, n={one.count}'.strip(', ')}</small>"
    if cell.ratio is None:
        return f'<td class="n">{shown}</td>'
    ratio, verdict = cell.ratio, cell.ratio.verdict
    return (
        f'<td class="n">{shown}<br><span class="{verdict}" title="{_VERDICTS[verdict]}">{ratio.value:.2f}× '
        f"<small>({ratio.low:.2f} to {ratio.high:.2f})</small></span></td>"
    )


def _pairs(result: Result) -> str:
    found = list(pairs(result))
    subjects = [subject for subject in result["subjects"] if any(subject["name"] in pair.ratios for pair in found)]
    head = "".join(f'<th class="n">{_e(plots.called(subject))}</th>' for subject in subjects)
    rows = []
    for pair in found:
        cells = "".join(_against(pair.ratios.get(subject["name"])) for subject in subjects)
        rows.append(f"<tr><td>{_e(pair.title)}</td>{cells}</tr>")
    if not rows:
        return ""
    return (
        '<h2>One way beside another</h2><p class="sub">Above 1, the first is better.</p>'
        f'<div class="scroll"><table><tr><th>What</th>{head}</tr>{"".join(rows)}</table></div>'
    )


def _against(one: Ratio | None) -> str:
    if one is None:
        return '<td class="n missing">–</td>'
    return (
        f'<td class="n"><span class="{one.verdict}">{one.value:.2f}× '
        f"<small>({one.low:.2f} to {one.high:.2f})</small></span></td>"
    )


def _published(result: Result) -> str:
    rows = beside(result)
    names = list(dict.fromkeys(name for row in rows for name in row["cells"]))
    head = "".join(f"<th>{_e(_named(name, result))}</th>" for name in names)
    lines = []
    for row in rows:
        cells = "".join(f"<td>{_beside(row['cells'].get(name))}</td>" for name in names)
        source = row["source"]
        lines.append(
            f"<tr><td>{_e(row['metric'])}<br><small>{_e(row['unit'])}; {_e(source['title'])}</small></td>{cells}</tr>"
        )
    return (
        "<h2>Beside published figures</h2>"
        f'<p class="sub">It agrees where this host\'s figure touches the published range, widened by {TOLERANCE:.0%}. '
        "Emulated machines are not compared.</p>"
        f'<div class="scroll"><table><tr><th>Figure</th>{head}</tr>{"".join(lines)}</table></div>'
    )


def _named(name: str, result: Result) -> str:
    subject = result.subject(name)
    return plots.called(subject) if subject else name


def _beside(cell: Mapping[str, Any] | None) -> str:
    if cell is None:
        return ""
    told = cell["published"]
    text = f"published {_range(told)}" if told else "not published"
    if cell["here"] is None:
        return f'{text}<br><span class="missing">not measured here</span>'
    here = f"here {figure(cell['here'])}"
    verdict = "" if cell["verdict"] == "unpublished" else f": {_VERDICTS[cell['verdict']]}"
    return f'{text}<br><span class="{_e(cell["verdict"])}">{here}{verdict}</span>'


def _range(told: Sequence[float]) -> str:
    low, high = told
    return figure(low) if low == high else f"{figure(low)} to {figure(high)}"


def facts(result: Result) -> list[tuple[str, str]]:
    """All conditions, as pairs."""
    host, limits = result["host"], result["limits"]
    load = result.data.get("load") or {}
    found = [
        ("Processor", f"{host.get('cpu')} ({host.get('cpus')} logical)"),
        ("Memory", format_size(int(host.get("memory_bytes") or 0))),
        ("Kernel", str(host.get("kernel"))),
        ("System", f"{host.get('system')}{', itself a virtual machine' if host.get('hypervisor') else ''}"),
        ("CPU governor", str(host.get("governor"))),
        ("File system", str(host.get("file_system"))),
        ("Limits of each", f"{limits.get('cpus')} CPUs, {format_size(int(limits.get('memory_bytes') or 0))} of memory"),
        ("Image", f"{result['image'].get('name')}, {str(result['image'].get('digest'))[:19]}"),
        ("Triune", str(result.data.get("triune"))),
        ("Rounds", f"{result.data.get('rounds')}, interleaved; {result.data.get('seconds')} s a command"),
        ("Began, ended", f"{result['started']}, {result.data.get('ended')}"),
    ]
    for when in ("before", "after"):
        one = load.get(when)
        if isinstance(one, dict):
            text = f"load {one.get('load1', 0):.2f} per CPU, {one.get('busy', 0):.0%} of CPU time in use"
            found.append((f"Load {when}", text))
    for subject in result["subjects"]:
        text = ", ".join(str(subject.get(key)) for key in ("version", "what", "label") if subject.get(key))
        found.append((str(subject["title"]), text))
    mitigations = host.get("mitigations") or {}
    found += [(f"Mitigation of {name}", str(text)) for name, text in sorted(mitigations.items())]
    return found


def _conditions(result: Result) -> str:
    pairs = "".join(f"<dt>{_e(key)}</dt><dd>{_e(value)}</dd>" for key, value in facts(result))
    rows = "".join(
        f"<tr><td>{_e(row['id'])}</td><td>{_e(row['title'])}</td>"
        f"<td>{_e((row.get('tool') or {}).get('name', ''))} {_e((row.get('tool') or {}).get('version', ''))}</td>"
        f"<td><code>{_e(' '.join(row.get('command') or ()))}</code></td></tr>"
        for row in result["benchmarks"]
    )
    return (
        f"<h2>Conditions</h2><dl>{pairs}</dl><details><summary>Every command, and the version of its tool</summary>"
        f'<div class="scroll"><table><tr><th>Id</th><th>What</th><th>Tool</th><th>Command</th></tr>{rows}</table></div>'
        "</details>"
    )


def markdown(result: Result) -> str:
    """The same without plots."""
    host = result["host"]
    subjects = result["subjects"]
    lines = [f"# Benchmarks of {_m(host.get('hostname'))}", ""]
    lines += [f"- {_m(line)}" for line in remarks(result)] + [""]
    found = {(cell.benchmark["id"], cell.subject["name"]): cell for cell in result.cells()}
    for name, title in catalogue().areas.items():
        rows = [row for row in result["benchmarks"] if row["area"] == name]
        rows = [row for row in rows if any((row["id"], subject["name"]) in found for subject in subjects)]
        if not rows:
            continue
        lines += [f"## {title}", "", _row(["", "Unit", *(plots.called(subject) for subject in subjects)])]
        lines.append(_row(["---"] * (len(subjects) + 2)))
        for row in rows:
            cells = [_plain(found.get((row["id"], subject["name"]))) for subject in subjects]
            lines.append(_row([row["title"], row["unit"], *cells]))
        lines.append("")
    lines += [f"× is performance relative to native. {_rule()}", "", *_pairs_lines(result)]
    lines += ["## Beside published figures", ""]
    lines += [*_published_lines(result), "", "## Conditions", ""]
    return "\n".join([*lines, *(f"- {_m(key)}: {_m(value)}" for key, value in facts(result)), ""])


def _pairs_lines(result: Result) -> Iterator[str]:
    found = list(pairs(result))
    subjects = [subject for subject in result["subjects"] if any(subject["name"] in pair.ratios for pair in found)]
    if not found:
        return
    yield from ("## One way beside another", "")
    yield _row(["Above 1, the first is better", *(plots.called(subject) for subject in subjects)])
    yield _row(["---"] * (len(subjects) + 1))
    for pair in found:
        ratios = [pair.ratios.get(subject["name"]) for subject in subjects]
        cells = [f"{one.value:.2f}× ({one.low:.2f} to {one.high:.2f})" if one else "–" for one in ratios]
        yield _row([pair.title, *cells])
    yield ""


def _published_lines(result: Result) -> Iterator[str]:
    rows = beside(result)
    names = list(dict.fromkeys(name for row in rows for name in row["cells"]))
    yield _row(["", "Unit", *(_named(name, result) for name in names), "Source"])
    yield _row(["---"] * (len(names) + 3))
    for row in rows:
        cells = [_beside_plain(row["cells"].get(name)) for name in names]
        yield _row([row["metric"], row["unit"], *cells, row["source"]["title"]])


def _beside_plain(cell: Mapping[str, Any] | None) -> str:
    if cell is None:
        return ""
    told = f"published {_range(cell['published'])}" if cell["published"] else "not published"
    here = "not measured" if cell["here"] is None else f"here {figure(cell['here'])}"
    verdict = cell["verdict"]
    return f"{told}; {here}{'' if verdict in ('missing', 'unpublished') else f' ({_VERDICTS[verdict]})'}"


def _plain(cell: Cell | None) -> str:
    if cell is None:
        return "–"
    shown = f"{figure(cell.summary.median)}{spread(cell.summary.count, cell.summary.spread)}"
    if cell.ratio is None:
        return shown
    one = cell.ratio
    return f"{shown}; {one.value:.2f}× ({one.low:.2f} to {one.high:.2f}), {_VERDICTS[one.verdict]}"


def _row(cells: Sequence[object]) -> str:
    return f"| {' | '.join(_m(cell) for cell in cells)} |"


def _m(value: object) -> str:
    """A text that stays one cell and plain text."""
    text = " ".join(str(value).split())
    return "".join(f"\\{char}" if char in "|\\`*_[" else char for char in text).replace("<", "&lt;")
