"""What a repository's program tells: its snapshots, summaries and errors. Pure; the text may be of any version."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from triune.domain.errors import Conflict, Denied, Failed, NotFound, TriuneError, Unreachable

TAG = "triune"
IMAGE_TAG = "triune-image"
PASSING = "triune-pass"
"""Of what a backup's first pass left: never shown, and swept."""

SHORT = 8
"""How many characters of an id name a backup, everywhere: in lists, in engines, to the user."""

_NETWORK = re.compile(
    r"connection refused|no such host|no route to host|i/o timeout|network is unreachable|connection reset"
    r"|timed out|unable to start the sftp session|Host key verification failed|Permission denied \(|ssh: connect"
    r"|exec: \"ssh\"|AccessDenied|InvalidAccessKeyId|SignatureDoesNotMatch|x509:",
    re.IGNORECASE,
)
_FRACTION = re.compile(r"(\.\d{1,6})\d*")
_PACK = re.compile(r"\b[0-9a-f]{64}\b", re.ASCII)
_LINES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """A backup in a repository. `labels` are its tags of the shape KEY:VALUE."""

    id: str
    time: datetime
    host: str
    tags: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def short(self) -> str:
        """The id as people see it."""
        return self.id[:SHORT]

    @property
    def instance(self) -> str:
        """Whose it is."""
        return self.labels.get("instance", "")

    @property
    def engine(self) -> str:
        """What ran it."""
        return self.labels.get("engine", "")


def parse_snapshots(text: bytes) -> list[Stored]:
    """The snapshots in `restic snapshots --json`, the oldest first. Raises Failed("repository_unreadable")."""
    try:
        entries = json.loads(text or b"null") or []
        found = [_stored(entry) for entry in entries]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise Failed(
            "repository_unreadable", "the repository's list of backups makes no sense", hint="Try: restic snapshots"
        ) from None
    return sorted(found, key=lambda one: one.time)


def _stored(entry: Mapping[str, Any]) -> Stored:
    tags = tuple(str(tag) for tag in entry.get("tags") or ())
    labels = dict(tag.split(":", 1) for tag in tags if ":" in tag)
    identity = str(entry["id"])
    if not _PACK.fullmatch(identity):
        raise ValueError("no id")
    return Stored(
        id=identity,
        time=timestamp(str(entry["time"])),
        host=str(entry.get("hostname", "")),
        tags=tags,
        labels=labels,
    )


def timestamp(text: str) -> datetime:
    """RFC 3339 with up to nine digits of a second. Raises ValueError."""
    when = datetime.fromisoformat(_FRACTION.sub(lambda match: f"{match.group(1):0<7}", text, count=1))
    return when if when.tzinfo else when.replace(tzinfo=UTC)


def parse_line(line: bytes) -> dict[str, Any]:
    """One line of `--json` output; what is no object is an empty one. Never raises."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def number(found: Mapping[str, Any], key: str) -> float:
    """A number of such a line, 0 where it is none. Never raises."""
    value = found.get(key)
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else 0


def unreadable(errors: str, folder: str = "") -> list[str]:
    """What a backup of `folder` could not read, from its error output: `PATH: REASON`, each once. Never raises."""
    found = []
    for line in errors.splitlines():
        entry = parse_line(line.encode(errors="replace"))
        if entry.get("message_type") == "error":
            error = entry.get("error")
            said = error.get("message") or error.get("Err") if isinstance(error, dict) else error
            if isinstance(said, int):  # older versions tell only the number
                said = os.strerror(said)
            path = str(entry.get("item") or "?").removeprefix(folder)
            found.append(f"{path}: {said or 'no reason given'}")
    return list(dict.fromkeys(found))


def lost(errors: str) -> list[str]:
    """The paths a restore could not restore, from its error output. Never raises."""
    found = re.findall(r"^ignoring error for (/.*?): (?!.*ignoring)", errors, re.MULTILINE)
    for line in errors.splitlines():
        entry = parse_line(line.encode(errors="replace"))
        if entry.get("message_type") == "error" and entry.get("item"):
            found.append(str(entry["item"]))
    return list(dict.fromkeys(found))


def damaged_packs(output: str) -> list[str]:
    """The ids of damaged or missing packs, from what `restic check` says. Never raises."""
    found: list[str] = []
    for line in output.splitlines():
        words = line.lower()
        if "want" in words and "got" in words:
            found += _PACK.findall(line.partition("got")[0])
        elif "pack" in words and ("error" in words or "not exist" in words or "missing" in words or "damaged" in words):
            found += _PACK.findall(line)[:1]
    return list(dict.fromkeys(found))


def explain(errors: str, address: str) -> TriuneError:
    """Our error for what the program said before it failed. It has no codes for most of them before version 0.17."""
    said = " / ".join(_told(errors)) or "no message"
    if "wrong password" in errors or "no key found" in errors:
        return Denied(
            "wrong_key",
            f"the key does not open the repository {address}",
            hint="Name the file with its key: --password-file FILE; on the host that made it: /etc/triune/backup.key",
        )
    if _NETWORK.search(errors):
        return Unreachable(
            "repository_unreachable",
            f"the repository {address} can't be reached: {said}",
            hint="Try it as root: ssh for sftp:, and for s3: the keys in /etc/triune/backup.env.",
        )
    if "already locked" in errors or ("unable to create lock" in errors and "no space" not in errors):
        return Conflict(
            "repository_locked",
            f"the repository {address} is in use by another program: {said}",
            hint="Wait for it; a lock that a dead host left goes with: restic unlock",
        )
    if "no space left" in errors or "disk quota exceeded" in errors:
        return Failed(
            "no_space",
            f"no space is left in the repository {address}",
            hint="Make room there, or let old backups go: triune backup prune --keep-last N",
        )
    if "Is there a repository at" in errors or "unable to open config file" in errors:
        return not_found(address)
    return Failed(
        "repository_failed",
        f"the repository {address} can't do it: {said}",
        hint=f"See whether it is whole: triune backup verify --repo {address}",
    )


def not_found(address: str) -> NotFound:
    """There is no repository."""
    return NotFound(
        "repository_not_found",
        f"there is no backup repository at {address}",
        hint="The first backup makes it: triune backup create NAME --repo DIR",
    )


def _told(errors: str) -> Sequence[str]:
    lines = [line.strip().removeprefix("Fatal: ") for line in errors.splitlines() if line.strip()]
    plain = [line for line in lines if not line.startswith("{")]
    return ["".join(char if char.isprintable() else " " for char in line)[:300] for line in plain[-_LINES:]]
