"""What an audit knows: the files below rules/, read and checked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from triune.services.audit.conditions import problems
from triune.services.packaged import packaged

VERSION = 1
FACTS = frozenset((
    "own_kernel", "user_space", "accelerated", "running", "privileged", "user_namespace", "id_map_shared",
    "root_inside", "system", "filtered", "capabilities_dangerous", "capabilities_spare", "calls_open",
    "calls_open_mapped", "label", "labels_available", "no_new_privileges", "read_only_root", "proc_guarded",
    "sockets", "mounts_system_writable", "mounts_system_read_only", "mounts_other", "disks", "devices", "nesting",
    "shared_namespaces", "shared_cgroups", "ports_open", "memory_limited", "pids_limited", "image",
    "image_age_days", "image_origin", "moving_tag", "secrets", "process_user", "displays_open", "displays_local",
    "emulated", "escapes", "contradictions",
))  # fmt: skip
HOST_FACTS = frozenset(
    ("api", "api_world", "api_members", "sockets_world", "socket_members", "ports_plain", "ports_tls")
)
SEVERITIES = ("critical", "high", "medium", "low", "info")


@dataclass(frozen=True, slots=True)
class Source:
    """Where a rule is from."""

    title: str
    url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """`text` and `fix` have places for facts in braces; `change` are limits that mend it, by key."""

    name: str
    severity: str
    points: int
    when: Mapping[str, Any]
    text: str
    evidence: str
    source: Source
    fix: str
    advice: str
    change: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Boundary:
    """Where a score begins."""

    when: Mapping[str, Any]
    points: int
    text: str


@dataclass(frozen=True, slots=True)
class Escape:
    """A known way out of a program, and the first versions without it."""

    name: str
    program: str
    fixed: tuple[str, ...]
    text: str
    url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One thing that the probe inside tries, and what allows it."""

    name: str
    title: str
    needs: frozenset[str]
    call: str
    initial: bool
    guarded: bool
    privileged: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Knowledge:
    """All of it. `levels` by their least score, the best first; `words` are the lists that facts are told by."""

    version: int
    date: str
    rules: tuple[Rule, ...]
    host: tuple[Rule, ...]
    boundaries: tuple[Boundary, ...]
    levels: Mapping[str, int]
    words: Mapping[str, frozenset[str]]
    escapes: tuple[Escape, ...]
    steps: tuple[Step, ...]


_LISTS = ("dangerous", "needed", "control_sockets", "system_folders", "harmless_files")


@cache
def knowledge() -> Knowledge:
    """What came with this version. Raises ValueError where a file of it is broken."""
    names = ("rules.yaml", "sources.yaml", "escapes.yaml", "steps.yaml")
    return knowing(*(_load(name) for name in names))


def _load(name: str) -> Mapping[str, Any]:
    return packaged(__package__, VERSION, "rules", name)


def knowing(
    rules: Mapping[str, Any], sources: Mapping[str, Any], escapes: Mapping[str, Any], steps: Mapping[str, Any]
) -> Knowledge:
    """Rules from the files' contents. Raises ValueError that lists all that is wrong with them."""
    wrong = [*_mistakes(rules, sources["sources"])]
    if wrong:
        raise ValueError("; ".join(wrong))
    known = {name: Source(**fields) for name, fields in sources["sources"].items()}
    points = rules["severities"]
    return Knowledge(
        version=rules["version"],
        date=str(rules["date"]),
        rules=tuple(_rule(fields, points, known) for fields in rules["rules"]),
        host=tuple(_rule(fields, points, known) for fields in rules["host"]),
        boundaries=tuple(Boundary(one["when"], one["points"], one["text"]) for one in rules["boundaries"]),
        levels=rules["levels"],
        words={name: frozenset(rules[name]) for name in _LISTS},
        escapes=tuple(
            Escape(one["id"], one["program"], tuple(map(str, one["fixed"])), one["text"], one["url"])
            for one in escapes["escapes"]
        ),
        steps=tuple(_step(fields) for fields in steps["steps"]),
    )


def _rule(fields: Mapping[str, Any], points: Mapping[str, int], sources: Mapping[str, Source]) -> Rule:
    return Rule(
        name=fields["id"],
        severity=fields["severity"],
        points=points[fields["severity"]],
        when=fields["when"],
        text=fields["text"],
        evidence=fields.get("evidence", ""),
        source=sources[fields["source"]],
        fix=fields["fix"],
        advice=fields.get("advice", ""),
        change=fields.get("set", {}),
    )


def _step(fields: Mapping[str, Any]) -> Step:
    return Step(
        name=fields["id"],
        title=fields["title"],
        needs=frozenset(fields.get("needs", ())),
        call=fields.get("call", ""),
        initial=fields.get("initial", False),
        guarded=fields.get("guarded", False),
        privileged=fields.get("privileged", False),
    )


def _mistakes(data: Mapping[str, Any], sources: Mapping[str, Any]) -> Iterator[str]:
    rules = [*data["rules"], *data["host"]]
    names = [rule["id"] for rule in rules]
    yield from (f"two rules are called {name}" for name in {name for name in names if names.count(name) > 1})
    for rule in rules:
        known = HOST_FACTS if rule in data["host"] else FACTS
        yield from (f"{rule['id']}: {problem}" for problem in problems(rule["when"], known))
        if rule["source"] not in sources:
            yield f"{rule['id']}: no source {rule['source']!r}"
        if rule["severity"] not in SEVERITIES:
            yield f"{rule['id']}: no severity {rule['severity']!r}"
        if rule.get("evidence", "image") not in known:
            yield f"{rule['id']}: no fact {rule['evidence']!r}"
    for boundary in data["boundaries"]:
        yield from (f"a boundary: {problem}" for problem in problems(boundary["when"], FACTS))
