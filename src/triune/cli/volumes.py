"""`volume`: create, list, show, attach, detach, resize, convert, import, export, rm."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click

from triune.cli.listing import age, moment
from triune.cli.options import (
    complete_pools,
    complete_volumes,
    confirm,
    confirmable,
    formatted,
    instance_argument,
    quietable,
    silenceable,
)
from triune.cli.problems import tell
from triune.cli.tables import Column, emit, structured
from triune.cli.text import clean
from triune.cli.waiting import finish
from triune.domain.errors import Invalid, TriuneError
from triune.domain.units import format_size, parse_size
from triune.sdk import Client

_volume = click.argument("name", metavar="VOLUME", shell_complete=complete_volumes)
_pool_option = click.option(
    "--pool",
    metavar="POOL",
    default="default",
    show_default=True,
    help="Where it lives.",
    shell_complete=complete_pools,
)
_FORMATS = click.Choice(["qcow2", "raw", "vmdk"])


@click.group()
def volume() -> None:
    """Create, attach, convert, import and export volumes."""


@volume.command("list")
@formatted
@quietable
def list_volumes(form: str, quiet: bool) -> None:
    """List the volumes."""
    emit(
        Client().volumes.list(),
        _COLUMNS,
        form=form,
        quiet="name" if quiet else None,
        empty="No volumes. Make one: triune volume create NAME",
    )


@volume.command()
@_volume
@formatted
def show(name: str, form: str) -> None:
    """Show a volume and the instances that use it."""
    found = Client().volumes.get(name)
    if form != "table":
        sys.stdout.write(structured(dict(found), form))
        return
    lines = [
        ("Name", found["name"]),
        ("Pool", found["pool"]),
        ("Kind", found["kind"] + (f", {found['format']}" if found["format"] else "")),
        ("Size", "no limit" if found["size"] is None else format_size(found["size"])),
        ("Used", format_size(found["used"])),
        ("Path", found["path"]),
        ("Created", moment(found["created"])),
        *([("Problem", found["reason"])] if found["reason"] else []),
        ("Used by", ", ".join(found["used_by"]) or "-"),
    ]
    for label, value in lines:
        print(f"{label + ':':<10}{clean(value)}")


@volume.command()
@click.argument("name")
@_pool_option
@click.option("--kind", type=click.Choice(["tree", "disk"]), help="A folder, or a disk of VMs (default: tree).")
@click.option("--size", metavar="SIZE", help="Of a disk; of a tree its limit, where the pool has quotas.")
@click.option("--format", "form", type=_FORMATS, help="Of a disk (default: qcow2).")
@silenceable
def create(name: str, pool: str, kind: str | None, size: str | None, form: str | None, quiet: bool) -> None:
    """Make an empty volume."""
    client = Client()
    operation = client.volumes.create(
        name, pool=pool, kind=kind, size=None if size is None else parse_size(size), format=form or ""
    )
    result = finish(client, operation, name, quiet=quiet)
    if not quiet:
        limit = "" if result["size"] is None else f" of {format_size(result['size'])}"
        print(clean(f"{name} is made: a {result['kind']}{limit} in the pool {result['pool']}"))


@volume.command()
@instance_argument
@click.argument("volume", metavar="VOLUME[:/PATH[:ro]]", shell_complete=complete_volumes)
@silenceable
def attach(name: str, volume: str, quiet: bool) -> None:
    """Show an instance a volume: a folder at /PATH, a disk as a block device."""
    source, _, rest = volume.partition(":")
    target, _, mode = rest.partition(":")
    if mode not in ("", "ro", "rw"):
        raise click.UsageError(f"{mode!r} is neither ro nor rw")
    client = Client()
    finish(client, client.volumes.attach(name, source, target, read_only=mode == "ro"), name, quiet=quiet)
    if not quiet:
        print(clean(f"{name} has {source}" + (f" at {target}" if target else " as a disk")))


@volume.command()
@instance_argument
@click.argument("volume", metavar="VOLUME", shell_complete=complete_volumes)
@silenceable
def detach(name: str, volume: str, quiet: bool) -> None:
    """Take a volume away from an instance."""
    client = Client()
    finish(client, client.volumes.detach(name, volume), name, cancel=False, quiet=quiet)
    if not quiet:
        print(clean(f"{name} has {volume} no more"))


@volume.command()
@_volume
@click.argument("size")
@silenceable
def resize(name: str, size: str, quiet: bool) -> None:
    """Grow a volume, or shrink it where what is in it surely fits."""
    client = Client()
    result = finish(client, client.volumes.resize(name, parse_size(size)), name, cancel=False, quiet=quiet)
    if not quiet:
        print(f"{name} has {format_size(result['size'])}")


@volume.command()
@_volume
@click.option("--format", "form", type=_FORMATS, required=True, help="The new format.")
@silenceable
def convert(name: str, form: str, quiet: bool) -> None:
    """Give a disk another format, and compare it with what it was."""
    client = Client()
    finish(client, client.volumes.convert(name, form), name, quiet=quiet)
    if not quiet:
        print(f"{name} is {form} now")


@volume.command("import")
@click.argument("file", metavar="FILE|DIR", type=click.Path())
@click.option("--name", required=True, help="Its name here.")
@_pool_option
@click.option("--format", "form", type=click.Choice(["qcow2", "raw", "vmdk", "tree"]), help="As the file says, if not.")
@click.option("--size", metavar="SIZE", help="Limit of a folder, where the pool has quotas.")
@click.option("--max-size", metavar="SIZE", help="Largest disk or folder it may become (default: 4TiB).")
@click.option("--upload", is_flag=True, help="Send the file to the daemon instead of its path.")
@silenceable
def import_volume(file: str, name: str, upload: bool, quiet: bool, form: str | None, **options: Any) -> None:
    """Make a volume of a folder, a tar archive, or a disk (qcow2, vmdk, raw)."""
    client = Client()
    path = Path(file).expanduser().absolute()
    sizes = {key: None if options[key] is None else parse_size(options[key]) for key in ("size", "max_size")}
    given = {"pool": options["pool"], "format": form, **sizes}
    if not upload:
        result = finish(client, client.volumes.import_path(name, str(path), **given), name, quiet=quiet)
    else:
        try:
            with path.open("rb") as opened:
                length = os.fstat(opened.fileno()).st_size
                operation = client.volumes.import_file(name, opened, length, **given)
                result = finish(client, operation, name, quiet=quiet)
        except OSError as error:
            raise Invalid("bad_path", f"can't read {path}: {error.strerror}", hint="Name a readable file.") from None
    if not quiet:
        print(clean(f"{name} is imported: a {result['kind']} in the pool {result['pool']}"))


@volume.command()
@_volume
@click.argument("file", type=click.Path())
@click.option("--format", "form", type=_FORMATS, help="Of a disk (default: as FILE's name ends, else as it is).")
@silenceable
def export(name: str, file: str, form: str | None, quiet: bool) -> None:
    """Write a volume to a new file: a folder as .tar, .tar.gz, .tar.xz or .tar.zst, a disk in any format."""
    client = Client()
    path = str(Path(file).expanduser().absolute())
    result = finish(client, client.volumes.export(name, path, form), name, quiet=quiet)
    for note in result["notes"]:
        print(clean(f"note: {note}"), file=sys.stderr)
    if not quiet:
        print(clean(f"{name} is exported to {path} ({format_size(result['size'])})"))


@volume.command("rm")
@click.argument("names", metavar="VOLUME...", nargs=-1, required=True, shell_complete=complete_volumes)
@confirmable
@silenceable
def remove(names: tuple[str, ...], yes: bool, quiet: bool) -> int:
    """Remove volumes that no instance uses, with all that is in them."""
    confirm(f"Remove {', '.join(names)} with all that is in them?", yes=yes)
    client = Client()
    codes = [0]
    for name in dict.fromkeys(names):
        try:
            finish(client, client.volumes.remove(name), name, cancel=False, quiet=quiet)
            if not quiet:
                print(f"{name} is removed")
        except TriuneError as error:
            codes.append(tell(error, name=name))
    return max(codes)


_COLUMNS = (
    Column("NAME", lambda row: row["name"]),
    Column("POOL", lambda row: row["pool"], keep=8),
    Column("KIND", lambda row: row["format"] or row["kind"]),
    Column("SIZE", lambda row: format_size(row["size"]), right=True),
    Column("USED", lambda row: format_size(row["used"]), right=True, keep=7),
    Column("AGE", lambda row: age(row["created"]), right=True, keep=4),
    Column("USED BY", lambda row: ", ".join(row["used_by"]) or "-", keep=6),
    Column("PROBLEM", lambda row: row["reason"] or "-", keep=3),
)
