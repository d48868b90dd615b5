"""What is known of workloads and engines: the files below rules/, read and checked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from triune.services.advice.conditions import problems
from triune.services.packaged import packaged

VERSION = 1


@dataclass(frozen=True, slots=True)
class Source:
    """Where something is from. `kind` is rule (a document) or published (a measurement of others)."""

    kind: str
    title: str
    url: str

    def told(self, rule: str) -> str:
        """As an answer names it."""
        return f"{self.kind} {rule}: {self.title}, {self.url}"


@dataclass(frozen=True, slots=True)
class Rule:
    """`blocks` and `weights` by engine: a sentence, and for weights the points.

    `measured` are benchmarks of `triune bench` that tell the same of this host: they take the weights' place, and
    `measures` is what they measure. `share_of` names the key of the workload that a figure is a share of; without it
    the figure counts by its ratio to native.
    """

    name: str
    when: Any
    source: Source
    blocks: Mapping[str, str]
    weights: Mapping[str, tuple[float, str]]
    measured: tuple[str, ...] = ()
    measures: str = ""
    share_of: str = ""


@dataclass(frozen=True, slots=True)
class Knowledge:
    """All rules, in the order of the file; `engines` in the order that decides between equals."""

    version: int
    date: str
    engines: Mapping[str, Mapping[str, Any]]
    sources: Mapping[str, Source]
    rules: tuple[Rule, ...]
    contradictions: tuple[Mapping[str, Any], ...]
    probe: tuple[Mapping[str, Any], ...]
    settings: tuple[Mapping[str, Any], ...]
    hybrids: tuple[Mapping[str, Any], ...]


@cache
def knowledge() -> Knowledge:
    """The rules that came with this version. Raises ValueError where a file of them is broken."""
    return knowing(_load("rules.yaml"), _load("sources.yaml"))


def features() -> Mapping[str, Any]:
    """The table of `triune compare`, as published."""
    return _load("features.yaml")


@cache
def programs() -> tuple[frozenset[str], Mapping[str, Mapping[str, Any]]]:
    """Programs that are the host's own, and what others demand, by each name of their processes."""
    data = _load("programs.yaml")
    known = {
        name: fields["demands"]
        for program, fields in data["programs"].items()
        for name in (program, *fields.get("also", ()))
    }
    return frozenset(data["of_the_host"]), known


def _load(name: str) -> Mapping[str, Any]:
    return packaged(__package__, VERSION, "rules", name)


def knowing(data: Mapping[str, Any], sources: Mapping[str, Any]) -> Knowledge:
    """Rules from the files' contents. Raises ValueError that lists all that is wrong with them."""
    wrong = [*_mistakes(data, sources["sources"])]
    if wrong:
        raise ValueError("; ".join(wrong))
    known = {name: Source(**fields) for name, fields in sources["sources"].items()}
    return Knowledge(
        version=data["version"],
        date=str(data["date"]),
        engines=data["engines"],
        sources=known,
        rules=tuple(_rule(fields, known) for fields in data["rules"]),
        contradictions=tuple(data["contradictions"]),
        probe=tuple(data["probe"]),
        settings=tuple(data["settings"]),
        hybrids=tuple(data["hybrids"]),
    )


def _rule(fields: Mapping[str, Any], sources: Mapping[str, Source]) -> Rule:
    weights = {engine: (float(points), str(text)) for engine, (points, text) in fields.get("weights", {}).items()}
    return Rule(
        fields["id"], fields["when"], sources[fields["source"]], fields.get("blocks", {}), weights, *_measured(fields)
    )


def _measured(fields: Mapping[str, Any]) -> tuple[tuple[str, ...], str, str]:
    """Benchmarks, what they measure, and the key that they are a share of."""
    found = fields.get("measured") or {"benchmarks": (), "what": ""}
    return tuple(found["benchmarks"]), str(found["what"]), str(found.get("share_of", ""))


def _mistakes(data: Mapping[str, Any], sources: Mapping[str, Any]) -> Iterator[str]:
    engines = data["engines"]
    names = [rule["id"] for rule in (*data["rules"], *data["contradictions"], *data["hybrids"], *data["probe"])]
    yield from (f"two rules are called {name}" for name in {name for name in names if names.count(name) > 1})
    for part in ("rules", "contradictions", "settings", "hybrids"):
        for rule in data[part]:
            where = rule.get("id", rule.get("setting"))
            yield from (f"{where}: {problem}" for problem in problems(rule["when"]))
            if "source" in rule and rule["source"] not in sources:
                yield f"{where}: no source {rule['source']!r}"
            named = [*rule.get("blocks", ()), *rule.get("weights", ())]
            named += [rule[key] for key in ("engine", "outer", "inner") if key in rule]
            yield from (f"{where}: no engine {engine!r}" for engine in named if engine not in engines)
