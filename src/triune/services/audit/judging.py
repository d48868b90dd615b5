"""From facts to findings and a score."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Any

from triune.domain.units import format_size
from triune.services.audit.conditions import holds
from triune.services.audit.knowledge import SEVERITIES, Knowledge, Rule, Source
from triune.services.audit.waivers import Waiver, covering
from triune.services.images.references import OCI_PREFIX

_MOST_EVIDENCE = 40
_SHOWN = 8
_NOT_IN_A_NAME = re.compile(r"[^a-z0-9-]+")
_LEAST_MEMORY = 256 << 20
_PIDS = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One weakness of one instance (`instance` "" for the host).

    `fix` is a command of this command line, `advice` what to do before it. `change` are limits that mend it at once,
    by key; such a finding is `safe` to be mended without asking. `waived` covers it.
    """

    rule: str
    instance: str
    severity: str
    points: int
    sentence: str
    evidence: tuple[str, ...]
    fix: str
    advice: str
    change: Mapping[str, str]
    safe: bool
    source: Source
    waived: Waiver | None = None


@dataclass(frozen=True, slots=True)
class Reason:
    """A part of the score."""

    points: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """0 to 100, its level in a word, and what it is made of."""

    value: int
    level: str
    reasons: tuple[Reason, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What fix commands are written with. `used` are bytes of memory now, `processes` how many there are; None:
    unknown. `limits` are the keys that can be limited."""

    name: str
    engine: str
    image: str | None
    ports: tuple[str, ...] = ()
    used: int | None = None
    processes: int | None = None
    limits: frozenset[str] = frozenset()


def findings(
    rules: Sequence[Rule],
    facts: Mapping[str, Any],
    subject: Subject | None,
    waivers: Iterable[Waiver],
    today: date,
) -> tuple[Finding, ...]:
    """What the rules say of these facts, the worst first. `subject` None is the host."""
    places = _places(subject) if subject else {}
    name = subject.name if subject else ""
    found = [_finding(rule, facts, places, subject) for rule in rules if holds(rule.when, facts)]
    covered = [replace(one, waived=covering(waivers, one.rule, name, today)) for one in found]
    return tuple(sorted(covered, key=lambda one: (SEVERITIES.index(one.severity), one.fix, one.rule)))


def _finding(rule: Rule, facts: Mapping[str, Any], places: Mapping[str, str], subject: Subject | None) -> Finding:
    evidence = _evidence(facts[rule.evidence]) if rule.evidence else ()
    change = {key: value.format(**places) for key, value in rule.change.items()}
    possible = subject is not None and all(key in subject.limits for key in change)
    return Finding(
        rule=rule.name,
        instance=subject.name if subject else "",
        severity=rule.severity,
        points=rule.points,
        sentence=rule.text.replace("{evidence}", _said(evidence)),
        evidence=evidence,
        fix="" if change and not possible else _fix(rule, places, subject),
        advice=rule.advice,
        change=change if possible else {},
        safe=bool(change) and possible and _is_safe(change, subject),
        source=rule.source,
    )


def _is_safe(change: Mapping[str, str], subject: Subject | None) -> bool:
    """Whether it can be set now without hurting what runs: far above what is in use, which must be known."""
    if subject is None or (subject.used is None and subject.processes is None):
        return False
    return "pids" not in change or (subject.processes is not None and subject.processes * 2 <= int(change["pids"]))


def _evidence(value: Any) -> tuple[str, ...]:
    items = value if isinstance(value, list) else [value]
    return tuple(_plain(str(item)) for item in items[:_MOST_EVIDENCE])


def _plain(text: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in text)[:200]


def _said(evidence: Sequence[str]) -> str:
    more = len(evidence) - _SHOWN
    return ", ".join(evidence[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _places(subject: Subject) -> dict[str, str]:
    """What stands for the braces of a fix."""
    image = subject.image or "debian/12"
    stem = _NOT_IN_A_NAME.sub("-", subject.name.lower()).strip("-") or "instance"
    again = f"triune launch {shlex.quote(image)} {stem[:50].rstrip('-')}-hardened --engine {subject.engine}"
    renew = f"triune image build {shlex.quote(image)} --rebuild"
    if image.startswith(OCI_PREFIX):
        renew = f"triune image pull {shlex.quote(image)}"
    elif image.startswith("file:"):
        renew = f"triune image show {shlex.quote(image)}"
    ports = "".join(f" --publish 127.0.0.1:{port}" for port in subject.ports if port.count(":") < 2)
    return {
        "name": shlex.quote(subject.name),
        "again": again,
        "relaunch": f"{again} --profile hardened",
        "renew": renew,
        "local_ports": ports,
        "memory": _memory(subject.used),
        "pids": str(max(_PIDS, _rounded(4 * (subject.processes or 0)))),
    }


def _fix(rule: Rule, places: Mapping[str, str], subject: Subject | None) -> str:
    """The command. An image that has lost its name can't be launched again: then the first step is to find one."""
    unnamed = subject is not None and (subject.image or "").removeprefix(OCI_PREFIX).startswith("sha256:")
    if unnamed and any(place in rule.fix for place in ("{again}", "{relaunch}", "{renew}")):
        return "triune image list"
    return rule.fix.format(**places) if places else rule.fix


def _memory(used: int | None) -> str:
    """A limit with room: four times what it uses now, a power of two, at least 256 MiB."""
    size = max(_LEAST_MEMORY, _rounded(4 * (used or 0)))
    return format_size(size).replace(" ", "").replace(".0", "")


def _rounded(number: int) -> int:
    return 1 << max(0, number - 1).bit_length()


def score(known: Knowledge, facts: Mapping[str, Any], found: Iterable[Finding]) -> Score:
    """Where its boundary begins, less the points of what is not waived, never below 0."""
    start = next((one for one in known.boundaries if holds(one.when, facts)), None)
    if start is None:
        start = known.boundaries[-1]
    reasons = [Reason(start.points, start.text)]
    reasons += [Reason(-one.points, one.sentence) for one in found if one.points and not one.waived]
    value = max(0, sum(reason.points for reason in reasons))
    level = next((name for name, least in known.levels.items() if value >= least), "poor")
    return Score(value=value, level=level, reasons=tuple(reasons))
