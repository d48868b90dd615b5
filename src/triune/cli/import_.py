"""`import`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from triune.cli import importing


@click.command("import")
@click.argument("file", metavar="FILE", type=click.Path(readable=False, path_type=Path))
@importing.options
def import_machine(file: Path, form: str, quiet: bool, **given: Any) -> int:
    """Make an instance of a machine of VMware's: FILE is a .vmx, .vmtx, .ovf, .ova or .vmdk, or a vmware.log where the
    VMX is lost. Disks of other kinds become images: triune image import.

    Its disks become qcow2 and are compared with what they came from, snapshots become one disk. Every line of its
    description that is not carried over is told, with the reason.
    """
    from triune.services.machines.origin import open_file

    with open_file(file, given["skip"]) as origin:
        return importing.run(origin, given, form, quiet)
