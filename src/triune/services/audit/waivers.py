"""Waivers: findings that somebody has looked at and accepts, for a time, with a reason.

A YAML file: `waivers`, a list of `{rule, instance, reason, expires}`. `instance` may have `*`, and left out it is
all of them; `expires` is the last day (ISO 8601).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from fnmatch import fnmatchcase
from typing import Any

from triune.domain.errors import Invalid
from triune.domain.names import single_line
from triune.services.audit.knowledge import knowledge

_KEYS = ("rule", "instance", "reason", "expires")
_EXAMPLE = "{rule: no-memory-limit, instance: web, reason: tuned by hand, expires: 2027-01-31}"
_MOST = 10_000
_LONGEST = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiver:
    """One of them."""

    rule: str
    instance: str
    reason: str
    expires: date

    def fits(self, rule: str, instance: str) -> bool:
        """Whether it is about this finding."""
        return self.rule == rule and fnmatchcase(instance, self.instance)

    def concerns(self, instances: Iterable[str]) -> bool:
        """Whether it is about one of these; the others' waivers say nothing of an audit of these alone."""
        return any(fnmatchcase(name, self.instance) for name in instances)

    def as_dict(self) -> dict[str, str]:
        """As the report has it."""
        return {
            "rule": self.rule,
            "instance": self.instance,
            "reason": self.reason,
            "expires": self.expires.isoformat(),
        }


def covering(waivers: Iterable[Waiver], rule: str, instance: str, today: date) -> Waiver | None:
    """The first that covers a finding and has not expired."""
    return next((one for one in waivers if one.expires >= today and one.fits(rule, instance)), None)


def read(text: str, where: str) -> tuple[Waiver, ...]:
    """The waivers of a file's text. Raises Invalid("bad_waivers") naming the line, the key or the rule."""
    import yaml

    if len(text) > _LONGEST:
        raise Invalid("bad_waivers", f"{where} is larger than 1 MiB", hint="Name a file of waivers.")
    try:
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=yaml.SafeLoader)):
            raise Invalid("bad_waivers", f"{where} has references (&, *)", hint="Write each waiver out.")
        data = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = str(getattr(error, "problem", None) or error)
        raise Invalid("bad_waivers", f"{where}{line} is not YAML: {problem[:200]}", hint="Mend that line.") from None
    if isinstance(data, Mapping):
        for key in data:
            if key != "waivers":
                raise _unknown(str(key), ("waivers",), where)
        data = data.get("waivers")
    if data is None:
        data = []
    if not isinstance(data, list):
        raise Invalid("bad_waivers", f"{where} has no list of waivers", hint=f"Write: waivers: [{_EXAMPLE}]")
    return parse(data, where)


def parse(items: Iterable[Any], where: str) -> tuple[Waiver, ...]:
    """Check and take them. Raises Invalid("bad_waivers" | "unknown_key" | "unknown_rule")."""
    found = tuple(_one(item, f"waiver {number} of {where}") for number, item in enumerate(items, 1))
    if len(found) > _MOST:
        raise Invalid("bad_waivers", f"{where} has {len(found)} waivers", hint=f"At most {_MOST} are taken.")
    return found


def _one(item: Any, where: str) -> Waiver:
    if not isinstance(item, Mapping):
        raise Invalid("bad_waivers", f"{where} is no mapping", hint=f"Write it like {_EXAMPLE}")
    for key in item:
        if key not in _KEYS:
            raise _unknown(str(key), _KEYS, where)
    for key in ("rule", "reason", "expires"):
        if not item.get(key):
            raise Invalid("bad_waivers", f"{where} has no {key}", hint=f"Write it like {_EXAMPLE}")
    rule = str(item["rule"])
    rules = [one.name for one in (*knowledge().rules, *knowledge().host)]
    if rule not in rules:
        near = difflib.get_close_matches(rule, rules, n=1)
        hint = f"Did you mean {near[0]!r}?" if near else "See the rules: docs/AUDIT.md"
        raise Invalid("unknown_rule", f"{where}: there is no rule {rule!r}", hint=hint)
    return Waiver(
        rule=rule,
        instance=single_line(str(item.get("instance", "*")), "the waiver's instance"),
        reason=single_line(str(item["reason"]), "the waiver's reason"),
        expires=_day(item["expires"], where),
    )


def _unknown(key: str, known: Iterable[str], where: str) -> Invalid:
    near = difflib.get_close_matches(key, list(known), n=1)
    hint = f"Did you mean {near[0]!r}?" if near else f"Keys are: {', '.join(known)}."
    return Invalid("unknown_key", f"{where} has an unknown key {single_line(key, 'a key')!r}", hint=hint, key=key)


def _day(value: Any, where: str) -> date:
    if isinstance(value, datetime):
        return value.date()
    if isinstance(value, date):
        return value
    try:
        return date.fromisoformat(str(value))
    except ValueError:
        raise Invalid(
            "bad_waivers", f"{where}: {str(value)[:40]!r} is no day", hint="Write expires like 2027-01-31."
        ) from None
