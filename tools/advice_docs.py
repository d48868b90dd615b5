"""Write the tables of docs/ADVISE.md: the keys of a workload, the rules, the evaluation (`make docs`)."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from triune.domain.units import format_duration, format_size
from triune.domain.workload import EXPECTED, KEYS, parse
from triune.services.advice.advising import advise
from triune.services.advice.knowledge import knowledge

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "ADVISE.md"
WORKLOADS = ROOT / "tests" / "data" / "advice" / "workloads.yaml"


def keys() -> Iterator[str]:
    """One line per key of a workload."""
    yield "| key | value | what it says |\n|---|---|---|"
    for key in KEYS.values():
        value = ", ".join(f"`{word}`" for word in key.words) if key.words else EXPECTED[key.kind]
        yield f"| `{key.name}` | {'list of ' if key.kind == 'words' else ''}{value} | {key.meaning} |"


def rules() -> Iterator[str]:
    """One line per rule."""
    yield "| rule | blocks | points | source |\n|---|---|---|---|"
    for rule in knowledge().rules:
        points = ", ".join(f"{engine} {weight:+g}" for engine, (weight, _) in rule.weights.items())
        link = rule.source.title if ":" not in rule.source.url else f"[{rule.source.title}]({rule.source.url})"
        yield f"| {rule.name} | {', '.join(rule.blocks) or '-'} | {points or '-'} | {link} |"


def evaluation() -> Iterator[str]:
    """One line per workload, and how many agree."""
    rows = yaml.safe_load(WORKLOADS.read_text())
    given = [advise(parse(row["demands"])).choice for row in rows]
    same = sum(choice == row["expected"] for row, choice in zip(rows, given, strict=True))
    near = sum(choice in row.get("also", ()) for row, choice in zip(rows, given, strict=True))
    yield f"{len(rows)} workloads: {same} as expected, {near} as also accepted, {len(rows) - same - near} otherwise.\n"
    yield "| workload | demands | expected | given | because |\n|---|---|---|---|---|"
    for row, choice in zip(rows, given, strict=True):
        expected = row["expected"] + (f" ({', '.join(row['also'])})" if row.get("also") else "")
        demands = "; ".join(f"{key}: {_said(key, value)}" for key, value in parse(row["demands"]).demands().items())
        yield f"| [{row['what']}]({row['source']}) | {demands} | {expected} | {choice} | {row['because']} |"


def _said(key: str, value: Any) -> str:
    kind = KEYS[key].kind
    if isinstance(value, list):
        return ", ".join(value)
    if kind in ("size", "duration"):
        return format_size(value) if kind == "size" else format_duration(value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def page(text: str) -> str:
    """The page with its tables as they are now."""
    for name, lines in (("keys", keys()), ("rules", rules()), ("evaluation", evaluation())):
        table = "\n".join(lines)
        text = re.sub(
            rf"(<!-- {name} -->\n).*?(\n<!-- end -->)",
            lambda found, new=table: found[1] + new + found[2],
            text,
            flags=re.S,
        )
    return text


if __name__ == "__main__":
    if sys.argv[1:] == ["--check"]:
        sys.exit(page(PAGE.read_text()) != PAGE.read_text())
    PAGE.write_text(page(PAGE.read_text()))
