"""`rescue mount` and `rescue umount`: a volume as a folder here."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import click

from triune.cli.rescue.sources import deleted_option, opened, session_option, volume_option
from triune.cli.text import clean
from triune.host.fuse import Content, release


@click.command()
@click.argument("sources", metavar="SOURCE...", nargs=-1, required=True)
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--disk", is_flag=True, help="Show what is in a guest's disk: the last SOURCE, here or on a volume.")
@deleted_option
@click.option("-a", "--all", "system", is_flag=True, help="The volume's own files (.fbb.sf …) too.")
@volume_option
@session_option
@click.option("--foreground", is_flag=True, help="Stay until it is unmounted.")
def mount(
    sources: tuple[str, ...],
    folder: Path,
    disk: bool,
    deleted: bool,
    system: bool,
    only: str | None,
    session: Path | None,
    foreground: bool,
) -> int:
    """Show the files of the volumes on SOURCE... as a read-only folder here, until `triune rescue umount DIR`.

    Bytes that are missing can't be read (EIO) rather than pass for zeros. Holes stay holes for programs that ask, like
    cp --sparse=always and qemu-img. Any user may do it who may read the sources; it takes fusermount3.

    \b
    triune rescue mount datastore.img /mnt
    triune rescue mount --disk web.vmdk /mnt
    triune rescue mount --disk datastore.img web/web.vmdk /mnt
    """
    from triune.cli.rescue.serving import show

    def tree() -> Content:
        from triune.services.rescue.mount import VolumeTree

        with opened(sources, session, only, deleted=deleted) as volumes:
            return VolumeTree(volumes, deleted=deleted, system=system)

    with ExitStack() as stack:

        def guest() -> Content:
            from triune.cli.rescue.places import placed
            from triune.services.rescue.guest import Guest
            from triune.services.rescue.guest_tree import GuestTree

            place = stack.enter_context(placed(sources, session, only))
            return GuestTree(Guest(stack.enter_context(place.disk()).source))

        make = guest if disk else tree
        if not foreground:
            return _told(show(make, folder, name=f"triune:{sources[0]}"), folder)
        return show(make, folder, name=f"triune:{sources[0]}", foreground=True)


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
def umount(folder: Path) -> None:
    """Take a mounted volume's folder away."""
    release(folder)


def _told(status: int, folder: Path) -> int:
    if status == 0:
        print(clean(f"it is at {folder}; take it away: triune rescue umount {folder}"))
    return status
