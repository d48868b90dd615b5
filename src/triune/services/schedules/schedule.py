"""One schedule: when it runs, and how it is kept."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from triune.domain.errors import Invalid
from triune.domain.names import snapshot_name

SHORTEST = 60.0
LONGEST = 366 * 86400.0
_AT = re.compile(r"([01]\d|2[0-3]):([0-5]\d)", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """Do `action` with `subject` every `every` seconds, or daily `at` HH:MM of the host's local time (one of both).

    `action` is a word the daemon has a callable for ("snapshot", "backup"). `subject` is an instance's name, or "" for
    all. `keep` says how much of it stays, in words of the action (snapshot: {"last": 24}; backup: {"daily": 7, …}), and
    `options` is whatever else the action needs, JSON-safe. `last_operation` is the id of the newest run;
    `last_result` is "", "running", "done", or one sentence that says what went wrong.
    """

    name: str
    action: str
    subject: str
    created: datetime
    next_run: datetime
    every: float | None = None
    at: str | None = None
    keep: Mapping[str, int] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    last_run: datetime | None = None
    last_operation: str = ""
    last_result: str = ""

    def after(self, now: datetime) -> datetime:
        """The next time after `now`; times that passed meanwhile are left out."""
        if self.at is not None:
            return _daily(self.at, now)
        every = timedelta(seconds=self.every or SHORTEST)
        # Back from a clock that was set back: never wait longer than one period.
        if self.next_run > now + every:
            return now + every
        missed = (now - self.next_run) // every
        return self.next_run + max(missed + 1, 0) * every

    def to_value(self) -> dict[str, Any]:
        """As JSON, without the name."""
        return {
            "action": self.action,
            "subject": self.subject,
            "created": self.created.isoformat(),
            "next_run": self.next_run.isoformat(),
            "every": self.every,
            "at": self.at,
            "keep": dict(self.keep),
            "options": dict(self.options),
            "last_run": self.last_run.isoformat() if self.last_run else None,
            "last_operation": self.last_operation,
            "last_result": self.last_result,
        }


def from_value(name: str, value: Mapping[str, Any]) -> Schedule:
    """The schedule of a JSON value."""
    times = {key: datetime.fromisoformat(value[key]) for key in ("created", "next_run")}
    last = datetime.fromisoformat(value["last_run"]) if value["last_run"] else None
    return Schedule(name=name, **{**value, **times, "last_run": last})


def schedule_name(text: str) -> str:
    """Return the name: the same rules as a snapshot's. Raises Invalid."""
    try:
        return snapshot_name(text)
    except Invalid:
        raise Invalid(
            "bad_name",
            f"{text!r} is not a valid name of a schedule",
            hint="Use 1 to 63 of a-z, 0-9, '.', '_' and '-', beginning and ending with a letter or digit.",
        ) from None


def check_times(every: float | None, at: str | None) -> None:
    """Raise Invalid unless exactly one is given, and sensible."""
    if (every is None) == (at is None):
        raise Invalid(
            "bad_schedule", "a schedule needs either a period or a time", hint="Give --every 1h or --at 03:00."
        )
    if every is not None and not SHORTEST <= every <= LONGEST:
        raise Invalid(
            "bad_schedule", "the period is not between a minute and a year", hint="Give --every 1h or the like."
        )
    if at is not None and not _AT.fullmatch(at):
        raise Invalid("bad_schedule", f"{at!r} is no time of day", hint="Write it as HH:MM, like 03:00.")


def first_run(every: float | None, at: str | None, now: datetime) -> datetime:
    """When it runs first."""
    return _daily(at, now) if at is not None else now + timedelta(seconds=every or SHORTEST)


def _daily(at: str, now: datetime) -> datetime:
    """The next HH:MM of the host's local time; an hour that a change of the clocks leaves out is the one after it."""
    hour, minute = (int(part) for part in at.split(":"))
    local = now.astimezone().replace(tzinfo=None)
    day = local.replace(hour=hour, minute=minute, second=0, microsecond=0)
    found = day.astimezone()
    return found if found > now else (day + timedelta(days=1)).astimezone()
