"""`rescue extract`: files of a volume into a folder here."""

from __future__ import annotations

import sys
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, Literal

import click

from triune.cli.options import silenceable
from triune.cli.rescue.metering import metered
from triune.cli.rescue.sources import apart, deleted_option, opened, session_option, volume_option
from triune.cli.tables import structured
from triune.cli.text import clean
from triune.domain.rescue import Status
from triune.domain.units import format_duration, format_size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from triune.services.rescue.extract import Result
    from triune.services.rescue.manifest import Entry

_TOLD = 20


@click.command()
@click.argument("arguments", metavar="SOURCE... [PATTERN...]", nargs=-1, required=True)
@click.option("--to", "folder", required=True, metavar="DIR", type=click.Path(path_type=Path), help="Where to.")
@click.option(
    "--status",
    "statuses",
    multiple=True,
    type=click.Choice([str(status) for status in Status]),
    help="Only files of this status; may be repeated.",
)
@deleted_option
@click.option("-a", "--all", "system", is_flag=True, help="The volume's own files (.fbb.sf …) too.")
@click.option(
    "--verify/--no-verify", default=True, help="Read what was written a second time and compare.", show_default=True
)
@click.option(
    "--check-space/--no-check-space",
    default=True,
    show_default=True,
    help="Begin only where all data fit; zeros among them take nothing in the end.",
)
@click.option(
    "--hash",
    "hashing",
    type=click.Choice(("auto", "sha256", "merkle", "none")),
    default="auto",
    show_default=True,
    help="In the manifest: SHA-256 up to 1 TiB and a tree hash beyond, or one of them for all files.",
)
@volume_option
@session_option
@click.option("--format", "form", type=click.Choice(("text", "json")), default="text", help="How to print it.")
@silenceable
def extract(
    arguments: tuple[str, ...],
    folder: Path,
    statuses: tuple[str, ...],
    deleted: bool,
    system: bool,
    verify: bool,
    check_space: bool,
    hashing: Literal["auto", "sha256", "merkle", "none"],
    only: str | None,
    session: Path | None,
    form: str,
    quiet: bool,
) -> int:
    """Write files of the volumes on SOURCE... into a folder: holes as holes, every file hashed and read twice.

    A PATTERN is a file, a folder, or a pattern like '*.vmx' of names or 'vm1/*' of paths; without one, everything is
    written. Of what follows the first SOURCE, what exists on this host is a source too: begin a PATTERN with `:` where
    it does. The same command goes on where it was stopped.

    DIR/manifest.json tells of each file its size, SHA-256, status, and which ranges are missing. Ends with 1 where
    anything came out in part.
    """
    from triune.services.rescue.extract import extract as write
    from triune.services.rescue.selecting import select

    sources, patterns = apart(arguments)
    wanted = [Status(status) for status in statuses]
    deleted = deleted or Status.DELETED in wanted
    begun = monotonic()
    with (
        opened(sources, session, only, deleted=deleted) as volumes,
        metered(quiet=quiet or form == "json") as meter,
    ):
        chosen = list(select(volumes, patterns, statuses=wanted, deleted=deleted, system=system))
        # All of a volume was asked for, and nothing of it is left.
        lost = not (chosen or patterns or wanted) and any(each.volume.damages() for each in volumes)
        result = write(
            chosen,
            folder,
            sources=sources,
            verify=verify,
            hashing=hashing,
            check_space=check_space,
            meter=meter,
        )
    if form == "json":
        told = {"folder": str(folder), "written": result.written, "files": list(result.entries)}
        sys.stdout.write(structured(told, "json"))
    else:
        _tell(result, folder, monotonic() - begun, quiet)
    return 0 if result.whole and not lost else 1


def _tell(result: Result, folder: Path, seconds: float, quiet: bool) -> None:
    for one in result.lacking[:_TOLD]:
        print(clean(f"{one['path']}: {_lack(one)}"), file=sys.stderr)
    if len(result.lacking) > _TOLD:
        print(f"and {len(result.lacking) - _TOLD} more: see the manifest", file=sys.stderr)
    for one in result.entries:
        if "left_out" in one:
            print(clean(f"{one['path']}: not written: {one['left_out']}"), file=sys.stderr)
    if quiet:
        return
    files = f"{len(result.entries)} file{'s' * (len(result.entries) != 1)}"
    how = ", ".join(f"{count} {status}" for status, count in _counted(result.entries).items())
    print(
        clean(
            f"{files} in {folder} ({how or 'nothing to do'}), {format_size(result.written)} written in "
            f"{format_duration(seconds)}; {folder / 'manifest.json'} tells of each"
        )
    )


def _lack(one: Entry) -> str:
    if "failed" in one:
        return f"failed: {one['failed']}"
    lost = sum(length for _, length in one["missing"])
    if not lost:
        return f"{one['status']}: {', '.join(one['reasons']) or 'nothing else vouches for its content'}"
    ranges = "1 range" if len(one["missing"]) == 1 else f"{len(one['missing'])} ranges"
    return f"{one['status']}: {format_size(lost)} of {format_size(one['size'])} missing, in {ranges}"


def _counted(entries: Sequence[Entry]) -> dict[str, int]:
    counted: dict[str, Any] = {}
    for one in entries:
        status = "failed" if "failed" in one else str(one["status"])
        counted[status] = counted.get(status, 0) + 1
    return counted
