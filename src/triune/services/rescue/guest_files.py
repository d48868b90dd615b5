"""Single files and folders out of a guest's disk, written to a folder of this host."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from triune.domain.errors import Conflict, Failed, TriuneError
from triune.host.beneath import Root
from triune.services.rescue.guest import Guest, GuestFile
from triune.services.rescue.names import Names

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
_MOST_SECONDS = 1 << 40


@dataclass(frozen=True, slots=True)
class Written:
    """One file that was written. `at` is its path below the folder, `sha256` of what was written (zeros for what is
    missing), `missing` the (offset, length) ranges that could not be read, `why` the first reason."""

    path: str
    at: str
    kind: str
    size: int
    sha256: str = ""
    missing: tuple[tuple[int, int], ...] = ()
    why: str = ""


def extract(guest: Guest, path: str, to: Path) -> Iterator[Written]:
    """Write a file, or a folder and all below it, into a folder, which is made. Nothing there is overwritten.

    Devices and pipes are left out. Names are made safe; links are written as links, and never followed.
    """
    to.mkdir(parents=True, exist_ok=True)
    above = path.strip("/").rpartition("/")[0]
    part, inside = guest.locate(path)
    if part is not None:
        above = f"{part.name}/{inside}".rstrip("/").rpartition("/")[0]
    with Root(to) as root:
        names = Names(lambda place, folder: root.exists(place, follow=False) and not folder)
        for found in _readable(guest, path):
            wished = found.path.removeprefix(above).strip("/")
            if wished and found.kind != "other":
                yield _write(guest, found, wished, root, names)


def _readable(guest: Guest, path: str) -> Iterator[GuestFile]:
    """Everything below a path; of the disk's top, only the parts that can be read."""
    if path.strip("/"):
        yield from guest.walk(path)
        return
    for part in guest.readable:
        yield from guest.walk(part.name)


def _write(guest: Guest, found: GuestFile, wished: str, root: Root, names: Names) -> Written:
    try:
        if found.kind == "folder":
            place = names.folder(wished)
            root.mkdirs(place)
            return Written(found.path, place, found.kind, 0)
        place = names.file(wished, found.path)
        root.mkdirs(place.rpartition("/")[0])
        if found.kind == "link":
            root.symlink(place, found.target)
            return Written(found.path, place, found.kind, 0)
        return _copy(guest, found, place, root)
    except OSError as error:
        if error.errno == errno.EEXIST:
            raise Conflict("exists", f"{wished!r} is there already", hint="Name an empty folder.") from None
        raise Failed(
            "not_written", f"{wished!r} can't be written: {error.strerror}", hint="Is the disk full?"
        ) from None


def _copy(guest: Guest, found: GuestFile, place: str, root: Root) -> Written:
    digest, missing, why = hashlib.sha256(), [], ""
    fd = root.open(place, _NEW, 0o600)
    try:
        reader = guest.open(found.path)
        size = reader.size
        os.ftruncate(fd, size)
        for offset, data in reader.chunks():
            if isinstance(data, str):
                length = min(4096, size - offset)
                why = why or data
                missing.append((offset, length))
                data = bytes(length)  # noqa: PLW2901
            elif data.count(0) != len(data):
                _put(fd, data, offset)
            digest.update(data)
        os.fchmod(fd, 0o600 | found.mode & 0o777)
        if 0 <= found.modified < _MOST_SECONDS:
            with suppress(OSError, OverflowError):
                os.utime(fd, (found.modified, found.modified))
    except TriuneError:
        root.unlink(place)
        raise
    finally:
        os.close(fd)
    return Written(found.path, place, "file", size, digest.hexdigest(), _merged(missing), why)


def _put(fd: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        done = os.pwrite(fd, view, offset)
        view, offset = view[done:], offset + done


def _merged(ranges: list[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    found: list[tuple[int, int]] = []
    for offset, length in ranges:
        if found and sum(found[-1]) == offset:
            found[-1] = (found[-1][0], found[-1][1] + length)
        else:
            found.append((offset, length))
    return tuple(found)
