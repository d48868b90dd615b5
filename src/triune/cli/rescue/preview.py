"""`rescue preview`: a first look at a file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from triune.cli.rescue.places import Place, placed
from triune.cli.rescue.sources import session_option, volume_option
from triune.cli.tables import Column, emit
from triune.cli.text import clean, colours, paint
from triune.domain.units import format_size

if TYPE_CHECKING:
    from collections.abc import Mapping

    from triune.services.rescue.preview import PartShown

_LINES = 40


@click.command()
@click.argument("arguments", metavar="[SOURCE...] FILE", nargs=-1, required=True)
@click.option("--as", "how", type=click.Choice(("auto", "hex", "text", "disk")), default="auto", show_default=True,
              help="How to look at it.")  # fmt: skip
@click.option("--offset", type=click.IntRange(0), default=0, metavar="BYTES", help="With hex: begin there.")
@click.option("--lines", type=click.IntRange(1, 10_000), default=_LINES, show_default=True, help="How many lines.")
@volume_option
@session_option
def preview(
    arguments: tuple[str, ...], how: str, offset: int, lines: int, only: str | None, session: Path | None
) -> None:
    """Show what a file is and how it begins: a VMX as a table, text as text, a disk's partitions and the top folders of
    its file systems, an image's measure, anything else in hexadecimal.

    FILE is one of this host, or a path on the volumes of SOURCE....
    """
    from triune.services.rescue.preview import as_text, head_of, picture

    with placed(arguments, session, only) as place:
        content = place.folder.open(place.name)
        head = head_of(content)
        lower = place.name.lower()
        if how == "hex" or (how == "auto" and not head):
            _hex(place, offset, lines)
        elif how == "disk" or (how == "auto" and (lower.endswith(".vmdk") or _is_disk(head))):
            _disk(place)
        elif how == "auto" and lower.endswith((".vmx", ".vmtx", ".vmsd")):
            _settings(place)
        elif how == "auto" and (seen := picture(head)):
            print(f"{seen.kind} image, {seen.width} x {seen.height} pixels, {format_size(content.size)}")
        elif (text := as_text(head)) is not None or how == "text":
            _text(text if text is not None else head.decode("latin-1"), lines, content.size > len(head))
        else:
            _hex(place, offset, lines)


def _is_disk(head: bytes) -> bool:
    import io

    from triune.disks.detect import Content, detect

    found = detect(io.BytesIO(head))
    disks = (Content.QCOW2, Content.VMDK, Content.VDI, Content.VHD, Content.VHDX)
    return found.content in disks or found.partitions is not None


def _title(text: str) -> None:
    print(paint(text, "bold", colours(sys.stdout)))


def _disk(place: Place) -> None:
    from triune.services.rescue.preview import facts_of, parts_of

    with place.disk() as disk:
        emit([{"key": key, "value": value} for key, value in facts_of(disk)], _PAIRS)
        parts, problems = parts_of(disk)
        for sentence in (*problems, *disk.damages()):
            print(f"{paint('warning:', 'yellow', colours(sys.stdout))} {clean(sentence)}")
    for part in parts:
        print()
        _title(clean(_part(part)))
        if part.why:
            print(clean(part.why))
        for name in part.names:
            print(f"  {clean(name)}")
        if part.more:
            print(f"  and {part.more} more")


def _part(part: PartShown) -> str:
    where = f" at {format_size(part.start)}" if part.start is not None else ""
    label = f" {part.label!r}" if part.label else ""
    return f"{part.name}: {part.holds or 'nothing known'}{label}, {format_size(part.size)}{where} ({part.type})"


def _settings(place: Place) -> None:
    from triune.disks.vmx import LARGEST, Vmx
    from triune.services.rescue.verify import bytes_of

    vmx = Vmx.parse(bytes_of(place.folder, place.name, LARGEST))
    rows: list[Mapping[str, Any]] = [{"key": key, "value": value} for key, value, _ in vmx.items()]
    emit(rows, _PAIRS, empty="No settings.")
    if vmx.encrypted:
        print("The settings are encrypted: more can be read only with the password.", file=sys.stderr)


def _text(text: str, lines: int, cut: bool) -> None:
    found = text.splitlines()
    for line in found[:lines]:
        print(clean(line.expandtabs()))
    if len(found) > lines or cut:
        print(paint("…", "dim", colours(sys.stdout)))


def _hex(place: Place, offset: int, lines: int) -> None:
    from triune.disks.content import read
    from triune.services.rescue.preview import hexdump

    content = place.folder.open(place.name)
    for line in hexdump(read(content, offset, lines * 16), offset, lines * 16):
        print(line)


_PAIRS = (
    Column("SETTING", lambda one: one["key"]),
    Column("VALUE", lambda one: one["value"]),
)
