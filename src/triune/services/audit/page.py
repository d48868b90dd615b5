"""A report as one self-contained HTML page: no script, nothing loaded from elsewhere, readable on paper too."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from importlib import resources
from typing import Any

_COLOURS = {"strong": "#1a7f4b", "fair": "#3b7ea1", "weak": "#b7791f", "poor": "#b3261e"}
_OUTCOMES = {"succeeded": "could", "denied": "was refused", "absent": "nothing to try", "untried": "not tried"}
_PROMISES = {True: "allowed", False: "not allowed", None: "–"}
_RADIUS = 34
_ROUND = 213.628  # 2 π × the radius


def page(report: Mapping[str, Any]) -> str:
    """The page."""
    instances = sorted(report["instances"], key=lambda one: (one["score"], one["name"]))
    style = resources.files(__package__).joinpath("page.css").read_text(encoding="utf-8")
    host = escape(report["host"]["name"])
    return "".join(
        [
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>Audit of {host}</title><style>{style}</style></head><body><main>",
            *_head(report, host),
            *_problems(report["problems"]),
            *_overview(instances),
            *(part for one in instances for part in _instance(one, alone=len(instances) == 1)),
            *_host(report["host"]),
            *_waivers(report["waivers"]),
            f"<footer>Rules of {escape(report['rules']['date'])}, version {report['rules']['version']}. "
            "What every rule says, and where it is from: docs/AUDIT.md.</footer></main></body></html>\n",
        ]
    )


def _head(report: Mapping[str, Any], host: str) -> Iterator[str]:
    summary = report["summary"]
    day, _, time = report["created"].partition("T")
    yield f"<header><h1>How isolated are the instances of {host}?</h1>"
    yield f"<p>{escape(day)} {escape(time[:5])} UTC · kernel {escape(report['host']['kernel'])}</p></header>"
    yield '<section class="cards">'
    yield _card(str(summary["instances"]), "instance" if summary["instances"] == 1 else "instances")
    yield _card("–" if summary["lowest"] is None else str(summary["lowest"]), "lowest of 100")
    for severity, number in summary["findings"].items():
        yield _card(str(number), severity, severity)
    if summary["waived"]:
        yield _card(str(summary["waived"]), "waived")
    yield "</section>"


def _card(number: str, what: str, kind: str = "") -> str:
    return f'<div class="card {kind}"><b>{escape(number)}</b><span>{escape(what)}</span></div>'


def _overview(instances: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    if len(instances) < 2:
        return
    yield "<section><h2>Overview</h2><table><thead><tr><th class=name>Instance<th>Engine<th>State<th class=bar>Score"
    yield "<th>Worst"
    yield "</thead><tbody>"
    for one in instances:
        worst = next((found for found in one["findings"] if not found["waived"]), None)
        told = f"{_mark(worst['severity'])} {_sentence(worst['sentence'])}" if worst else "nothing found"
        yield f'<tr><td><a href="#{_anchor(one)}">{escape(one["name"])}</a><td>{escape(one["engine"])}'
        yield f"<td>{escape(one['state'])}<td>{_bar(one)}<td>{told}"
    yield "</tbody></table></section>"


def _anchor(one: Mapping[str, Any]) -> str:
    return escape(f"{one['engine']}-{one['name']}")


def _bar(one: Mapping[str, Any]) -> str:
    colour = _COLOURS[one["level"]]
    return (
        f'<svg width="90" height="10" role="img" aria-label="{one["score"]} of 100"><rect width="90" height="10" '
        f'rx="5" fill="#e6e8eb"/><rect width="{one["score"] * 0.9:.0f}" height="10" rx="5" fill="{colour}"/></svg> '
        f"<b>{one['score']}</b>"
    )


def _instance(one: Mapping[str, Any], *, alone: bool) -> Iterator[str]:
    yield f'<section class="instance" id="{_anchor(one)}"><div class="title">{_dial(one)}<div>'
    yield f"<h2>{escape(one['name'])}</h2><p>{escape(one['engine'])} · {escape(one['state'])} · "
    yield f"{escape(one['facts']['boundary'])}</p></div></div>"
    yield f"<details{' open' if alone else ''}><summary>Why this score</summary><table class=reasons><tbody>"
    for reason in one["reasons"]:
        yield f"<tr><td class=points>{reason['points']:+d}<td>{escape(reason['text'])}"
    yield "</tbody></table></details>"
    yield from _findings(one["findings"])
    for note in one["notes"]:
        yield f"<p class=note>{escape(note)}</p>"
    yield from _probe(one)
    yield "</section>"


def _dial(one: Mapping[str, Any]) -> str:
    colour, part = _COLOURS[one["level"]], _ROUND * one["score"] / 100
    return (
        f'<svg class="dial" width="88" height="88" viewBox="0 0 88 88" role="img" aria-label="score {one["score"]}">'
        f'<circle cx="44" cy="44" r="{_RADIUS}" fill="none" stroke="#e6e8eb" stroke-width="9"/>'
        f'<circle cx="44" cy="44" r="{_RADIUS}" fill="none" stroke="{colour}" stroke-width="9" stroke-linecap="round" '
        f'stroke-dasharray="{part:.1f} {_ROUND}" transform="rotate(-90 44 44)"/>'
        f'<text x="44" y="47" text-anchor="middle" class="score">{one["score"]}</text>'
        f'<text x="44" y="60" text-anchor="middle" class="level">{escape(one["level"])}</text></svg>'
    )


def _mark(severity: str) -> str:
    return f'<span class="mark {severity}">{severity}</span>'


def _findings(found: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    if not found:
        yield "<p>Nothing was found.</p>"
        return
    yield '<ul class="findings">'
    for one in found:
        waived = one["waived"]
        yield f'<li class="{"waived" if waived else ""}">{_mark(one["severity"])} {_sentence(one["sentence"])}'
        yield f' <span class="rule">{escape(one["rule"])}</span>'
        if waived:
            yield f"<p>Waived until {escape(waived['expires'])}: {escape(waived['reason'])}</p>"
        else:
            yield f"<p>{_sentence(one['advice'])}.</p>" if one["advice"] else ""
            yield f"<code>{escape(one['fix'])}</code>"
        yield f' <span class="source">{_link(one["source"])}</span></li>'
    yield "</ul>"


def _sentence(text: str) -> str:
    return escape(text[:1].upper() + text[1:])


def _link(source: Mapping[str, Any]) -> str:
    title, url = escape(source["title"]), str(source["url"])
    return f'<a href="{escape(url)}" rel="noreferrer">{title}</a>' if url.startswith("https://") else title


def _probe(one: Mapping[str, Any]) -> Iterator[str]:
    probe = one["probe"]
    if not probe["ran"]:
        yield f"<p class=note>The probe inside did not run: {escape(probe['reason'])}.</p>"
        return
    could = sum(step["outcome"] == "succeeded" for step in probe["steps"])
    wrong = sum(step["contradiction"] for step in probe["steps"])
    said = f"could do {could} of {len(probe['steps'])} things"
    said += f", {wrong} of them against its configuration" if wrong else ""
    own = " It reached its own kernel only." if one["facts"]["own_kernel"] else ""
    yield f"<details{' open' if wrong else ''}><summary>Tried inside: it {said}</summary>"
    yield "<table><thead><tr><th>Step<th>Outcome<th>Configured<th>Detail</thead><tbody>"
    for step in probe["steps"]:
        kind = "wrong" if step["contradiction"] else step["outcome"]
        yield f'<tr class="{kind}"><td>{escape(step["title"])}<td>{_OUTCOMES[step["outcome"]]}'
        yield f"<td>{_PROMISES[step['promised']]}<td>{escape(step['detail'])}"
    yield f"</tbody></table><p class=note>With {escape(probe['language'])}, as user {probe['user']}.{own}</p></details>"


def _host(host: Mapping[str, Any]) -> Iterator[str]:
    yield "<section><h2>The host</h2>"
    yield from _findings(host["findings"]) if host["findings"] else ()
    yield "<table><thead><tr><th>Program<th>Version<th>Package</thead><tbody>"
    for part in host["components"]:
        package = f"{part['package']} {part['package_version']}".strip() or "–"
        yield f"<tr><td>{escape(part['name'])}<td>{escape(part['version'])}<td>{escape(package)}"
    yield "</tbody></table><table><thead><tr><th>Takes orders at<th>Open to</thead><tbody>"
    for door in host["doors"]:
        members = f": {', '.join(door['members'])}" if door["members"] else ""
        who = f"mode {door['mode']}, group {door['group']}{members}" if door["kind"] == "unix" else _guard(door)
        yield f"<tr><td>{escape(door['address'])}<td>{escape(who)}"
    yield "</tbody></table></section>"


def _guard(door: Mapping[str, Any]) -> str:
    return "the network, with certificates" if door["guarded"] else "the network, without asking who it is"


def _waivers(waivers: Mapping[str, Any]) -> Iterator[str]:
    told = [(one, "expired, and counts again") for one in waivers["expired"]]
    told += [(one, "fits nothing here") for one in waivers["unused"]]
    if told:
        yield "<section><h2>Waivers to look at</h2><table><thead><tr><th>Rule<th>Instance<th>Reason<th>Until<th>"
        yield "</thead><tbody>"
        for one, why in told:
            words = (one["rule"], one["instance"], one["reason"], one["expires"], why)
            yield f"<tr>{''.join(f'<td>{escape(word)}' for word in words)}"
        yield "</tbody></table></section>"


def _problems(problems: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    if problems:
        yield "<section><h2>Not looked at</h2><ul>"
        for one in problems:
            error = one["error"]
            yield f"<li><b>{escape(one['subject'])}</b>: {escape(error['message'])}. {escape(error['hint'])}"
        yield "</ul></section>"
