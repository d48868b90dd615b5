"""What a request for an audit carries, and what its report looks like."""

from __future__ import annotations

from datetime import date, datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from triune.api.schemas import Body, ErrorFields, Name, Text

Severity = Literal["critical", "high", "medium", "low", "info"]


class WaiverBody(Body):
    """A finding that is accepted, for a time."""

    rule: Name
    instance: Annotated[Name, Field(description="May have *")] = "*"
    reason: Annotated[Text, Field(min_length=1)]
    expires: Annotated[date, Field(description="The last day")]


class AuditBody(Body):
    """Which instances (none named: all), and whether to try from inside what they can do."""

    instances: Annotated[list[Name], Field(max_length=10_000)] = []
    probe: bool = True
    waivers: Annotated[list[WaiverBody], Field(max_length=10_000)] = []


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class AuditSource(_Part):
    """Where a rule is from."""

    title: str
    url: str


class AuditWaiver(_Part):
    """A waiver as it was given."""

    rule: str
    instance: str
    reason: str
    expires: date


class AuditFinding(_Part):
    """One weakness. `fix` is a command of the command line; `change` are limits that mend it, by key."""

    rule: str
    severity: Severity
    points: int
    sentence: str
    evidence: list[str]
    fix: str
    advice: str
    safe: bool
    change: dict[str, str]
    source: AuditSource
    waived: AuditWaiver | None


class AuditReason(_Part):
    """A part of a score."""

    points: int
    text: str


class AuditStep(_Part):
    """One step of the probe. `promised`: whether the configuration allows it; null: it can't be told."""

    id: str
    title: str
    outcome: Literal["succeeded", "denied", "absent", "untried"]
    detail: str
    promised: bool | None
    contradiction: bool


class AuditProbe(_Part):
    """What came of the probe inside; `reason` says why it did not run."""

    ran: bool
    reason: str
    language: str
    user: int | None
    steps: list[AuditStep]


class AuditedInstance(_Part):
    """One instance. `facts` are those of its isolation; null is unknown, and `notes` say why."""

    name: str
    engine: str
    state: str
    origin: str
    score: Annotated[int, Field(ge=0, le=100)]
    level: Literal["strong", "fair", "weak", "poor"]
    reasons: list[AuditReason]
    findings: list[AuditFinding]
    facts: dict[str, Any]
    probe: AuditProbe
    notes: list[str]


class AuditComponent(_Part):
    """A program that holds instances apart."""

    engine: str
    name: str
    version: str
    package: str
    package_version: str


class AuditDoor(_Part):
    """Where a daemon takes orders; `engine` empty: ours."""

    engine: str
    kind: Literal["unix", "tcp"]
    address: str
    mode: str | None
    group: str
    members: list[str]
    guarded: bool | None


class AuditHost(_Part):
    """What all instances share."""

    name: str
    kernel: str
    components: list[AuditComponent]
    doors: list[AuditDoor]
    findings: list[AuditFinding]


class AuditRules(_Part):
    """Which rules were asked."""

    version: int
    date: date


class AuditCounts(_Part):
    """Findings that are not waived, by severity."""

    critical: int
    high: int
    medium: int
    low: int
    info: int


class AuditSummary(_Part):
    """In short."""

    instances: int
    lowest: int | None
    findings: AuditCounts
    waived: int


class AuditWaivers(_Part):
    """Waivers that do nothing: their time is over, or they fit no finding."""

    expired: list[AuditWaiver]
    unused: list[AuditWaiver]


class AuditProblem(_Part):
    """An engine or an instance that could not be looked at."""

    subject: str
    error: ErrorFields


class AuditReport(_Part):
    """The result of an operation of the kind `audit`."""

    version: Literal[1]
    rules: AuditRules
    created: datetime
    summary: AuditSummary
    host: AuditHost
    instances: list[AuditedInstance]
    waivers: AuditWaivers
    problems: list[AuditProblem]
