"""`rescue find`: machines, disks and files by name."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path

import click

from triune.cli.options import formatted
from triune.cli.rescue.ls import COLUMNS
from triune.cli.rescue.sources import deleted_option, opened, row, session_option, volume_option
from triune.cli.tables import emit
from triune.domain.rescue import FileKind


@click.command()
@click.argument("sources", metavar="SOURCE...", nargs=-1, required=True)
@click.option("--vmx", is_flag=True, help="Machines: *.vmx and *.vmtx.")
@click.option("--vmdk", is_flag=True, help="Disks: *.vmdk.")
@click.option("--name", "patterns", metavar="GLOB", multiple=True, help="Names like this, upper or lower case.")
@deleted_option
@volume_option
@session_option
@formatted
def find(
    sources: tuple[str, ...],
    vmx: bool,
    vmdk: bool,
    patterns: tuple[str, ...],
    deleted: bool,
    only: str | None,
    session: Path | None,
    form: str,
) -> None:
    """List the files of the volumes on SOURCE... whose name is of a kind, wherever they lie.

    Without an option, machines and disks are listed.
    """
    from triune.services.rescue.selecting import select

    wanted = [pattern.lower() for pattern in patterns]
    wanted += ["*.vmx", "*.vmtx"] if vmx or not (vmdk or patterns) else []
    wanted += ["*.vmdk"] if vmdk or not (vmx or patterns) else []
    with opened(sources, session, only, deleted=deleted) as volumes:
        rows = [
            row(one)
            for one in select(volumes, deleted=deleted)
            if one.found.kind is not FileKind.FOLDER
            and any(fnmatchcase(one.found.path.rpartition("/")[2].lower(), pattern) for pattern in wanted)
        ]
    emit(rows, COLUMNS, form=form, empty=f"No file is called {' or '.join(wanted)}.")
