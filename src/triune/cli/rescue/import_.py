"""`rescue import`: from a volume to a running machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from triune.cli import importing


@click.command("import")
@click.argument("words", metavar="SOURCE... PATH", nargs=-1, required=True)
@importing.options
def import_machine(words: tuple[str, ...], form: str, quiet: bool, **given: Any) -> int:
    """Make an instance of a machine on a volume: PATH is its .vmx (or .vmdk, .ovf) there.

    The disks are read from the SOURCEs while the daemon writes them; nothing is extracted in between. What is missing
    of a disk ends the import, unless --damaged lets zeros take its place.
    """
    from triune.disks.source import FileSource
    from triune.services.machines.volumes import origin
    from triune.services.rescue.opening import open_volumes

    *sources, path = words
    if not sources:
        raise click.UsageError("give at least one SOURCE and the PATH on it")
    opened = [FileSource(Path(source)) for source in sources]
    try:
        return importing.run(origin(open_volumes(opened), path), given, form, quiet)
    finally:
        for source in opened:
            source.close()
