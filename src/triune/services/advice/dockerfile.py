"""A Dockerfile as a workload. Its last stage counts; nothing of it is run."""

from __future__ import annotations

import json
import re
from typing import Any

from triune.domain.errors import Invalid
from triune.services.advice.seen import Seen, plain

_INIT = re.compile(r"(?:^|/)(?:init|systemd)$")
_SUPERVISORS = frozenset({"supervisord", "s6-svscan", "runsvdir"})
_LINE = re.compile(r"\s*([A-Za-z]+)\s+(.*)", re.DOTALL)


def from_dockerfile(text: str) -> Seen:
    """Read it. Raises Invalid("bad_dockerfile") where it has no FROM."""
    stage: list[tuple[str, str]] = []
    stages: dict[str, str] = {}
    for word, rest in _instructions(text):
        if word == "FROM":
            stage = []
            base, _, name = re.sub(r"--\S+\s+", "", rest).partition(" ")
            stages[name.lower().removeprefix("as ").strip() or base] = stages.get(base.lower(), base)
            stage.append(("BASE", stages[name.lower().removeprefix("as ").strip() or base]))
            platform = re.search(r"--platform=(\S+)", rest)
            stage += [("PLATFORM", platform[1])] if platform else []
        else:
            stage.append((word, rest))
    if not any(word == "BASE" for word, _ in stage):
        raise Invalid("bad_dockerfile", "the Dockerfile has no FROM", hint="Is it the right file?")
    return Seen(_data(stage), _notes(stage))


def _instructions(text: str) -> list[tuple[str, str]]:
    lines = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    joined = re.sub(r"\\[ \t]*\n", " ", lines)
    found = [_LINE.fullmatch(line) for line in joined.splitlines()]
    return [(match[1].upper(), match[2].strip()) for match in found if match]


def _data(stage: list[tuple[str, str]]) -> dict[str, Any]:
    last = dict(stage)
    base = last["BASE"].lower()
    if "mcr.microsoft.com/windows" in base or "nanoserver" in base:
        return {"os": "windows"}
    found: dict[str, Any] = {"packaging": "oci-image", "ci": True, "administration": "redeploy"}
    if "VOLUME" in last:
        found["state"] = "data"
    platform = last.get("PLATFORM", "")
    if "/" in platform and "$" not in platform:
        found["architecture"] = plain(platform.split("/")[1])
    if re.search(r"(?:^|/)(?:nvidia/|cuda|rocm)|cuda", base):
        found["gpu"] = "shared"
    if re.match(r"(?:docker\.io/)?(?:library/)?docker:.*dind", base):
        found["docker_inside"] = True
    program = _program(last.get("ENTRYPOINT") or last.get("CMD") or "")
    if _INIT.search(program):
        found["init_system"] = True
    if program.rpartition("/")[2] in _SUPERVISORS:
        found["services"] = 3
    return found


def _program(command: str) -> str:
    """The first word of an ENTRYPOINT or CMD in either form."""
    try:
        words = json.loads(command)
    except ValueError:
        words = command.split()
    return str(words[0]) if isinstance(words, list) and words else ""


def _notes(stage: list[tuple[str, str]]) -> tuple[str, ...]:
    ports = [plain(rest) for word, rest in stage if word == "EXPOSE"]
    return (f"it listens on {', '.join(ports)}: publish what is to be reached from outside",) if ports else ()
