"""`rescue scan`: what is left of damaged volumes."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from triune.cli.options import formatted
from triune.cli.rescue.metering import scanned
from triune.cli.rescue.remote import access
from triune.cli.rescue.sources import STATUS_COLOURS, session_option
from triune.cli.tables import Column, emit
from triune.cli.text import clean
from triune.domain.units import format_size

if TYPE_CHECKING:
    from triune.domain.rescue import Found
    from triune.services.rescue.volume import Volume

_STATUSES = ("intact", "recovered", "partial", "deleted")
_MOST_SHOWN = 50


@click.command()
@click.argument("sources", metavar="SOURCE...", nargs=-1, required=True)
@session_option
@formatted
def scan(sources: tuple[str, ...], session: Path | None, form: str) -> None:
    """Search SOURCE... from begin to end for VMFS volumes and their files, however damaged.

    Name all the extents of a volume, in any order. What is found is kept in the session: the same command goes on where
    it ended, and every command of `triune rescue` uses it, on another machine too.

    \b
    triune rescue scan /dev/sdb --session found
    triune rescue ls /dev/sdb --session found -R --deleted
    """
    from triune.services.rescue.scanning import scan_volumes
    from triune.services.rescue.sources import open_sources

    opened = open_sources(sources, access(session))
    with scanned() as told:
        found = [_row(volume) for volume in scan_volumes(opened, session, told)]
    if form != "table":
        emit(found, (), form=form)
        return
    emit(found, _VOLUMES, empty="No volume was found.")
    for one in found:
        for damage in one["damages"]:
            print(f"{_name(one)}: {clean(damage)}")
    doubtful = [
        file
        for one in found
        for file in one["files"]
        if file["status"] in {"partial", "deleted"} and file["kind"] != "folder"
    ]
    if doubtful:
        print()
        emit(doubtful[:_MOST_SHOWN], _FILES)
    if len(doubtful) > _MOST_SHOWN:
        print(f"… and {len(doubtful) - _MOST_SHOWN} more: triune rescue ls -R --deleted")
    if any(file["status"] == "partial" for one in found for file in one["files"]):
        sys.exit(1)


def _row(volume: Volume) -> dict[str, Any]:
    files = [_file(found) for found in volume.walk(deleted=True)]
    counts = Counter(file["status"] for file in files if file["kind"] != "folder")
    return {
        "label": volume.label,
        "uuid": volume.uuid,
        "version": volume.version,
        "damages": list(volume.damages()),
        **{status: counts[status] for status in _STATUSES},
        "files": files,
    }


def _file(found: Found) -> dict[str, Any]:
    return {
        "path": found.path,
        "kind": str(found.kind),
        "size": found.size,
        "status": str(found.status),
        "confidence": found.confidence,
        "missing": [list(span) for span in found.missing],
        "modified": found.modified,
        "key": found.key,
        "reasons": list(found.reasons),
        "evidence": list(found.evidence),
    }


def _name(one: Mapping[str, Any]) -> str:
    return clean(one["label"] or one["uuid"] or one["version"])


def _why(one: Mapping[str, Any]) -> str:
    lost = sum(length for _, length in one["missing"])
    return ", ".join([*([f"{format_size(lost)} missing"] if lost else []), *one["reasons"]]) or "-"


_VOLUMES: Sequence[Column] = (
    Column("VOLUME", lambda one: one["label"] or "-"),
    Column("VERSION", lambda one: one["version"]),
    Column("UUID", lambda one: one["uuid"] or "-", keep=3),
    *(
        Column(status.upper(), lambda one, status=status: one[status], right=True)  # type: ignore[misc]
        for status in _STATUSES
    ),
)
_FILES = (
    Column("SIZE", lambda one: format_size(one["size"]), right=True),
    Column("STATUS", lambda one: one["status"], colour=lambda one: STATUS_COLOURS[one["status"]]),
    Column("SURE", lambda one: f"{one['confidence']:.0%}", right=True, keep=6),
    Column("PATH", lambda one: one["path"]),
    Column("WHY", _why, keep=7),
)
