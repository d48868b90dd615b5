"""The probe inside: what an instance can really do, tried through the engine's own way to run commands."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources

from triune.domain.errors import TriuneError
from triune.domain.isolation import Isolation
from triune.engines.base import Command, Commands
from triune.services.audit.knowledge import Step
from triune.services.audit.promises import promised

_PATIENCE = 45.0
_MOST = 64 << 10
# Perl is in every Debian; Python is where Perl is not; a shell can try a part.
_LANGUAGES = (("perl", "probe.pl", "-e"), ("python3", "probe.python", "-c"), ("sh", "probe.sh", "-c"))
_LOOK = "for name in perl python3; do command -v $name >/dev/null 2>&1 && echo $name; done; echo sh"
_ABSENT = frozenset({-1, errno.ENOSYS, errno.ENOENT, errno.ENODEV, errno.ENXIO, errno.ENOSPC, errno.EUSERS})
_UNTRIED = -2


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """One step. `outcome` is succeeded, denied, absent (nothing there to try it on) or untried."""

    name: str
    title: str
    outcome: str
    detail: str
    promised: bool | None

    @property
    def contradiction(self) -> bool:
        """Whether it could do what its configuration does not allow."""
        return self.outcome == "succeeded" and self.promised is False


@dataclass(frozen=True, slots=True, kw_only=True)
class Probed:
    """What came of it. `reason` says why it did not run; `language` what it ran in, `user` as whom."""

    ran: bool
    reason: str = ""
    language: str = ""
    user: int | None = None
    steps: tuple[Tried, ...] = ()


def probe(commands: Commands, name: str, isolation: Isolation, steps: tuple[Step, ...]) -> Probed:
    """Run it in a running instance. Never raises a TriuneError: what went wrong is the reason."""
    try:
        found = _run(commands, name, ("sh", "-c", _LOOK)).split()
        if "sh" not in found:
            return Probed(ran=False, reason="there is no shell in it, nor anything else that the probe could run in")
        language, file, option = next(one for one in _LANGUAGES if one[0] in found)
        said = _run(commands, name, (language, option, _text(file)))
    except TriuneError as error:
        return Probed(ran=False, reason=error.message)
    told = parse(said)
    if "end" not in told:
        return Probed(ran=False, language=language, reason=_broken(said))
    user = told.get("user", 0)
    tried = tuple(_tried(step, told.get(step.name, _UNTRIED), isolation, user, language) for step in steps)
    return Probed(ran=True, language=language, user=user, steps=tried)


def parse(said: str) -> dict[str, int]:
    """`NAME<tab>NUMBER` lines; others are passed over: the instance may say what it likes."""
    told: dict[str, int] = {}
    for line in said.splitlines()[:200]:
        name, tab, number = line.partition("\t")
        if tab and name.replace("-", "").isalnum() and number.removeprefix("-").isdigit() and len(number) < 8:
            told.setdefault(name, int(number))
    return told


def _broken(said: str) -> str:
    last = said.strip().splitlines()[-1:] or ["nothing"]
    word = "".join(char if char.isprintable() else " " for char in last[0])[:120]
    return f"the probe broke off in it; the last it said was: {word}"


def _text(file: str) -> str:
    return resources.files(__package__).joinpath("inside", file).read_text(encoding="utf-8")


def _tried(step: Step, number: int, isolation: Isolation, user: int, language: str) -> Tried:
    outcome, detail = _outcome(number, language)
    return Tried(
        name=step.name,
        title=step.title,
        outcome=outcome,
        detail=detail,
        promised=promised(step, isolation, user),
    )


def _outcome(number: int, language: str) -> tuple[str, str]:
    if number == 0:
        return "succeeded", ""
    if number == _UNTRIED:
        return "untried", f"{language} alone cannot try it" if language == "sh" else "it gave no answer"
    if number in _ABSENT:
        return "absent", "there is nothing here to try it on" if number == -1 else os.strerror(number)
    return "denied", os.strerror(number)


def _run(commands: Commands, name: str, argv: tuple[str, ...]) -> str:
    """The output of a command, both streams; what takes too long or says too much is ended."""
    session = commands.open(name, Command(argv=argv))
    watchdog = threading.Timer(_PATIENCE, session.close)
    watchdog.daemon = True
    watchdog.start()
    said = b""
    try:
        session.close_stdin()
        while (part := session.read()) is not None and len(said) < _MOST:
            said += part[1]
        return said.decode(errors="replace")
    finally:
        watchdog.cancel()
        session.close()


def as_dict(probed: Probed) -> Mapping[str, object]:
    """As the report has it."""
    return {
        "ran": probed.ran,
        "reason": probed.reason,
        "language": probed.language,
        "user": probed.user,
        "steps": [
            {
                "id": step.name,
                "title": step.title,
                "outcome": step.outcome,
                "detail": step.detail,
                "promised": step.promised,
                "contradiction": step.contradiction,
            }
            for step in probed.steps
        ],
    }
