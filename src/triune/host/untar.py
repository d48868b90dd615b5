"""Unpacking a tar stream that somebody else made: an image, or what a guest says its files are.

Every entry is created through the descriptor of its folder, and no component of its path is ever followed where it is a
symbolic link: what the archive holds cannot reach anything outside the tree, however the tree changes meanwhile.
Refused: absolute paths, `..`, hard links to what is not a regular file of the archive, more entries or bytes than
allowed, headers that would fill the memory. Device nodes are left out, and extended attributes but those asked for.
"""

from __future__ import annotations

import errno
import os
import stat
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from lzma import LZMAError
from typing import IO, BinaryIO, Protocol, cast

from triune.domain.errors import Invalid
from triune.domain.operation import Progress
from triune.domain.units import format_size
from triune.host import acl

_MAX_ENTRIES = 2_000_000
_MAX_DEPTH = 128
# What lies before an entry's data: long names, attributes, maps of sparse files. tarfile reads it whole.
_MAX_HEADERS = 4 << 20
_MAX_GLOBALS = 64
_READ_AHEAD = 64 << 10
_CHUNK = 1 << 20
_HOLE = 1 << 16
# Attributes of folders are set when all is unpacked; until then they take memory.
_MAX_HELD = 64 << 20
_ATTRIBUTE = "SCHILY.xattr."
_CAPABILITY = "security.capability"
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


# From the pax headers of an entry to the extended attributes it shall have.
Attributes = Callable[[Mapping[str, str]], Iterable[tuple[str, bytes]]]


def no_attributes(headers: Mapping[str, str]) -> Iterable[tuple[str, bytes]]:
    """None at all."""
    del headers
    return ()


def capabilities(headers: Mapping[str, str]) -> Iterator[tuple[str, bytes]]:
    """What a root tree needs: the capabilities of its programs."""
    if (value := headers.get(_ATTRIBUTE + _CAPABILITY)) is not None:
        yield _CAPABILITY, value.encode("utf-8", "surrogateescape")


def everything(headers: Mapping[str, str]) -> Iterator[tuple[str, bytes]]:
    """What a volume may hold: users' own attributes, access lists, capabilities; no labels of this host's security
    modules, and nothing that would steer an overlay."""
    yield from capabilities(headers)
    for key, value in headers.items():
        name = key.removeprefix(_ATTRIBUTE)
        plain = name.startswith(("user.", "trusted.")) and not name.startswith("trusted.overlay.")
        if key.startswith(_ATTRIBUTE) and plain:
            yield name, value.encode("utf-8", "surrogateescape")
    for kind in ("access", "default"):
        if text := headers.get(f"SCHILY.acl.{kind}"):
            yield f"system.posix_acl_{kind}", acl.to_attribute(text)


@dataclass(slots=True)
class Unpacked:
    """What came out. `skipped` counts device nodes left out."""

    entries: int = 0
    size: int = 0
    skipped: int = 0


class Readable(Protocol):
    """What a tar can be read from."""

    def read(self, size: int, /) -> bytes: ...


class Pieces:
    """A stream that comes in pieces, none of them empty, to be read."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._piece = b""
        self._at = 0

    def read(self, size: int, /) -> bytes:
        """Up to `size` bytes; none at the end."""
        found = self._piece[self._at : self._at + size]
        self._at += len(found)
        while len(found) < size:
            self._piece, self._at = next(self._pieces, b""), 0
            if not self._piece:
                break
            self._at = min(size - len(found), len(self._piece))
            found += self._piece[: self._at]
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What of an entry counts.

    `owner` gives an entry its user and group, None leaves them as made. `mode` masks the permission bits: without
    0o7000 nothing comes out setuid. `attributes` finds the extended attributes to keep. `top` replaces the first
    component of every name. `whole`: the folder that is unpacked into gets the archive's mode for it. `max_size`
    bounds the bytes, `max_entries` the entries.
    """

    owner: Callable[[tarfile.TarInfo], tuple[int, int]] | None = None
    mode: int = 0o7777
    attributes: Attributes = no_attributes
    top: str | None = None
    whole: bool = False
    max_size: int | None = None
    max_entries: int = _MAX_ENTRIES


def own_ids(member: tarfile.TarInfo) -> tuple[int, int]:
    """The ids of the entry itself."""
    return member.uid, member.gid


@contextmanager
def opened(stream: Readable, *, whole: bool = True) -> Iterator[Archive]:
    """A tar stream's entries. Raises Invalid("corrupt_archive", "unsafe_archive").

    With `whole` the caller reads all of it, and its end is checked.
    """
    with explained():
        watched = _Watched(stream)
        with tarfile.open(fileobj=cast(BinaryIO, watched), mode="r|", errorlevel=2) as archive:
            yield Archive(archive, watched)
            if whole and not watched.ended_well():
                raise EOFError("its end is missing")


@contextmanager
def explained() -> Iterator[None]:
    """Damage of an archive or of its compression as Invalid("corrupt_archive")."""
    try:
        yield
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

    def __init__(self, stream: Readable) -> None:
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


def unpack(stream: Readable, top: int, policy: Policy, progress: Progress) -> Unpacked:
    """Unpack into the folder open as `top`; what has an entry's name there is replaced, folders are merged."""
    done = Unpacked()
    folders: list[tuple[tuple[str, ...], tarfile.TarInfo, int, list[tuple[str, bytes]]]] = []
    held = 0
    with opened(stream) as archive:
        for member in archive:
            done.entries += 1
            if done.entries > policy.max_entries:
                raise _unsafe(f"it has more than {policy.max_entries} entries")
            if done.entries % 256 == 0:
                progress.report(None, f"unpacked {format_size(done.size)}")
            done.size += max(0, member.size)
            if policy.max_size is not None and done.size > policy.max_size:
                raise Invalid(
                    "too_large",
                    f"the archive unpacks to more than {format_size(policy.max_size)}",
                    hint="Allow more with --max-size, if you trust it.",
                )
            parts = _renamed(_parts(member.name), policy.top)
            _place(top, parts, archive, member, policy, done, progress)
            if member.isdir():
                attributes = list(policy.attributes(member.pax_headers))
                held += sum(len(name) + len(value) for name, value in attributes)
                if held > _MAX_HELD:
                    raise _unsafe("its folders have too many attributes")
                folders.append((parts, member, _when(member), attributes))
                member.pax_headers = {}
    for parts, member, when, attributes in reversed(folders):
        _finish_folder(top, parts, member, policy, when, attributes)
    if done.entries == 0:
        raise corrupt("it is empty")
    return done


def _renamed(parts: tuple[str, ...], top: str | None) -> tuple[str, ...]:
    return (top, *parts[1:]) if top is not None and parts else parts


def _parts(name: str) -> tuple[str, ...]:
    if name.startswith("/"):
        raise _unsafe(f"it has the absolute path {name[:200]!r}")
    parts = tuple(part for part in name.split("/") if part not in ("", "."))
    if ".." in parts:
        raise _unsafe(f"{name[:200]!r} leads out of it")
    if len(parts) > _MAX_DEPTH or "\0" in name or any(len(os.fsencode(part)) > 255 for part in parts):
        raise _unsafe(f"the path {name[:80]!r}… is too long")
    return parts


def _place(
    top: int,
    parts: tuple[str, ...],
    archive: Archive,
    member: tarfile.TarInfo,
    policy: Policy,
    done: Unpacked,
    progress: Progress,
) -> None:
    if member.ischr() or member.isblk():
        done.skipped += 1
        return
    if not parts:
        return
    folder = _open_folder(top, parts[:-1])
    try:
        if member.isdir():
            _make_folder(folder, parts[-1])
            return
        _clear(folder, parts[-1])
        if member.islnk():
            _link(top, folder, parts[-1], _renamed(_parts(member.linkname), policy.top))
        elif member.issym():
            os.symlink(member.linkname, parts[-1], dir_fd=folder)
            _own(folder, parts[-1], member, policy)
            os.utime(parts[-1], ns=(_when(member), _when(member)), dir_fd=folder, follow_symlinks=False)
        elif member.isfifo():
            os.mkfifo(parts[-1], 0o600, dir_fd=folder)
            _own(folder, parts[-1], member, policy)
            os.chmod(parts[-1], member.mode & policy.mode, dir_fd=folder)
            os.utime(parts[-1], ns=(_when(member), _when(member)), dir_fd=folder)
        elif member.isreg():
            _write(folder, parts[-1], archive.content(member), member, policy, progress)
        else:
            raise _unsafe(f"{member.name[:200]!r} is of an unknown kind")
    finally:
        os.close(folder)


def _own(folder: int, name: str, member: tarfile.TarInfo, policy: Policy) -> None:
    if policy.owner is not None:
        os.chown(name, *policy.owner(member), dir_fd=folder, follow_symlinks=False)


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


def _make_folder(folder: int, name: str) -> None:
    try:
        os.mkdir(name, 0o700, dir_fd=folder)
    except FileExistsError:
        if not stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
            os.unlink(name, dir_fd=folder)
            os.mkdir(name, 0o700, dir_fd=folder)


def _when(member: tarfile.TarInfo) -> int:
    """The time of its last change in nanoseconds; a float would lose some."""
    whole, _, part = member.pax_headers.get("mtime", "").partition(".")
    if whole.isascii() and whole.isdigit() and len(whole) < 12 and (part or "0").isascii() and (part or "0").isdigit():
        return int(whole) * 10**9 + int(part.ljust(9, "0")[:9])
    return int(member.mtime * 10**9)


def _finish_folder(
    top: int,
    parts: tuple[str, ...],
    member: tarfile.TarInfo,
    policy: Policy,
    when: int,
    attributes: list[tuple[str, bytes]],
) -> None:
    """Last of all: a folder that may not be written could not be filled, and filling it changes its time."""
    fd = _open_folder(top, parts)
    try:
        if policy.owner is not None:
            os.fchown(fd, *policy.owner(member))
        if parts or policy.whole:
            os.fchmod(fd, member.mode & policy.mode)
        for name, value in attributes:
            os.setxattr(fd, name, value)
        os.utime(fd, ns=(when, when))
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


def _write(
    folder: int, name: str, source: IO[bytes] | None, member: tarfile.TarInfo, policy: Policy, progress: Progress
) -> None:
    if source is None:
        raise _unsafe(f"{name!r} has no content")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(name, flags, 0o600, dir_fd=folder)
    with os.fdopen(fd, "wb") as file:
        while chunk := source.read(_CHUNK):
            progress.check()
            # Holes cost nothing: a small archive can't fill the disk with zeros.
            for start in range(0, len(chunk), _HOLE):
                piece = chunk[start : start + _HOLE]
                if piece.count(0) == len(piece):
                    file.seek(len(piece), os.SEEK_CUR)
                else:
                    file.write(piece)
        file.truncate()
        file.flush()
        if policy.owner is not None:
            os.fchown(fd, *policy.owner(member))
        os.fchmod(fd, member.mode & policy.mode)
        for key, value in policy.attributes(member.pax_headers):
            os.setxattr(fd, key, value)
        os.utime(fd, ns=(_when(member), _when(member)))


def _unsafe(why: str) -> Invalid:
    return Invalid("unsafe_archive", f"the archive is refused: {why}", hint="Make it again from a plain root tree.")
