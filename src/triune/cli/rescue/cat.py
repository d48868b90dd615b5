"""`rescue cat`: a file's bytes on standard output."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from triune.cli.rescue.sources import opened, session_option, volume_option, with_path

_BLOCK = 1 << 20


@click.command()
@click.argument("arguments", metavar="SOURCE... PATH", nargs=-1, required=True)
@click.option("--offset", type=click.IntRange(0), default=0, metavar="BYTES", help="Begin there.")
@click.option("--length", type=click.IntRange(0), metavar="BYTES", help="Only so many.")
@volume_option
@session_option
def cat(arguments: tuple[str, ...], offset: int, length: int | None, only: str | None, session: Path | None) -> None:
    """Write a file of a volume to standard output; the last argument is its path.

    Ends with an error at the first bytes that are missing: extract writes what is left of such a file.
    """
    from triune.disks.content import read
    from triune.services.rescue.selecting import file

    sources, path = with_path(arguments)
    with opened(sources, session, only) as volumes:
        one = file(path, volumes)
        content = one.named.volume.open(one.found)
        end = content.size if length is None else min(content.size, offset + length)
        while offset < end:
            data = read(content, offset, min(_BLOCK, end - offset))
            sys.stdout.buffer.write(data)
            offset += len(data)
    sys.stdout.buffer.flush()
