"""Weighing: which rules hold for a workload, what they say of each engine, and what would turn the answer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from triune.domain.errors import Invalid, Unsupported
from triune.domain.workload import KEYS, Workload
from triune.services.advice.answer import HYBRID, Answer, Ranked, Reason, counted
from triune.services.advice.command import launch_command, of_a_store
from triune.services.advice.conditions import Host, holds
from triune.services.advice.knowledge import Knowledge, Rule, knowledge
from triune.services.advice.measured import weighed as measured

_MOST_CHANGES = 12
_PROBED = "measured here: this host's probe (triune doctor)"
_CLOSE = 8.0
_NO_DEMAND = frozenset({"name", "description", "image"})


def advise(workload: Workload, host: Host | None = None, known: Knowledge | None = None) -> Answer:
    """The answer for a workload; `host` is what GET /v1/host tells, None where nothing is known of it.

    Raises Invalid("contradictory_workload" | "unknown_engine").
    """
    known, host = known or knowledge(), host or {}
    if workload["packaging"] == "unknown" and of_a_store(workload["image"]):
        workload = workload.having(packaging="oci-image")
    require_consistent(workload, known, host)
    if not workload.parts:
        return _answer(workload, host, known)
    parts = tuple(advise(part, host, known) for part in workload.parts)
    own = _answer(workload, host, known)
    choices = {part.choice for part in parts}
    choice = None if None in choices else choices.pop() if len(choices) == 1 else HYBRID
    return Answer(
        name=own.name,
        choice=choice,
        margin=min(part.margin for part in parts),
        ranking=own.ranking,
        hybrid=(*own.hybrid, *_together(parts, known)),
        notes=own.notes,
        rules=own.rules,
        parts=parts,
        version=own.version,
        workload=own.workload,
    )


def require_choice(answer: Answer) -> Answer:
    """The answer, where there is one. Raises Unsupported("no_engine_fits") that says which demand fails where."""
    if answer.choice is not None:
        return answer
    failing = next((part for part in answer.parts if part.choice is None), answer)
    whose = f"{failing.name}: " if failing is not answer else ""
    told = "; ".join(f"{ranked.engine}: {ranked.blocked[0].text}" for ranked in failing.ranking if ranked.blocked)
    changes = [change["text"] for change in failing.would_change]
    raise Unsupported(
        "no_engine_fits",
        f"{whose}no engine can serve this workload ({told})",
        hint=f"What would change it: {changes[0]}." if changes else "Take back one of these demands.",
        blocked={ranked.engine: [reason.text for reason in ranked.blocked] for ranked in failing.ranking},
    )


def require_consistent(workload: Workload, known: Knowledge, host: Host) -> None:
    """Raises Invalid("contradictory_workload" | "unknown_engine")."""
    unknown = [name for name in workload["engines"] if name not in known.engines]
    if unknown:
        raise Invalid(
            "unknown_engine", f"there is no engine {unknown[0]!r}", hint=f"Engines are {', '.join(known.engines)}."
        )
    found = [rule["text"] for rule in known.contradictions if holds(rule["when"], workload, host)]
    if found:
        name = workload["name"] or "the workload"
        raise Invalid(
            "contradictory_workload",
            f"{name} contradicts itself: {'; '.join(found)}",
            hint="Take one of the two demands back, or describe the parts apart, below 'parts'.",
            contradictions=found,
        )


def _answer(workload: Workload, host: Host, known: Knowledge) -> Answer:
    ranking = rank(workload, host, known)
    best = ranking[0]
    choice = None if best.blocked else best.engine
    able = [ranked for ranked in ranking if not ranked.blocked]
    margin = round(best.score - (able[1].score if len(able) > 1 else 0.0), 1) if able else 0.0
    settings = tuple(_settings(workload, choice, host, known)) if choice else ()
    return Answer(
        name=workload["name"],
        choice=choice,
        margin=margin,
        ranking=ranking,
        settings=settings,
        command=launch_command(workload, choice, settings, known) if choice else (),
        would_change=tuple(_changes(workload, choice, host, known)),
        hybrid=tuple(_hybrids(workload, host, known)),
        notes=tuple(_notes(workload, host, able, margin)),
        rules=tuple(_fired(workload, host, known)),
        version=f"{known.version} of {known.date}",
        workload=workload.demands(),
    )


def rank(workload: Workload, host: Host, known: Knowledge) -> tuple[Ranked, ...]:
    """All engines, the best first; those that something blocks last."""
    firing = [rule for rule in known.rules if holds(rule.when, workload, host)]
    found = []
    for engine, facts in known.engines.items():
        blocked = [
            Reason(rule.blocks[engine], rule.source.told(rule.name), rule.name)
            for rule in firing
            if engine in rule.blocks
        ]
        weighed = [_weighed(rule, engine, workload, host) for rule in firing if engine in rule.weights]
        blocked += _absent(workload, engine, host)
        weighed += _probed(engine, host, known)
        found.append(_ranked(engine, float(facts["start"]), weighed, blocked))
    return tuple(sorted(found, key=lambda one: (bool(one.blocked), -one.score)))


def _weighed(rule: Rule, engine: str, workload: Workload, host: Host) -> Reason:
    """What a rule says of an engine: by what was measured here, else as published."""
    here = measured(rule, engine, workload, host)
    if here is None:
        weight, text = rule.weights[engine]
        return Reason(text, rule.source.told(rule.name), rule.name, weight)
    text, source, weight = here
    return Reason(text, source, rule.name, weight, measured=True)


def _ranked(engine: str, start: float, weighed: list[Reason], blocked: list[Reason]) -> Ranked:
    score = 0.0 if blocked else round(max(1.0, min(100.0, start + sum(reason.weight for reason in weighed))), 1)
    pro = sorted((reason for reason in weighed if reason.weight >= 0), key=lambda reason: -reason.weight)
    con = sorted((reason for reason in weighed if reason.weight < 0), key=lambda reason: reason.weight)
    return Ranked(engine, score, tuple(pro), tuple(con), tuple(blocked))


def _absent(workload: Workload, engine: str, host: Host) -> Iterator[Reason]:
    if workload["engines"] and engine not in workload["engines"]:
        yield Reason("the workload names other engines only", "the workload: engines", "engines")
    found = _engine(engine, host)
    if found is not None and not found.get("available", True):
        yield Reason(f"not on this host: {found.get('reason') or 'it is not available'}", _PROBED, "host")


def _engine(engine: str, host: Host) -> Mapping[str, Any] | None:
    return next((one for one in host.get("engines", ()) if one.get("name") == engine), None)


def _probed(engine: str, host: Host, known: Knowledge) -> Iterator[Reason]:
    facts = (_engine(engine, host) or {}).get("facts") or {}
    for rule in known.probe:
        if rule["fact"] in facts and facts[rule["fact"]] is rule["is"]:
            yield Reason(rule["text"], _PROBED, rule["id"], float(rule["weight"]))


def _settings(workload: Workload, choice: str, host: Host, known: Knowledge) -> Iterator[Mapping[str, Any]]:
    for rule in known.settings:
        if rule["engine"] == choice and holds(rule["when"], workload, host):
            yield {
                "setting": rule["setting"],
                "value": rule["value"],
                "text": rule["text"],
                "source": known.sources[rule["source"]].told(rule["setting"]),
                "options": list(rule.get("options", ())),
            }


def _hybrids(workload: Workload, host: Host, known: Knowledge) -> Iterator[Mapping[str, Any]]:
    for rule in known.hybrids:
        if holds(rule["when"], workload, host):
            source = known.sources[rule["source"]].told(rule["id"])
            yield {"outer": rule["outer"], "inner": rule["inner"], "text": rule["text"], "source": source}


def _together(parts: tuple[Answer, ...], known: Knowledge) -> Iterator[Mapping[str, Any]]:
    """One line per engine: which parts it takes."""
    for engine, facts in known.engines.items():
        names = [part.name for part in parts if part.choice == engine]
        if names:
            yield {
                "outer": engine,
                "inner": "",
                "text": f"as {facts['kind']}: {', '.join(names)}",
                "source": "the parts' own answers",
            }


def _notes(workload: Workload, host: Host, able: list[Ranked], margin: float) -> Iterator[str]:
    if not host:
        yield "nothing is known of the host: what it cannot do is not weighed"
    if len(able) > 1 and margin < _CLOSE and not workload.parts:
        yield f"it is close: {able[0].engine} is {counted(margin)} before {able[1].engine}"
    if not workload.given - _NO_DEMAND and not workload.parts:
        yield "the workload says nothing of what it needs: the answer is a guess"


def _fired(workload: Workload, host: Host, known: Knowledge) -> Iterator[Mapping[str, Any]]:
    for rule in known.rules:
        yield {
            "rule": rule.name,
            "fired": holds(rule.when, workload, host),
            "when": rule.when,
            "source": rule.source.told(rule.name),
            "blocks": sorted(rule.blocks),
            "weights": {engine: points for engine, (points, _) in rule.weights.items()},
        }


def _changes(workload: Workload, choice: str | None, host: Host, known: Knowledge) -> Iterator[Mapping[str, Any]]:
    """Single demands that would turn the answer, those that were said first."""
    count = 0
    for name in sorted(KEYS, key=lambda key: key not in workload.given):
        for value in _others(name, workload):
            changed = workload.having(**{name: value})
            if any(holds(rule["when"], changed, host) for rule in known.contradictions):
                continue
            best = rank(changed, host, known)[0]
            other = None if best.blocked else best.engine
            if other == choice:
                continue
            then = "no engine could serve it" if other is None else f"it is {other}"
            yield {
                "key": name,
                "value": list(value) if isinstance(value, tuple) else value,
                "choice": other,
                "text": f"with {name}: {_said(value)} {then}",
            }
            count += 1
            if count == _MOST_CHANGES:
                return


def _said(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(value) or "none"
    return str(value).lower() if isinstance(value, bool) else "not said" if value in (None, "") else str(value)


def _others(name: str, workload: Workload) -> list[Any]:
    """Other values of a key that are worth a look: any other word, the other flag, no demand at all."""
    key, now = KEYS[name], workload[name]
    if key.kind == "word":
        return [word for word in key.words if word != now]
    if key.kind == "flag":
        return [not now]
    if name in workload.given - _NO_DEMAND and now != key.default:
        return [key.default]
    return []
