"""`rescue ls`: what is on a volume."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from triune.cli.options import formatted
from triune.cli.rescue import hosts
from triune.cli.rescue.remote import access
from triune.cli.rescue.sources import (
    STATUS_COLOURS,
    apart,
    deleted_option,
    letters,
    moment,
    opened,
    row,
    session_option,
    volume_option,
)
from triune.cli.tables import Column, emit
from triune.domain.rescue import FileKind
from triune.domain.units import format_size

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from triune.domain.rescue import Found
    from triune.services.rescue.selecting import Chosen, Named


@click.command()
@click.argument("arguments", metavar="SOURCE... [PATH...]", nargs=-1, required=True)
@click.option("-R", "--recursive", is_flag=True, help="And all that is below.")
@click.option("-l", "--long", is_flag=True, help="With permissions, owner, and why a file is not intact.")
@click.option("-a", "--all", "every", is_flag=True, help="The volume's own files (.fbb.sf …) too.")
@deleted_option
@volume_option
@session_option
@formatted
def ls(
    arguments: tuple[str, ...],
    recursive: bool,
    long: bool,
    every: bool,
    deleted: bool,
    only: str | None,
    session: Path | None,
    form: str,
) -> None:
    """List the files of the volumes on SOURCE...: size, status, time.

    Of what follows the first SOURCE, what exists on this host is a source too; PATHs begin with what does not. Begin a
    PATH with `:` where it does exist here, and with VOLUME: to mean one of several volumes.

    \b
    triune rescue ls datastore.img
    triune rescue ls /dev/sdb /dev/sdc vm1
    triune rescue ls -R --deleted datastore.img --format json
    triune rescue ls esxi://root@esx1
    """
    sources, paths = apart(arguments)
    if not (paths or recursive or len(sources) > 1) and hosts.shown(sources[0], access(session), form):
        return
    rows: list[dict[str, Any]] = []
    with opened(sources, session, only, deleted=deleted) as volumes:
        for path in paths or [""]:
            for one in _listed(volumes, path, recursive, every, deleted):
                rows.append(row(one) | {"letters": letters(one.found)})
    columns = (*_LONG, _WHY) if long and any(_why(one) for one in rows) else _LONG if long else COLUMNS
    if form != "table":
        for shown in rows:
            del shown["letters"]
    emit(rows, columns, form=form, empty="No files." + ("" if recursive else " With those below: -R"))


def _listed(volumes: Sequence[Named], path: str, recursive: bool, every: bool, deleted: bool) -> Iterator[Chosen]:
    """What a folder holds, or a file itself. Raises NotFound."""
    from triune.services.rescue.selecting import Chosen, shown, split, unmatched

    where, bare = split(path, volumes)
    hit, seen = not bare, []
    for one in where:
        for found in one.volume.walk(deleted=deleted, system=every or bare.startswith(".")):
            seen.append(found.path)
            below = not bare or found.path.startswith(f"{bare}/")
            itself = found.path == bare
            hit = hit or below or itself
            if itself and found.kind is FileKind.FOLDER:
                continue
            if (itself or (below and _wanted(found, bare, recursive))) and (
                every or itself or found.kind is not FileKind.SYSTEM
            ):
                yield Chosen(one, found, shown(one, found.path, volumes))
    if not hit:
        raise unmatched(bare, seen)


def _wanted(found: Found, folder: str, recursive: bool) -> bool:
    rest = found.path[len(folder) + 1 :] if folder else found.path
    return recursive or "/" not in rest


def _size(one: Mapping[str, Any]) -> str:
    return "-" if one["kind"] == "folder" else format_size(one["size"])


def _name(one: Mapping[str, Any]) -> str:
    if one["kind"] == "folder":
        return f"{one['path']}/"
    return f"{one['path']} -> {one['target']}" if one["target"] else str(one["path"])


def _why(one: Mapping[str, Any]) -> str:
    lost = sum(length for _, length in one["missing"])
    parts = [f"{format_size(lost)} missing"] if lost else []
    return ", ".join([*parts, *one["reasons"]])


_STATUS = Column("STATUS", lambda one: one["status"], colour=lambda one: STATUS_COLOURS[one["status"]], keep=8)
_TIME = Column("MODIFIED", lambda one: moment(one["modified"]), keep=5)
_SIZE = Column("SIZE", _size, right=True)
_PATH = Column("PATH", _name)
COLUMNS = (_SIZE, _STATUS, _TIME, _PATH)
_LONG = (
    Column("MODE", lambda one: one["letters"], keep=4),
    Column("OWNER", lambda one: f"{one['uid']}:{one['gid']}", keep=2),
    _SIZE,
    _STATUS,
    Column("SURE", lambda one: f"{one['confidence']:.0%}", right=True, keep=6),
    _TIME,
    _PATH,
)
_WHY = Column("WHY", lambda one: _why(one) or "-", keep=7)
