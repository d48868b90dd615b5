"""`rescue mount` and `rescue umount`: a volume as a folder here."""

from __future__ import annotations

from pathlib import Path

import click

from triune.cli.rescue.sources import deleted_option, opened, session_option, volume_option
from triune.cli.text import clean
from triune.host.fuse import Content, release


@click.command()
@click.argument("sources", metavar="SOURCE...", nargs=-1, required=True)
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@deleted_option
@click.option("-a", "--all", "system", is_flag=True, help="The volume's own files (.fbb.sf …) too.")
@volume_option
@session_option
@click.option("--foreground", is_flag=True, help="Stay until it is unmounted.")
def mount(
    sources: tuple[str, ...],
    folder: Path,
    deleted: bool,
    system: bool,
    only: str | None,
    session: Path | None,
    foreground: bool,
) -> int:
    """Show the files of the volumes on SOURCE... as a read-only folder here, until `triune rescue umount DIR`.

    Bytes that are missing can't be read (EIO) rather than pass for zeros. Holes stay holes for programs that ask, like
    cp --sparse=always and qemu-img. Any user may do it who may read the sources; it takes fusermount3.
    """
    from triune.cli.rescue.serving import show

    def tree() -> Content:
        from triune.services.rescue.mount import VolumeTree

        with opened(sources, session, only, deleted=deleted) as volumes:
            return VolumeTree(volumes, deleted=deleted, system=system)

    if not foreground:
        return _told(show(tree, folder, name=f"triune:{sources[0]}"), folder)
    return show(tree, folder, name=f"triune:{sources[0]}", foreground=True)


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
def umount(folder: Path) -> None:
    """Take a mounted volume's folder away."""
    release(folder)


def _told(status: int, folder: Path) -> int:
    if status == 0:
        print(clean(f"it is at {folder}; take it away: triune rescue umount {folder}"))
    return status
