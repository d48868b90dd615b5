"""`image`: build, pull, import, list, show, rm."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

import click

from triune.cli.listing import age, moment
from triune.cli.options import (
    complete_engines,
    complete_images,
    confirm,
    confirmable,
    formatted,
    quietable,
    silenceable,
)
from triune.cli.pairs import pairs
from triune.cli.problems import tell
from triune.cli.tables import Column, emit, structured
from triune.cli.text import clean, said
from triune.cli.waiting import finish
from triune.domain.errors import Invalid, TriuneError
from triune.domain.units import format_duration, format_size, parse_cpus, parse_size
from triune.sdk import Client

if TYPE_CHECKING:
    from triune.sdk.types import OperationRow

_image = click.argument("name", shell_complete=complete_images)


@click.group()
def image() -> None:
    """Build, pull, import, list and remove images."""


@image.command("list")
@formatted
@quietable
def list_images(form: str, quiet: bool) -> None:
    """List the images of this host."""
    emit(
        Client().images.list(),
        _COLUMNS,
        form=form,
        quiet="name" if quiet else None,
        empty="No images. Build one: triune image build debian/12",
    )


@image.command()
@_image
@formatted
def show(name: str, form: str) -> None:
    """Show an image and its forms."""
    found = Client().images.get(name)
    if form != "table":
        sys.stdout.write(structured(dict(found), form))
        return
    lines = [
        ("Name", found["name"]),
        ("Digest", found["digest"]),
        ("Created", moment(found["created"])),
        ("Source", found["source"]),
        ("Size", format_size(found["size"])),
        ("Used by", ", ".join(found["used_by"]) or "-"),
        *([("Packages", str(found["packages"]))] if found["packages"] else []),
        *([("SHA-256", found["sha256"])] if found["sha256"] else []),
        *(("Note", note) for note in found["notes"]),
        *(("Template", _template(row)) for row in found["templates"]),
    ]
    for label, value in lines:
        print(f"{label + ':':<10}{clean(value)}")
    for kind, form_facts in found["forms"].items():
        print(f"\n{kind}")
        for key, value in form_facts.items():
            if value not in (None, ""):
                text = format_size(value) if key in ("size", "virtual_size") else said(value)
                print(f"  {key + ':':<16}{clean(text)}")


@image.command()
@_image
@click.option("--package", "packages", metavar="NAME", multiple=True, help="A further package in it.")
@click.option("--size", metavar="SIZE", help="Size of the disk, like 10GiB.")
@click.option(
    "--kernel",
    type=click.Choice(["cloud", "generic"]),
    default="cloud",
    show_default=True,
    help="For VMs: virtio only, or every driver.",
)
@click.option(
    "--hostname-from-instance/--fixed-hostname",
    default=True,
    help="VMs and system containers have their instance's name inside, or all the same.",
)
@click.option("--mirror", metavar="URL", help="Another archive of packages.")
@click.option("--sources", metavar="FILE", help="Another sources file for apt.")
@click.option("--release", default="", metavar="NAME", help="What to build, where NAME is a name of your own.")
@click.option(
    "--disable", "disabled", metavar="UNIT", multiple=True, help="A unit of an added package, not started at boot."
)
@click.option("--rebuild", is_flag=True, help="Build it even if it is there.")
@silenceable
def build(
    name: str,
    size: str | None,
    packages: tuple[str, ...],
    sources: str | None,
    disabled: tuple[str, ...],
    quiet: bool,
    **options: Any,
) -> None:
    """Build NAME (debian/12 or debian/13) from packages, in a form for each engine."""
    _make(
        quiet,
        "built",
        name,
        lambda client: client.images.build(
            name,
            packages=list(packages),
            size=None if size is None else parse_size(size),
            sources=str(Path(sources).absolute()) if sources else None,
            disabled=list(disabled),
            **options,
        ),
    )


@image.command()
@click.argument("reference")
@click.option("--username", help="For a private registry.")
@click.option("--password-stdin", is_flag=True, help="Read the password from stdin.")
@silenceable
def pull(reference: str, username: str | None, password_stdin: bool, quiet: bool) -> None:
    """Pull an image from a registry: docker:NAME[:TAG].

    The password is read from stdin, from TRIUNE_REGISTRY_PASSWORD, or asked for; never from the command line.
    """
    password = _password(password_stdin) if username else None
    _make(
        quiet,
        "pulled",
        reference,
        lambda client: client.images.pull(reference, username=username, password=password),
    )


@image.command("import")
@click.argument("file")
@click.option("--name", required=True, metavar="FAMILY/VERSION", help="Its name here.")
@click.option(
    "--format", "form", metavar="FORMAT", help="qcow2, vmdk, raw, iso, tree or oci (default: as the file says)."
)
@click.option("--sha256", metavar="HEX", help="The sum that the file must have.")
@click.option(
    "--firmware", type=click.Choice(["bios", "uefi"]), default="bios", show_default=True, help="It boots with."
)
@click.option("--agent", is_flag=True, help="The system on the disk has the QEMU guest agent.")
@click.option("--cloud-init", is_flag=True, help="The system has cloud-init.")
@click.option("--max-size", metavar="SIZE", help="Largest disk or tree it may become (default: 4TiB).")
@click.option("--replace", is_flag=True, help="Take the name from another image.")
@click.option("--upload", is_flag=True, help="Send the file to the daemon instead of its path.")
@silenceable
def import_image(
    file: str, name: str, form: str | None, max_size: str | None, upload: bool, quiet: bool, **options: Any
) -> None:
    """Import a disk (qcow2, vmdk, raw), an installer (iso), a root tree (tar) or an OCI archive."""
    path = Path(file).absolute()
    given = {"format": form, "max_size": None if max_size is None else parse_size(max_size), **options}
    if not upload:
        _make(quiet, "imported", name, lambda client: client.images.import_path(name, str(path), **given))
        return
    try:
        with path.open("rb") as opened:
            length = os.fstat(opened.fileno()).st_size
            _make(quiet, "imported", name, lambda client: client.images.import_file(name, opened, length, **given))
    except OSError as error:
        raise Invalid("bad_path", f"can't read {path}: {error.strerror}", hint="Name a readable file.") from None


@image.command()
@_image
@click.option(
    "--engine", default="", metavar="ENGINE", help="kvm; else the first that can.", shell_complete=complete_engines
)
@click.option("--cpus", metavar="N", help="For instances with as many CPUs.")
@click.option("--memory", metavar="SIZE", help="For instances with as much memory.")
@click.option("-s", "--set", "settings", metavar="KEY=VALUE", multiple=True, help="For instances with this setting.")
@click.option("--remove", "remove_it", is_flag=True, help="Remove its templates instead.")
@silenceable
def warm(
    name: str,
    engine: str,
    cpus: str | None,
    memory: str | None,
    settings: tuple[str, ...],
    remove_it: bool,
    quiet: bool,
) -> None:
    """Boot an image once and keep it, idle, so that virtual machines start from it in a moment."""
    client = Client()
    if remove_it:
        client.images.cool(name)
        if not quiet:
            print(f"{name} is kept warm no more")
        return
    _make(
        quiet,
        "warm",
        name,
        lambda client: client.images.warm(
            name,
            engine=engine,
            cpus=None if cpus is None else parse_cpus(cpus),
            memory=None if memory is None else parse_size(memory),
            settings=pairs(settings, "--set"),
        ),
    )


@image.command("rm")
@click.argument("names", metavar="NAME...", nargs=-1, required=True, shell_complete=complete_images)
@confirmable
@silenceable
def remove(names: tuple[str, ...], yes: bool, quiet: bool) -> int:
    """Remove images that no instance uses."""
    confirm(f"Remove {', '.join(names)}?", yes=yes)
    client = Client()
    codes = [0]
    for name in dict.fromkeys(names):
        try:
            finish(client, client.images.remove(name), name, cancel=False, quiet=quiet)
            if not quiet:
                print(f"{name} is removed")
        except TriuneError as error:
            codes.append(tell(error, name=name))
    return max(codes)


def _make(quiet: bool, did: str, name: str, submit: Callable[[Client], OperationRow]) -> None:
    client = Client()
    begun = monotonic()
    result = finish(client, submit(client), name, quiet=quiet)
    if quiet:
        return
    made = (result or {}).get("name") or name
    size = (result or {}).get("size")
    print(clean(f"{made} is {did} ({format_size(size)}, {format_duration(monotonic() - begun)})"))


def _password(from_stdin: bool) -> str:
    if from_stdin:
        return sys.stdin.readline().rstrip("\r\n")
    from_environment = os.environ.get("TRIUNE_REGISTRY_PASSWORD")
    if from_environment is not None:
        return from_environment
    if not sys.stdin.isatty():
        raise Invalid(
            "password_needed",
            "a password is needed, and there is no terminal",
            hint="Use --password-stdin or TRIUNE_REGISTRY_PASSWORD.",
        )
    return str(click.prompt("Password", hide_input=True, err=True))


def _template(row: Mapping[str, Any]) -> str:
    said = f"{row['engine']}, {format_size(row['size'])}, made {moment(row['created'])}"
    return said if row["ready"] else f"{said}, not used: {row['why']}"


def _forms(row: Mapping[str, Any]) -> str:
    return ",".join(row["forms"]) or "-"


_COLUMNS = (
    Column("NAME", lambda row: row["name"]),
    Column("FORMS", _forms),
    Column("SIZE", lambda row: format_size(row["size"]), right=True),
    Column("AGE", lambda row: age(row["created"]), right=True, keep=5),
    Column("USED BY", lambda row: len(row["used_by"]) or "-", right=True, keep=6),
    Column("DIGEST", lambda row: row["digest"].removeprefix("sha256:")[:12], keep=3),
    Column("SOURCE", lambda row: row["source"], keep=2),
)
