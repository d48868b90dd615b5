"""`rescue import`: from a volume to a running machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from triune.cli import importing
from triune.cli.rescue.sources import opened, session_option, volume_option, with_path


@click.command("import")
@click.argument("arguments", metavar="SOURCE... PATH", nargs=-1, required=True)
@importing.options
@volume_option
@session_option
def import_machine(
    arguments: tuple[str, ...], only: str | None, session: Path | None, form: str, quiet: bool, **given: Any
) -> int:
    """Make an instance of a machine on a volume: PATH is its .vmx there (or a .vmdk, .ovf, or a vmware.log).

    The disks are read from the SOURCEs while the daemon writes them; nothing is extracted in between. What is missing
    of a disk ends the import, unless --damaged lets zeros take its place.
    """
    from triune.services.machines.origin import read_origin
    from triune.services.rescue.folders import on_volume
    from triune.services.rescue.selecting import file

    sources, path = with_path(arguments)
    with opened(sources, session, only) as volumes:
        one = file(path, volumes)
        origin = read_origin(*on_volume(one.named.volume, one.found.path), given["skip"])
        return importing.run(origin, given, form, quiet)
