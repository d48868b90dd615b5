"""`rescue inside`: single files out of a guest's disk."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from triune.cli.options import formatted
from triune.cli.problems import warn
from triune.cli.rescue.places import placed
from triune.cli.rescue.sources import moment, session_option, volume_option
from triune.cli.tables import Column, emit
from triune.cli.text import clean
from triune.domain.units import format_size

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from triune.services.rescue.guest import Guest, GuestFile

_ACTIONS = ("ls", "cat", "extract")
_KINDS = {"folder": "d", "link": "l", "other": "?"}


@click.command()
@click.argument("arguments", metavar="[SOURCE...] DISK {ls|cat|extract} [PATH]", nargs=-1, required=True)
@click.option("-R", "--recursive", is_flag=True, help="With ls: and all that is below.")
@click.option("--to", "folder", metavar="DIR", type=click.Path(path_type=Path), help="With extract: where to.")
@volume_option
@session_option
@formatted
def inside(
    arguments: tuple[str, ...],
    recursive: bool,
    folder: Path | None,
    only: str | None,
    session: Path | None,
    form: str,
) -> int:
    """List, read or take out files of the file systems in a guest's disk, without extracting the disk.

    DISK is a file of this host (VMDK with its extents and parents beside it, qcow2, VHD, VHDX, VDI, raw), or a path on
    the volumes of SOURCE.... PATH begins with a partition (p1, p2 …), a logical volume, or `disk` where there is no
    table; it may be left out where only one has files. NTFS, ext2/3/4, XFS, Btrfs, FAT, exFAT, UFS, SquashFS, LVM2.

    \b
    triune rescue inside web.vmdk ls
    triune rescue inside datastore.img web/web.vmdk ls p2/etc
    triune rescue inside web.vmdk cat p2/etc/fstab
    triune rescue inside web.vmdk extract p2/home --to files
    """
    disk, action, path = _parted(arguments)
    if action == "extract" and folder is None:
        raise click.UsageError("extract needs --to DIR")
    with placed(disk, session, only) as place, place.disk() as opened:
        from triune.services.rescue.guest import Guest

        guest = Guest(opened.source)
        for sentence in (*opened.damages(), *guest.problems):
            warn(sentence)
        if action == "ls":
            return _ls(guest, path, recursive, form)
        if action == "cat":
            return _cat(guest, path)
        return _extract(guest, path, folder or Path(), form)


def _parted(arguments: tuple[str, ...]) -> tuple[tuple[str, ...], str, str]:
    for at, word in enumerate(arguments):
        if at and word in _ACTIONS and len(arguments) - at <= 2:
            return arguments[:at], word, arguments[at + 1] if at + 1 < len(arguments) else ""
    raise click.UsageError("say ls, cat or extract behind the disk, and a path")


def _ls(guest: Guest, path: str, recursive: bool, form: str) -> int:
    found: Iterable[GuestFile]
    top = guest.stat(path)
    if top.kind != "folder":
        found = [top]
    elif recursive:
        found = (each for each in _everything(guest, path) if each.path != top.path)
    else:
        found = guest.list(path)
    if not path.strip("/") and not recursive:
        parts = [_part_row(guest, each) for each in found]
        columns = (*_PARTS, _WHY) if any(part["why"] for part in parts) else _PARTS
        emit(parts, columns, form=form, empty="No partitions.")
        return 0
    emit([_row(each) for each in found], _COLUMNS, form=form, empty="No files.")
    return 0


def _everything(guest: Guest, path: str) -> Iterable[GuestFile]:
    if path.strip("/"):
        yield from guest.walk(path)
        return
    for part in guest.readable:
        yield from guest.walk(part.name)


def _cat(guest: Guest, path: str) -> int:
    reader = guest.open(path)
    offset = 0
    while offset < reader.size:
        data = reader.read(offset, 1 << 20)
        sys.stdout.buffer.write(data)
        offset += len(data)
    sys.stdout.buffer.flush()
    return 0


def _extract(guest: Guest, path: str, to: Path, form: str) -> int:
    from triune.services.rescue.guest_files import extract

    rows: list[dict[str, Any]] = []
    partial = 0
    for done in extract(guest, path, to):
        if done.missing:
            partial += 1
            lost = sum(length for _, length in done.missing)
            warn(f"{done.path}: {format_size(lost)} missing, zeros in their place: {done.why}")
        rows.append(
            {
                "path": done.path,
                "written": done.at,
                "kind": done.kind,
                "size": done.size,
                "sha256": done.sha256 or None,
                "missing": [list(span) for span in done.missing],
            }
        )
    if form != "table":
        emit(rows, (), form=form)
    else:
        files = sum(row["kind"] == "file" for row in rows)
        size = format_size(sum(row["size"] for row in rows))
        print(clean(f"{files} file{'s' * (files != 1)} in {to}, {size}" + (f", {partial} in part" if partial else "")))
    return 1 if partial else 0


def _row(found: GuestFile) -> dict[str, Any]:
    return {
        "path": found.path,
        "kind": found.kind,
        "size": found.size,
        "modified": int(found.modified),
        "mode": found.mode,
        "uid": found.uid,
        "gid": found.gid,
        "target": found.target or None,
    }


def _part_row(guest: Guest, found: GuestFile) -> dict[str, Any]:
    part = guest.part(found.name)
    if part is None:
        raise LookupError(found.name)
    return {
        "part": part.name,
        "start": part.start,
        "size": part.size,
        "type": part.type,
        "holds": part.holds or None,
        "label": part.label or None,
        "readable": part.files is not None,
        "why": part.why or None,
    }


def _letters(one: Mapping[str, Any]) -> str:
    bits = "".join(letter if one["mode"] & (0o400 >> at) else "-" for at, letter in enumerate("rwxrwxrwx"))
    return _KINDS.get(one["kind"], "-") + bits


def _name(one: Mapping[str, Any]) -> str:
    if one["kind"] == "folder":
        return f"{one['path']}/"
    return f"{one['path']} -> {one['target']}" if one["target"] else str(one["path"])


_COLUMNS = (
    Column("MODE", _letters, keep=4),
    Column("OWNER", lambda one: f"{one['uid']}:{one['gid']}", keep=2),
    Column("SIZE", lambda one: "-" if one["kind"] == "folder" else format_size(one["size"]), right=True),
    Column("MODIFIED", lambda one: moment(one["modified"]), keep=5),
    Column("PATH", _name),
)
_PARTS = (
    Column("PART", lambda one: one["part"]),
    Column("START", lambda one: "-" if one["start"] is None else format_size(one["start"]), right=True, keep=4),
    Column("SIZE", lambda one: format_size(one["size"]), right=True),
    Column("TYPE", lambda one: one["type"], keep=5),
    Column("HOLDS", lambda one: one["holds"] or "-", colour=lambda one: "green" if one["readable"] else "dim"),
    Column("LABEL", lambda one: one["label"] or "-", keep=3),
)
_WHY = Column("WHY", lambda one: one["why"] or "-", keep=6)
