"""Unpacking a root tarball that somebody else made.

Every entry is created through the descriptor of its folder, and no component of its path is ever followed where it is a
symbolic link: what the archive holds cannot reach anything outside the tree. Refused: absolute paths, `..`, hard links
to what is not a regular file of the archive, more entries or bytes than allowed, headers that would fill the memory.
Left out: device nodes (the engine makes them) and extended attributes but file capabilities.
"""

from __future__ import annotations

import errno
import os
import stat
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from lzma import LZMAError
from pathlib import Path
from typing import IO, BinaryIO, cast

from triune.domain.errors import Invalid
from triune.domain.operation import Progress
from triune.domain.units import format_size
from triune.host.beneath import Root
from triune.services.images.streams import decompressed

_MAX_ENTRIES = 2_000_000
_MAX_DEPTH = 128
# What lies before an entry's data: long names, attributes, maps of sparse files. tarfile reads it whole.
_MAX_HEADERS = 4 << 20
_MAX_GLOBALS = 64
_READ_AHEAD = 64 << 10
_CHUNK = 1 << 20
_KEPT_ATTRIBUTES = ("SCHILY.xattr.security.capability",)
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(slots=True)
class Unpacked:
    """What came out. `skipped` counts device nodes left out."""

    entries: int = 0
    size: int = 0
    skipped: int = 0


@contextmanager
def opened(path: Path, *, whole: bool = True) -> Iterator[Archive]:
    """The archive as a stream, compressed or not. Raises Invalid("corrupt_archive", "unsafe_archive").

    With `whole` the caller reads all of it, and its end is checked.
    """
    try:
        with decompressed(path) as stream:
            watched = _Watched(stream)
            with tarfile.open(fileobj=cast(BinaryIO, watched), mode="r|", errorlevel=2) as archive:
                yield Archive(archive, watched)
                if whole and not watched.ended_well():
                    raise EOFError("its end is missing")
    except (tarfile.TarError, EOFError, zlib.error, LZMAError, ValueError, OverflowError, RecursionError) as error:
        raise corrupt(str(error)) from error
    except OSError as error:
        # gzip and bz2 tell of damage by an OSError without a number.
        if error.errno is None:
            raise corrupt(str(error)) from error
        raise


class Archive:
    """An open archive: its entries one after the other, none of them kept."""

    def __init__(self, archive: tarfile.TarFile, watched: _Watched) -> None:
        self._archive = archive
        self._watched = watched

    @property
    def position(self) -> int:
        """Where the next entry begins, in bytes of the unpacked archive."""
        return self._archive.offset

    def __iter__(self) -> Iterator[tarfile.TarInfo]:
        while True:
            self._watched.allow(self._archive.offset + _MAX_HEADERS)
            member = self._archive.next()
            if member is None:
                return
            self._watched.allow(self._archive.offset)
            # tarfile keeps a list for those who ask by name: gigabytes, for millions of entries.
            self._archive.members = []  # type: ignore[attr-defined]
            if len(self._archive.pax_headers) > _MAX_GLOBALS:
                raise _unsafe("it has too many global headers")
            yield member

    def content(self, member: tarfile.TarInfo) -> IO[bytes] | None:
        """The data of the entry that came last."""
        return self._archive.extractfile(member)


class _Watched:
    """Reads no further than allowed, and remembers the end of what was read: an archive cut off between two entries
    looks complete otherwise."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._tail = b""
        self._taken = 0
        self._limit = _MAX_HEADERS

    def allow(self, position: int) -> None:
        """Let what lies before this position be read, and what tarfile reads ahead."""
        self._limit = position + _READ_AHEAD

    def read(self, size: int) -> bytes:
        if self._taken > self._limit:
            raise _unsafe("the headers of an entry are too large")
        data = self._stream.read(size)
        self._taken += len(data)
        if data:
            self._tail = data[-512:]
        return data

    def ended_well(self) -> bool:
        """Whether the last block is the zeros that end an archive."""
        return self._tail.count(0) == len(self._tail)


def corrupt(why: str) -> Invalid:
    """The error for an archive that can't be read."""
    return Invalid("corrupt_archive", f"the archive is damaged or cut off: {why}", hint="Fetch or make it again.")


def unpack(path: Path, target: Path, max_size: int, progress: Progress) -> Unpacked:
    """Unpack into `target` (an existing empty folder). Owners, modes and times are kept."""
    done = Unpacked()
    times: list[tuple[tuple[str, ...], float]] = []
    top = os.open(target, _FOLDER)
    try:
        with opened(path) as archive:
            for member in archive:
                done.entries += 1
                if done.entries > _MAX_ENTRIES:
                    raise _unsafe(f"it has more than {_MAX_ENTRIES} entries")
                if done.entries % 256 == 0:
                    progress.report(None, f"unpacked {format_size(done.size)}")
                done.size += max(0, member.size)
                if done.size > max_size:
                    raise Invalid(
                        "too_large",
                        f"the archive unpacks to more than {format_size(max_size)}",
                        hint="Allow more with --max-size, if you trust it.",
                    )
                _place(top, archive, member, done, progress)
                if member.isdir():
                    times.append((_parts(member.name), member.mtime))
        for parts, when in reversed(times):
            _touch(top, parts, when)
    finally:
        os.close(top)
    if done.entries == 0:
        raise corrupt("it is empty")
    return done


def find_init(tree: Path) -> str | None:
    """The init program of an unpacked tree, its links resolved inside it."""
    with Root(tree) as root:
        for path in ("/sbin/init", "/usr/sbin/init", "/lib/systemd/systemd", "/usr/lib/systemd/systemd", "/init"):
            if root.exists(path):
                return path
    return None


def has_program(tree: Path, path: str) -> bool:
    """Whether a program is in the tree, its links resolved inside it."""
    with Root(tree) as root:
        return root.exists(path)


def _parts(name: str) -> tuple[str, ...]:
    if name.startswith("/"):
        raise _unsafe(f"it has the absolute path {name[:200]!r}")
    parts = tuple(part for part in name.split("/") if part not in ("", "."))
    if ".." in parts:
        raise _unsafe(f"{name[:200]!r} leads out of it")
    if len(parts) > _MAX_DEPTH or "\0" in name or any(len(os.fsencode(part)) > 255 for part in parts):
        raise _unsafe(f"the path {name[:80]!r}… is too long")
    return parts


def _place(top: int, archive: Archive, member: tarfile.TarInfo, done: Unpacked, progress: Progress) -> None:
    parts = _parts(member.name)
    if member.ischr() or member.isblk():
        done.skipped += 1
        return
    if not parts:
        if member.isdir():
            os.fchown(top, member.uid, member.gid)
        return
    folder = _open_folder(top, parts[:-1])
    try:
        if member.isdir():
            _make_folder(folder, parts[-1], member)
            return
        _clear(folder, parts[-1])
        if member.islnk():
            _link(top, folder, parts[-1], _parts(member.linkname))
        elif member.issym():
            os.symlink(member.linkname, parts[-1], dir_fd=folder)
            os.chown(parts[-1], member.uid, member.gid, dir_fd=folder, follow_symlinks=False)
        elif member.isfifo():
            os.mkfifo(parts[-1], 0o600, dir_fd=folder)
            os.chown(parts[-1], member.uid, member.gid, dir_fd=folder, follow_symlinks=False)
            os.chmod(parts[-1], member.mode & 0o7777, dir_fd=folder)
        elif member.isreg():
            _write(folder, parts[-1], archive.content(member), member, progress)
        else:
            raise _unsafe(f"{member.name[:200]!r} is of an unknown kind")
    finally:
        os.close(folder)


def _open_folder(top: int, parts: tuple[str, ...]) -> int:
    """The folder of an entry, made where the archive did not list it before."""
    fd = os.dup(top)
    for part in parts:
        try:
            try:
                inner = os.open(part, _FOLDER, dir_fd=fd)
            except FileNotFoundError:
                os.mkdir(part, 0o755, dir_fd=fd)
                inner = os.open(part, _FOLDER, dir_fd=fd)
        except OSError as error:
            if isinstance(error, NotADirectoryError) or error.errno == errno.ELOOP:
                raise _unsafe(f"an entry lies below {part!r}, which is no folder in it") from None
            raise
        finally:
            os.close(fd)
        fd = inner
    return fd


def _make_folder(folder: int, name: str, member: tarfile.TarInfo) -> None:
    try:
        os.mkdir(name, 0o700, dir_fd=folder)
    except FileExistsError:
        if not stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
            os.unlink(name, dir_fd=folder)
            os.mkdir(name, 0o700, dir_fd=folder)
    fd = os.open(name, _FOLDER, dir_fd=folder)
    try:
        os.fchown(fd, member.uid, member.gid)
        os.fchmod(fd, member.mode & 0o7777)
    finally:
        os.close(fd)


def _clear(folder: int, name: str) -> None:
    """A later entry replaces an earlier one of the same name, unless that is a folder."""
    try:
        if stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
            raise _unsafe(f"{name!r} is both a folder and something else")
        os.unlink(name, dir_fd=folder)
    except FileNotFoundError:
        return


def _link(top: int, folder: int, name: str, target: tuple[str, ...]) -> None:
    if not target:
        raise _unsafe(f"{name!r} is a hard link to nothing")
    source = _open_folder(top, target[:-1])
    try:
        info = os.stat(target[-1], dir_fd=source, follow_symlinks=False)
        if stat.S_ISDIR(info.st_mode):
            raise _unsafe(f"{name!r} is a hard link to a folder")
        os.link(target[-1], name, src_dir_fd=source, dst_dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        raise _unsafe(f"{name!r} is a hard link to what is not in it") from None
    finally:
        os.close(source)


def _write(folder: int, name: str, source: IO[bytes] | None, member: tarfile.TarInfo, progress: Progress) -> None:
    if source is None:
        raise _unsafe(f"{name!r} has no content")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(name, flags, 0o600, dir_fd=folder)
    with os.fdopen(fd, "wb") as file:
        while chunk := source.read(_CHUNK):
            progress.check()
            # Holes cost nothing: a small archive can't fill the disk with zeros.
            if chunk.count(0) == len(chunk):
                file.seek(len(chunk), os.SEEK_CUR)
            else:
                file.write(chunk)
        file.truncate()
        file.flush()
        os.fchown(fd, member.uid, member.gid)
        os.fchmod(fd, member.mode & 0o7777)
        for key in _KEPT_ATTRIBUTES:
            value = member.pax_headers.get(key)
            if value is not None:
                os.setxattr(fd, key.removeprefix("SCHILY.xattr."), value.encode("utf-8", "surrogateescape"))
        os.utime(fd, (member.mtime, member.mtime))


def _touch(top: int, parts: tuple[str, ...], when: float) -> None:
    fd = _open_folder(top, parts)
    try:
        os.utime(fd, (when, when))
    finally:
        os.close(fd)


def _unsafe(why: str) -> Invalid:
    return Invalid("unsafe_archive", f"the archive is refused: {why}", hint="Make it again from a plain root tree.")
