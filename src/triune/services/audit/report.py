"""The report as plain JSON values; docs/AUDIT.md has its schema."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date, datetime
from typing import Any

from triune.domain.instance import Instance
from triune.domain.isolation import Door, Isolation
from triune.services.audit.judging import Finding, Score
from triune.services.audit.knowledge import SEVERITIES, Knowledge
from triune.services.audit.probing import Probed, as_dict
from triune.services.audit.waivers import Waiver

VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Audited:
    """One instance, looked at. `notes` say what could not be known."""

    row: Instance
    isolation: Isolation
    score: Score
    findings: tuple[Finding, ...]
    probed: Probed
    notes: tuple[str, ...] = ()


def finding(found: Finding) -> dict[str, Any]:
    """One finding."""
    return {
        "rule": found.rule,
        "severity": found.severity,
        "points": found.points,
        "sentence": found.sentence,
        "evidence": list(found.evidence),
        "fix": found.fix,
        "advice": found.advice,
        "safe": found.safe,
        "change": dict(found.change),
        "source": {"title": found.source.title, "url": found.source.url},
        "waived": found.waived.as_dict() if found.waived else None,
    }


def instance(one: Audited) -> dict[str, Any]:
    """One instance."""
    return {
        "name": one.row.name,
        "engine": one.row.engine,
        "state": one.row.state.value,
        "origin": one.row.origin.value,
        "score": one.score.value,
        "level": one.score.level,
        "reasons": [{"points": reason.points, "text": reason.text} for reason in one.score.reasons],
        "findings": [finding(found) for found in one.findings],
        "facts": facts(one.isolation),
        "probe": as_dict(one.probed),
        "notes": list(one.notes),
    }


def facts(isolation: Isolation) -> dict[str, Any]:
    """The facts, with sets as sorted lists; never a secret's value, as none is among them."""
    plain = {key: _plain(value) for key, value in asdict(isolation).items()}
    plain.pop("unknown")
    return plain


def _plain(value: Any) -> Any:
    if isinstance(value, frozenset):
        return sorted(value)
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return value.isoformat() if isinstance(value, datetime) else value


def door(found: Door, engine: str) -> dict[str, Any]:
    """Where a daemon takes orders."""
    mode = None if found.mode is None else f"{found.mode:04o}"
    return {
        "engine": engine,
        "kind": found.kind,
        "address": found.address,
        "mode": mode,
        "group": found.group,
        "members": list(found.owners),
        "guarded": found.guarded,
    }


def whole(
    *,
    known: Knowledge,
    created: datetime,
    host: Mapping[str, Any],
    instances: Sequence[Audited],
    waivers: Iterable[Waiver],
    problems: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """All of it; `host` has name, kernel, components, doors, findings."""
    found = [instance(one) for one in instances]
    told = [(member["name"], one) for member in found for one in member["findings"]]
    told += [("", one) for one in host["findings"]]
    everything = [one for _, one in told]
    active = [one for one in everything if one["waived"] is None]
    return {
        "version": VERSION,
        "rules": {"version": known.version, "date": known.date},
        "created": created.isoformat(),
        "summary": {
            "instances": len(found),
            "lowest": min((member["score"] for member in found), default=None),
            "findings": {word: sum(one["severity"] == word for one in active) for word in SEVERITIES},
            "waived": len(everything) - len(active),
        },
        "host": host,
        "instances": found,
        "waivers": _waivers(waivers, [(one["rule"], name) for name, one in told], created.date()),
        "problems": list(problems),
    }


def _waivers(waivers: Iterable[Waiver], there: Sequence[tuple[str, str]], today: date) -> dict[str, Any]:
    """Which have expired, and which fit none of the (rule, instance) that were found."""
    every = list(waivers)
    return {
        "expired": [one.as_dict() for one in every if one.expires < today],
        "unused": [
            one.as_dict() for one in every if one.expires >= today and not any(one.fits(*pair) for pair in there)
        ],
    }
