"""Write the tables of docs/AUDIT.md and the schema docs/audit.schema.json (`make docs`); `--check` only compares."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from triune.api.audit_schemas import AuditReport
from triune.services.audit.knowledge import Rule, knowledge

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "AUDIT.md"
SCHEMA = ROOT / "docs" / "audit.schema.json"


def rules(listed: Sequence[Rule]) -> Iterator[str]:
    """One line per rule."""
    yield "| rule | severity | points | what it says | source |\n|---|---|---|---|---|"
    for rule in listed:
        link = rule.source.title if ":" not in rule.source.url else f"[{rule.source.title}]({rule.source.url})"
        yield f"| `{rule.name}` | {rule.severity} | {rule.points} | {rule.text.replace('{evidence}', '…')} | {link} |"


def boundaries() -> Iterator[str]:
    """One line per boundary."""
    yield "| points | when |\n|---|---|"
    for one in knowledge().boundaries:
        yield f"| {one.points} | {one.text} |"


def steps() -> Iterator[str]:
    """One line per step of the probe."""
    yield "| step | what it tries | what allows it |\n|---|---|---|"
    for step in knowledge().steps:
        needs = [f"the capability {name}" for name in sorted(step.needs)]
        needs += [f"a filter that lets pass {step.call}"] if step.call else []
        needs += ["no user namespace"] if step.initial else []
        needs += ["/proc without masks"] if step.guarded else []
        needs += ["being privileged"] if step.privileged else []
        yield f"| `{step.name}` | {step.title} | {', '.join(needs) or 'always'} |"


def escapes() -> Iterator[str]:
    """One line per known escape."""
    yield "| escape | program | mended in | what it is |\n|---|---|---|---|"
    for one in knowledge().escapes:
        yield f"| [{one.name}]({one.url}) | {one.program} | {', '.join(one.fixed)} | {one.text} |"


PARTS = {
    "boundaries": boundaries,
    "rules": lambda: rules(knowledge().rules),
    "host": lambda: rules(knowledge().host),
    "steps": steps,
    "escapes": escapes,
}


def main() -> int:
    """Write, or compare."""
    text = PAGE.read_text()
    for name, lines in PARTS.items():
        block = f"<!-- {name} -->\n" + "\n".join(lines()) + f"\n<!-- /{name} -->"
        text = re.sub(rf"<!-- {name} -->.*?<!-- /{name} -->", lambda _: block, text, flags=re.DOTALL)  # noqa: B023
    schema = json.dumps(AuditReport.model_json_schema(), indent=1) + "\n"
    if "--check" in sys.argv:
        same = PAGE.read_text() == text and SCHEMA.exists() and SCHEMA.read_text() == schema
        return 0 if same else 1
    PAGE.write_text(text)
    SCHEMA.write_text(schema)
    return 0


if __name__ == "__main__":
    sys.exit(main())
