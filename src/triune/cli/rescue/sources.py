"""What the commands of `triune rescue` share: sources, paths on them, and how a file is shown."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from triune.cli.problems import warn
from triune.cli.rescue.remote import access, remote
from triune.domain.rescue import FileKind, Found

if TYPE_CHECKING:
    from triune.services.rescue.selecting import Chosen, Named

F = TypeVar("F", bound=Callable[..., Any])

STATUS_COLOURS = {"intact": "green", "recovered": "green", "partial": "yellow", "deleted": "dim"}


def session_option(command: F) -> F:
    """Add --session, and what sources on hosts need."""
    option = click.option(
        "--session",
        type=click.Path(path_type=Path, file_okay=False),
        metavar="DIR",
        help="What a scan found, to be used again.",
    )
    return remote(option(command))


def volume_option(command: F) -> F:
    """Add --volume."""
    return click.option("--volume", "only", metavar="NAME", help="Only this volume, by its label or UUID.")(command)


def deleted_option(command: F) -> F:
    """Add --deleted."""
    return click.option("--deleted", is_flag=True, help="Deleted files too.")(command)


def apart(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Sources and paths: the first argument is a source, and so are those after it that are files or devices here, or
    addresses; paths begin with the first that is neither, or begins with `:`."""
    for at, word in enumerate(arguments):
        if at and not _is_source(word):
            return list(arguments[:at]), list(arguments[at:])
    return list(arguments), []


def with_path(arguments: Sequence[str]) -> tuple[list[str], str]:
    """Sources, and the last argument as the path; one argument alone may be a file's address. Raises UsageError."""
    from triune.services.rescue.schemes import parted

    if len(arguments) == 1 and (parts := parted(arguments[0])) is not None:
        return [parts[0]], parts[1]
    if len(arguments) < 2:
        raise click.UsageError("name a source and a path on it")
    return list(arguments[:-1]), arguments[-1]


@contextmanager
def opened(
    sources: Sequence[str], session: Path | None = None, only: str | None = None, *, deleted: bool = False
) -> Iterator[Sequence[Named]]:
    """The volumes on sources, scanned for where need be; at the end, what is wrong with them is told on stderr."""
    from triune.cli.rescue.metering import scanned
    from triune.services.rescue.finding import volumes
    from triune.services.rescue.selecting import named

    entered = access(session)
    with scanned() as told:
        found = named(volumes(sources, session, told, deleted=deleted, access=entered), only)
    try:
        yield found
    finally:
        for one in found:
            for damage in one.volume.damages():
                warn(f"{one.name}: {damage}")


def row(one: Chosen) -> dict[str, Any]:
    """A file as the lists' JSON has it."""
    found = one.found
    return {
        "path": one.path,
        "volume": one.named.name,
        "uuid": one.named.volume.uuid,
        "version": one.named.volume.version,
        "kind": str(found.kind),
        "size": found.size,
        "status": str(found.status),
        "confidence": found.confidence,
        "missing": [list(span) for span in found.missing],
        "modified": found.modified,
        "mode": found.mode,
        "uid": found.uid,
        "gid": found.gid,
        "target": found.target or None,
        "key": found.key,
        "reasons": list(found.reasons),
        "evidence": list(found.evidence),
    }


def moment(seconds: int) -> str:
    """A time to the minute, in this machine's zone; `-` for none or one beyond a calendar."""
    from datetime import datetime

    try:
        return f"{datetime.fromtimestamp(seconds).astimezone():%Y-%m-%d %H:%M}" if seconds else "-"
    except (ValueError, OverflowError, OSError):
        return "-"


def letters(found: Found) -> str:
    """Kind and permissions as `ls -l` has them; in front, `r` is a raw device's pointer, `v` the volume's own file."""
    kind = {FileKind.FOLDER: "d", FileKind.LINK: "l", FileKind.RDM: "r", FileKind.SYSTEM: "v"}.get(found.kind, "-")
    return kind + "".join(letter if found.mode & (0o400 >> at) else "-" for at, letter in enumerate("rwxrwxrwx"))


def _is_source(word: str) -> bool:
    if word.startswith(":"):
        return False
    return "://" in word or (Path(word).exists() and not Path(word).is_dir())
