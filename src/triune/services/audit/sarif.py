"""A report as SARIF 2.1.0 (docs.oasis-open.org/sarif/sarif/v2.1.0), which code scanning services and editors read."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote

from triune.services.audit.knowledge import Rule, knowledge

_SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
_LEVELS = {"critical": "error", "high": "error", "medium": "warning", "low": "note", "info": "note"}
# What GitHub sorts by: a score of 0.0 to 10.0 as CVSS has it.
_WEIGHTS = {"critical": "9.5", "high": "8.0", "medium": "5.5", "low": "3.0", "info": "0.0"}


def sarif(report: Mapping[str, Any], version: str) -> dict[str, Any]:
    """The log with one run. `version` is Triune's. Waived findings are results with a suppression."""
    rules = [*knowledge().rules, *knowledge().host]
    numbers = {rule.name: number for number, rule in enumerate(rules)}
    driver = {
        "name": "triune audit",
        "semanticVersion": version,
        "rules": [_rule(rule) for rule in rules],
    }
    problems = [_notification(one) for one in report["problems"]]
    run: dict[str, Any] = {
        "tool": {"driver": driver},
        "automationDetails": {"id": f"triune-audit/{report['host']['name']}/"},
        "invocations": [
            {
                "executionSuccessful": not problems,
                "endTimeUtc": report["created"].replace("+00:00", "Z"),
                "toolExecutionNotifications": problems,
            }
        ],
        "results": [_result(*each, numbers) for each in _each(report)],
        "properties": {"rulesDate": report["rules"]["date"], "scores": _scores(report)},
    }
    return {"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]}


def _scores(report: Mapping[str, Any]) -> dict[str, int]:
    return {one["name"]: one["score"] for one in report["instances"]}


def _rule(rule: Rule) -> dict[str, Any]:
    text = rule.text.replace("{evidence}", "…")
    return {
        "id": rule.name,
        "name": "".join(word.capitalize() for word in rule.name.split("-")),
        "shortDescription": {"text": text},
        "fullDescription": {"text": f"{text} (source: {rule.source.title})"},
        "help": {"text": f"{rule.source.title}: {rule.source.url}"},
        **({"helpUri": rule.source.url} if rule.source.url.startswith("https://") else {}),
        "defaultConfiguration": {"level": _LEVELS[rule.severity]},
        "properties": {"security-severity": _WEIGHTS[rule.severity], "tags": ["security", "isolation"]},
    }


def _each(report: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """(engine, instance, finding); both "" for the host's."""
    for found in report["host"]["findings"]:
        yield "", "", found
    for one in report["instances"]:
        for found in one["findings"]:
            yield one["engine"], one["name"], found


def _result(engine: str, name: str, found: Mapping[str, Any], numbers: Mapping[str, int]) -> dict[str, Any]:
    where = f"instances/{name}" if name else "host"
    result: dict[str, Any] = {
        "ruleId": found["rule"],
        "ruleIndex": numbers[found["rule"]],
        "level": _LEVELS[found["severity"]],
        "message": {"text": f"{name or 'this host'}: {found['sentence']}. To mend it: {found['fix']}"},
        "locations": [
            {
                # Nothing here is a line of a file; services that ask for one get the thing's own name.
                "physicalLocation": {"artifactLocation": {"uri": quote(where)}, "region": {"startLine": 1}},
                "logicalLocations": [{"name": name or "host", "fullyQualifiedName": where, "kind": "resource"}],
            }
        ],
        "partialFingerprints": {"triuneAudit/v1": hashlib.sha256(f"{where} {found['rule']}".encode()).hexdigest()},
        "properties": {
            "engine": engine,
            "severity": found["severity"],
            "points": found["points"],
            "evidence": found["evidence"],
            "fix": found["fix"],
            "advice": found["advice"],
        },
    }
    if found["waived"]:
        reason = f"{found['waived']['reason']} (until {found['waived']['expires']})"
        result["suppressions"] = [{"kind": "external", "status": "accepted", "justification": reason}]
    return result


def _notification(problem: Mapping[str, Any]) -> dict[str, Any]:
    text = f"{problem['subject']} could not be looked at: {problem['error']['message']}"
    hint = problem["error"]["hint"]
    return {"level": "error", "message": {"text": f"{text}. {hint}" if hint else text}}
