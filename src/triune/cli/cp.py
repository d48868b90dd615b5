"""`cp`: files into and out of instances. What comes out of one is unpacked as what a stranger sent."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic
from typing import BinaryIO

import click

from triune.cli.options import complete_ends, silenceable
from triune.cli.progress import Progress
from triune.cli.text import clean
from triune.domain.errors import Conflict, Failed, Invalid, NotFound
from triune.domain.files import inside_path, split
from triune.domain.operation import Silent
from triune.domain.units import format_duration, format_size
from triune.host import treetar, untar
from triune.sdk import Client

_CHUNK = 1 << 18
_REDRAW = 0.1
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


@click.command()
@click.argument("source", metavar="SRC", shell_complete=complete_ends)
@click.argument("target", metavar="DST", shell_complete=complete_ends)
@click.option("-a", "--archive", is_flag=True, help="Keep owners, and setuid bits of what comes out.")
@silenceable
def cp(source: str, target: str, archive: bool, quiet: bool) -> None:
    """Copy files between this machine and an instance.

    One of SRC and DST is NAME:/path, the other a path here, or - for a tar stream. Folders are copied with all that is
    in them; SRC/. is what is in a folder, without the folder. Links stay links, holes stay holes.
    """
    ends = _end(source), _end(target)
    if (ends[0][0] is None) == (ends[1][0] is None):
        raise click.UsageError("one of SRC and DST must be NAME:/path, and the other a path here")
    begun = monotonic()
    with Progress(steps=False, quiet=quiet) as progress:
        meter = _Meter(progress, ends[0][0] or ends[1][0] or "")
        if ends[0][0] is not None:
            skipped = _out(ends[0][0], inside_path(ends[0][1]), target, archive, meter)
        else:
            skipped = _into(source, ends[1][0] or "", inside_path(ends[1][1]), archive, meter)
    if skipped:
        print(f"{skipped} device nodes were left out", file=sys.stderr)
    if not quiet and target != "-":
        took = format_duration(monotonic() - begun)
        print(clean(f"{source} is copied to {target} ({format_size(meter.done)}, {took})"))


class _Meter:
    """Counts bytes and shows them."""

    def __init__(self, progress: Progress, name: str) -> None:
        self.done = 0
        self.total: int | None = None
        self._progress = progress
        self._name = name
        self._begun = monotonic()
        self._drawn = 0.0

    def count(self, size: int) -> None:
        """So many more."""
        self.done += size
        now = monotonic()
        if now - self._drawn > _REDRAW:
            self._drawn = now
            speed = format_size(int(self.done / max(now - self._begun, 0.001)))
            share = min(1.0, self.done / self.total) if self.total else None
            self._progress.update(self._name, f"{format_size(self.done)}, {speed}/s", share)

    def counted(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        """The pieces, counted."""
        for piece in pieces:
            self.count(len(piece))
            yield piece


def _end(text: str) -> tuple[str | None, str]:
    """(instance, path) of NAME:/path, or (None, path) of a path here."""
    name, colon, path = text.partition(":")
    if not colon or not name or "/" in name or text.startswith((".", "~")):
        return None, text
    return name, path


def _out(name: str, path: str, target: str, archive: bool, meter: _Meter) -> int:
    client = Client()
    found = client.instances.file_stat(name, path)
    meter.total = found["size"] if found["kind"] == "file" else None
    if target == "-":
        for piece in meter.counted(client.instances.read_files(name, path)):
            sys.stdout.buffer.write(piece)
        return 0
    _, entry = split(path)
    folder, top = _place(Path(target).expanduser(), entry, is_folder=found["kind"] == "folder", slash=target[-1] == "/")
    owner = untar.own_ids if archive and os.geteuid() == 0 else None
    policy = untar.Policy(owner=owner, mode=0o7777 if archive else 0o777, top=top)
    fd = os.open(folder, _FOLDER)
    try:
        pieces = meter.counted(client.instances.read_files(name, path))
        return untar.unpack(untar.Pieces(pieces), fd, policy, Silent()).skipped
    except OSError as error:
        raise _local(folder, error) from None
    finally:
        os.close(fd)


def _place(target: Path, entry: str, *, is_folder: bool, slash: bool) -> tuple[Path, str | None]:
    """The folder to unpack into, and the name there; None: the names of what is in the source."""
    if target.is_dir():
        return target, None if entry == "." else entry
    if entry == "." and not target.exists():
        try:
            target.mkdir()
        except OSError as error:
            raise _local(target, error) from None
        return target, None
    if slash or not target.parent.is_dir():
        missing = target if slash else target.parent
        raise NotFound("no_folder", f"there is no folder {missing}", hint=f"Make it: mkdir -p {missing}")
    if target.exists() and is_folder:
        raise Conflict("not_a_folder", f"{target} is no folder, and the source is one", hint="Give another target.")
    return target.parent, target.name


def _into(source: str, name: str, path: str, archive: bool, meter: _Meter) -> int:
    client = Client()
    if source == "-":
        client.instances.write_files(name, path, meter.counted(_read(sys.stdin.buffer)))
        return 0
    here = Path(source).expanduser()
    contents = source.endswith("/.") or here.name in ("", "..")
    ids: treetar.Ids | None = (lambda uid, gid: (uid, gid)) if archive else None
    folder = here if contents else here.parent
    entry = "." if contents else here.name
    try:
        fd = os.open(folder, _FOLDER)
    except OSError as error:
        raise _local(folder, error) from None
    try:
        is_folder = contents or (here.is_dir() and not here.is_symlink())
        os.stat(entry, dir_fd=fd, follow_symlinks=False)
        where, as_name = _place_inside(client, name, path, "" if contents else entry, is_folder=is_folder)
        meter.total = treetar.size(fd, entry)
        client.instances.write_files(name, where, treetar.stream(fd, entry, as_name, ids=ids, told=meter.count))
    except OSError as error:
        raise _local(here, error) from None
    finally:
        os.close(fd)
    return 0


def _place_inside(client: Client, name: str, path: str, entry: str, *, is_folder: bool) -> tuple[str, str]:
    """The folder inside to unpack into, and the name there; "": those of what is in the source."""
    try:
        found = client.instances.file_stat(name, path)
    except NotFound as error:
        if error.code != "path_not_found" or path.endswith("/"):
            raise
        return split(path)
    if found["folder"]:
        return path, entry
    if is_folder:
        said = f"{path} in {name} is no folder, and the source is one"
        raise Conflict("not_a_folder", said, hint="Give another target.")
    return split(path)


def _read(file: BinaryIO) -> Iterator[bytes]:
    read: Callable[[], bytes] = lambda: file.read(_CHUNK)  # noqa: E731
    return iter(read, b"")


def _local(path: Path, error: OSError) -> Exception:
    where = error.filename or path
    if isinstance(error, FileNotFoundError):
        return NotFound("no_file", f"there is no {where} here", hint="See: ls -la")
    if isinstance(error, NotADirectoryError):
        return Invalid("not_a_folder", f"{where} is no folder", hint="Name a folder.")
    return Failed("cp_failed", f"{where}: {error.strerror}", hint="Look at its rights, and at the space left: df -h")
