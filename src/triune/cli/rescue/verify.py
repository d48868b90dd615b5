"""`rescue verify`: whether a machine's file is whole, and descriptors mended in extracted copies."""

from __future__ import annotations

import difflib
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import click

from triune.cli.options import formatted
from triune.cli.problems import warn
from triune.cli.rescue.places import Place, placed
from triune.cli.rescue.sources import session_option, volume_option
from triune.cli.tables import structured
from triune.cli.text import clean, colours, paint, width

if TYPE_CHECKING:
    from collections.abc import Iterator

    from triune.services.rescue.descriptors import Proposal
    from triune.services.rescue.verify import Finding

_COLOURS = {"ok": "green", "warning": "yellow", "bad": "red"}
_STATE = len("warning")
_NARROWEST = 30


@click.command()
@click.argument("arguments", metavar="[SOURCE...] FILE", nargs=-1, required=True)
@click.option("--repair", is_flag=True, help="Show what a VMDK's descriptor should say where it is lost or wrong.")
@click.option("--apply", "write", is_flag=True, help="With --repair: write it, in an extracted copy on this host.")
@click.option(
    "--parent", metavar="NAME", default="", help="With --repair: the parent's descriptor, where nothing tells."
)
@volume_option
@session_option
@formatted
def verify(
    arguments: tuple[str, ...],
    repair: bool,
    write: bool,
    parent: str,
    only: str | None,
    session: Path | None,
    form: str,
) -> int:
    """Tell whether a disk or another file of a machine is whole.

    FILE is one of this host, or a path on the volumes of SOURCE.... Of a disk: the descriptor against its extents, the
    chain of parents with their CIDs, holes and missing bytes, the guest's partition table and file systems. Of a VMX:
    its lines, and whether the files it names are there. Also .vmsd, .nvram and vmware.log. Ends with 1 where anything
    is bad.

    \b
    triune rescue verify web.vmdk
    triune rescue verify datastore.img web/web.vmdk
    triune rescue verify web.vmdk --repair --apply
    """
    if write and not repair:
        raise click.UsageError("--apply goes with --repair")
    if repair:
        return _repair(arguments, session, only, write, parent)
    with placed(arguments, session, only) as place:
        findings = list(_findings(place))
    rows = [{"level": str(each.level), "what": each.what, "text": each.text} for each in findings]
    sys.stdout.write(_table(rows) if form == "table" else structured(rows, form))
    return 1 if any(row["level"] == "bad" for row in rows) else 0


def _findings(place: Place) -> Iterator[Finding]:
    from triune.domain.rescue import Status
    from triune.services.rescue.verify import Finding, Level, verify_descriptor, verify_disk, verify_file

    if place.found is not None:
        good = place.found.status in (Status.INTACT, Status.RECOVERED)
        text = ", ".join([str(place.found.status), *place.found.reasons])
        yield Finding(Level.OK if good else Level.WARNING, "on the volume", text)
    told = verify_file(place.folder, place.name)
    if told is not None:
        yield from told
        return
    with place.disk() as disk:
        findings = list(verify_disk(disk))
    yield from findings
    if place.name.lower().endswith(".vmdk") and not any(each.level == Level.BAD for each in findings):
        yield from verify_descriptor(place.folder, place.name)


def _repair(arguments: tuple[str, ...], session: Path | None, only: str | None, write: bool, parent: str) -> int:
    from triune.domain.errors import Denied
    from triune.services.rescue.descriptors import apply, propose
    from triune.services.rescue.folders import HostFolder

    if len(arguments) == 1 and session is None:
        # The descriptor itself may be missing: only its folder has to be there.
        path = Path(arguments[0])
        real = path.resolve() if path.exists() else path.absolute()
        with HostFolder(real.parent) as folder:
            proposal = propose(folder, real.name, parent)
        _show(proposal)
        if proposal is not None and write:
            kept = apply(real, proposal)
            print(clean(f"written: {path}" + (f"; what it was: {kept}" if proposal.before else "")))
        return 0
    if write:
        raise Denied("source_unchanged", "sources are never written to", hint="Extract the disk, and repair the copy.")
    with placed(arguments, session, only) as place:
        _show(propose(place.folder, place.name, parent))
    return 0


def _show(proposal: Proposal | None) -> None:
    if proposal is None:
        print("Nothing to repair in the descriptor.", file=sys.stderr)
        return
    for sentence in proposal.why:
        warn(f"{proposal.name}: {sentence}")
    before = proposal.before.text.splitlines() if proposal.before else []
    colour = colours(sys.stdout)
    for line in difflib.unified_diff(before, proposal.after.text.splitlines(), "now", "repaired", lineterm=""):
        mark = "green" if line.startswith("+") else "red" if line.startswith("-") else ""
        print(paint(clean(line), mark, colour))


def _table(rows: list[dict[str, str]]) -> str:
    """Findings in whole sentences: what is too long for the terminal goes on in the next line."""
    colour, columns = colours(sys.stdout), width(sys.stdout)
    least = max(len("OF"), *(len(clean(row["what"])) for row in rows)) if rows else 2
    lead = _STATE + 2 + least + 2
    room = max(_NARROWEST, columns - lead) if columns else 1 << 20
    text = [f"{'STATE':<{_STATE}}  {'OF':<{least}}  WHAT WAS FOUND"]
    for row in rows:
        state = paint(f"{row['level']:<{_STATE}}", _COLOURS[row["level"]], colour)
        first, *more = textwrap.wrap(clean(row["text"]), room) or [""]
        text.append(f"{state}  {clean(row['what']):<{least}}  {first}")
        text += [f"{'':<{lead}}{line}" for line in more]
    return "\n".join(text) + "\n"
