"""What is inside a guest's disk: its partitions, volume groups and file systems, and single files of them.

File systems are read by dissect (fox-it) from a source of ours, so bytes that are missing raise instead of reading as
zeros. Everything there is a stranger's: names are only names here, links are never followed out of their file system,
and whatever a reader stumbles over becomes an error of ours.
"""

from __future__ import annotations

import importlib
import logging
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from triune.disks.partitions import PartitionTable, read_partitions
from triune.disks.source import Source, Unreadable, Window
from triune.domain.errors import Conflict, Failed, NotFound, TriuneError

if TYPE_CHECKING:
    from dissect.target.filesystem import Filesystem, FilesystemEntry  # type: ignore[import-untyped]

# Named here and not asked for at dissect: its own list holds archives and VMFS too, which are not a guest's disk.
_FILE_SYSTEMS = (
    ("dissect.target.filesystems.ntfs", "NtfsFilesystem"),
    ("dissect.target.filesystems.extfs", "ExtFilesystem"),
    ("dissect.target.filesystems.xfs", "XfsFilesystem"),
    ("dissect.target.filesystems.btrfs", "BtrfsFilesystem"),
    ("dissect.target.filesystems.exfat", "ExfatFilesystem"),
    ("dissect.target.filesystems.fat", "FatFilesystem"),
    ("dissect.target.filesystems.ffs", "FfsFilesystem"),
    ("dissect.target.filesystems.squashfs", "SquashFSFilesystem"),
)
# What holds no files that can be read here, by bytes at a place.
_MARKS = (
    (0, b"LUKS\xba\xbe", "LUKS, encrypted"),
    (3, b"-FVE-FS-", "BitLocker, encrypted"),
    (4086, b"SWAPSPACE2", "swap"),
    (4086, b"SWAP-SPACE", "swap"),
    (4096, b"\xfc\x4e\x2b\xa9", "Linux RAID member"),
    (1024, b"H+", "HFS+"),
    (1024, b"HX", "HFS+"),
    (32, b"NXSB", "APFS"),
    (0x10040, b"_BHRfS_M", "btrfs"),
)
_LVM_LABELS = 4 * 512
_SPACE = 1 << 17
_MOST_PARTS = 512
_MOST_NAMES = 1 << 20
_DEEPEST = 128
CHUNK = 1 << 20
_SMALLEST = 4096
_MOST_STEPS = 1 << 20  # of one block each, without a longer read: 4 GiB of metadata


@dataclass(frozen=True, slots=True)
class GuestFile:
    """A file, folder or link of a guest. `path` begins with the part's name. `kind` is file, folder, link or other
    (devices, pipes). Times in seconds since the epoch. `size` in bytes; `target` of a link."""

    path: str
    kind: str
    size: int
    modified: float = 0.0
    mode: int = 0
    uid: int = 0
    gid: int = 0
    target: str = ""

    @property
    def name(self) -> str:
        """The last component."""
        return self.path.rpartition("/")[2]


@dataclass(slots=True)
class Part:
    """A partition, a logical volume, or a whole disk without a table. `start` in bytes, None for a logical volume.

    `holds` is the file system's kind or what else is there, empty where nothing is known; `why` says why a file system
    that is there can't be read.
    """

    name: str
    start: int | None
    size: int
    type: str
    source: Source
    holds: str = ""
    label: str = ""
    why: str = ""
    files: Filesystem | None = field(default=None, repr=False)


class Guest:
    """A disk's parts. Reads one file at a time, whoever asks: the readers below keep positions."""

    def __init__(self, disk: Source) -> None:
        self.disk = disk
        self.table: PartitionTable | None = None
        self.parts: list[Part] = []
        self.problems: list[str] = []
        self._lock = threading.RLock()
        self._find_parts()
        for part in self.parts:
            _look_into(part)
        self._find_volumes()

    def part(self, name: str) -> Part | None:
        """One by its name."""
        return next((each for each in self.parts if each.name == name), None)

    @property
    def readable(self) -> list[Part]:
        """Those whose files can be read."""
        return [part for part in self.parts if part.files is not None]

    def locate(self, path: str) -> tuple[Part | None, str]:
        """The part that a path names and the path in it; no part for the top. Where one part alone has files, its name
        may be left out. Raises NotFound."""
        first, _, rest = path.strip("/").partition("/")
        if not first:
            return None, ""
        part = self.part(first)
        if part is not None:
            return part, rest
        readable = self.readable
        if len(readable) == 1:
            return readable[0], path.strip("/")
        names = ", ".join(each.name for each in readable) or "none that can be read"
        raise NotFound("no_such_part", f"the disk has no part {first!r}", hint=f"Parts with files: {names}.")

    def stat(self, path: str) -> GuestFile:
        """What is at a path; of a link, the link itself. Raises NotFound."""
        part, inside = self.locate(path)
        if part is None:
            return GuestFile("", "folder", 0, mode=0o755)
        with self._reading(part, path) as files:
            return _described(f"{part.name}/{inside}".rstrip("/"), files.get(inside))

    def list(self, path: str) -> list[GuestFile]:
        """What a folder holds, sorted by name; the top holds the parts. Raises NotFound and Conflict."""
        part, inside = self.locate(path)
        if part is None:
            return [GuestFile(each.name, "folder", each.size, mode=0o755) for each in self.parts]
        base = f"{part.name}/{inside}".rstrip("/")
        found: list[GuestFile] = []
        with self._reading(part, path) as files:
            folder = files.get(inside)
            if folder.is_symlink():
                folder = folder.readlink_ext()
            if not folder.is_dir():
                raise Conflict("not_a_folder", f"{path!r} is no folder", hint="Name a folder.")
            for entry in folder.scandir():
                if entry.name in (".", "..", "") or _is_volume_label(entry):
                    continue
                if len(found) >= _MOST_NAMES:
                    raise Failed("folder_too_large", f"{path!r} has too many entries", hint="It may be damaged.")
                found.append(_of_entry(f"{base}/{entry.name}", entry))
        return sorted(found, key=lambda each: each.path)

    def walk(self, path: str) -> Iterator[GuestFile]:
        """A file, or everything below a folder, folders first; not deeper than 128 levels."""
        top = self.stat(path)
        yield top
        pending = [(top, 0)] if top.kind == "folder" else []
        while pending:
            folder, depth = pending.pop()
            if depth >= _DEEPEST:
                raise Failed(
                    "folder_too_deep", f"{folder.path!r} lies too deep", hint="The file system may be damaged."
                )
            within = self.list(folder.path)
            yield from within
            pending += [(each, depth + 1) for each in reversed(within) if each.kind == "folder"]

    def open(self, path: str) -> GuestReader:
        """A file's bytes; links are followed within their file system. Raises NotFound and Conflict."""
        part, inside = self.locate(path)
        if part is None:
            raise Conflict("not_a_file", "the disk's top is no file", hint="Name a file.")
        with self._reading(part, path) as files:
            entry = files.get(inside)
            if entry.is_symlink():
                entry = entry.readlink_ext()
            if not entry.is_file():
                raise Conflict("not_a_file", f"{path!r} is no file", hint="Name a file.")
            return GuestReader(self, part, path, entry.open(), entry.stat().st_size)

    @contextmanager
    def _reading(self, part: Part, path: str) -> Iterator[Filesystem]:
        """One reader at a time, its complaints turned into errors of ours."""
        if part.files is None:
            what = part.why or (f"it holds {part.holds}" if part.holds else "no file system was found in it")
            raise Conflict("no_files", f"{part.name} can't be listed: {what}", hint="See: triune rescue preview")
        with self._lock:
            try:
                yield part.files
            except TriuneError:
                raise
            except Exception as error:
                raise _translated(error, part, path) from error

    def _find_parts(self) -> None:
        self.table = read_partitions(self.disk)
        if self.table is None:
            self.parts.append(Part("disk", 0, self.disk.size, "whole disk", self.disk))
            return
        self.problems += self.table.problems
        for each in self.table.partitions[:_MOST_PARTS]:
            window = Window(self.disk, each.start, each.size, f"{self.disk.name} p{each.number}")
            self.parts.append(Part(f"p{each.number}", each.start, each.size, each.type, window, label=each.name))

    def _find_volumes(self) -> None:
        """Logical volumes of LVM, whose physical ones are all on this disk."""
        members = [part for part in self.parts if part.holds == "LVM2"]
        if not members:
            return
        try:
            from dissect.target.volumes.lvm import LvmVolumeSystem  # type: ignore[import-untyped]

            systems = list(LvmVolumeSystem.open_all([_buffered(part.source) for part in members]))
            for system in systems:
                for volume in system.volumes[:_MOST_PARTS]:
                    source = _StreamSource(volume, f"{self.disk.name} {volume.name}", self._lock)
                    part = Part(_plain(volume.name), None, source.size, "logical volume", source)
                    _look_into(part)
                    self.parts.append(part)
            if not systems:
                self.problems.append("the volume group can't be put together: is one of its disks elsewhere?")
        except Exception as error:
            self.problems.append(f"its logical volumes can't be read: {_sentence(error)}")


class GuestReader:
    """A guest's file. `size` in bytes."""

    def __init__(self, guest: Guest, part: Part, path: str, stream: Any, size: int) -> None:
        self._guest, self._part, self._path, self._stream = guest, part, path, stream
        self.size = size

    def read(self, offset: int, length: int) -> bytes:
        """The bytes there. Raises Failed, Lost and Unreadable: never zeros in place of what is missing."""
        length = max(0, min(length, self.size - offset))
        with self._guest._reading(self._part, self._path):
            self._stream.seek(offset)
            data = bytes(self._stream.read(length))
        if len(data) < length:
            raise Failed("guest_damaged", f"{self._path!r} ends {length - len(data)} bytes early", hint=_DAMAGED)
        return data

    def chunks(self) -> Iterator[tuple[int, bytes | str]]:
        """All of it in order: bytes, or why a range of up to 4 KiB is missing (its length follows from the next)."""
        offset = 0
        while offset < self.size:
            try:
                data = self.read(offset, CHUNK)
            except TriuneError:
                yield from self._pieces(offset, min(self.size, offset + CHUNK))
                offset += CHUNK
                continue
            yield offset, data
            offset += len(data)

    def _pieces(self, offset: int, end: int) -> Iterator[tuple[int, bytes | str]]:
        while offset < end:
            length = min(_SMALLEST, end - offset)
            try:
                yield offset, self.read(offset, length)
            except TriuneError as error:
                yield offset, error.message
            offset += length


_DAMAGED = "The file system may be damaged; other files of it may be whole."


class _StreamSource:
    """A stream of dissect's as a source."""

    def __init__(self, stream: Any, name: str, lock: threading.RLock) -> None:
        self._stream, self.name, self._lock = stream, name, lock
        self.size = int(stream.size)

    def read(self, offset: int, length: int) -> bytes:
        with self._lock:
            try:
                self._stream.seek(offset)
                return bytes(self._stream.read(max(0, min(length, self.size - offset))))
            except TriuneError:
                raise
            except Exception as error:
                raise Unreadable(self.name, offset, length, _sentence(error)) from error

    def close(self) -> None:
        """Nothing of ours is open."""


def _buffered(source: Source) -> Any:
    """A stream that reads whole blocks: file systems are read in small steps.

    A damaged file system can lead a reader in circles: one that reads more than any file system needs is stopped.
    """
    from dissect.util.stream import AlignedStream  # type: ignore[import-untyped]

    class Aligned(AlignedStream):  # type: ignore[misc]
        """Aligned reads of a source."""

        steps = 0

        def _read(self, offset: int, length: int) -> bytes:
            self.steps = self.steps + 1 if length <= _SMALLEST else 0
            if self.steps > _MOST_STEPS:
                raise Unreadable(source.name, offset, length, "its file system leads in circles")
            data = source.read(offset, min(length, max(0, source.size - offset)))
            return data.ljust(length, b"\0") if offset + length > source.size else data

    return Aligned(source.size, align=_SMALLEST)


def _look_into(part: Part) -> None:
    """Find out what a part holds."""
    try:
        head = part.source.read(0, min(_SPACE, part.source.size))
    except TriuneError as error:
        head = _head(part.source)
        part.why = "" if head else f"its beginning can't be read: {error.message}"
        if part.why:
            return
    if b"LABELONE" in head[:_LVM_LABELS]:
        part.holds = "LVM2"
        return
    for place, mark, what in _MARKS[:-1]:
        if head.startswith(mark, place):
            part.holds = what
            return
    stream = _buffered(part.source)
    # A reader that can't tell says so on the log: what matters comes back as an error.
    logging.getLogger("dissect").setLevel(logging.CRITICAL)
    for module, name in _FILE_SYSTEMS:
        reader = getattr(importlib.import_module(module), name)
        if not reader.detect(stream):
            continue
        part.holds = str(reader.__type__)
        try:
            stream.seek(0)
            part.files = reader([stream] if reader.__multi_volume__ else stream)
        except Exception as error:
            part.why = f"its file system can't be read: {_sentence(error)}"
            return
        part.holds = _exact(part)
        part.label = part.label or _label(part)
        return


def _head(source: Source) -> bytes:
    try:
        return source.read(0, min(_SPACE, source.size))
    except TriuneError:
        try:
            return source.read(0, min(_SMALLEST, source.size))
        except TriuneError:
            return b""


def _exact(part: Part) -> str:
    """ext2, ext3 and ext4 by their features; FAT by its width."""
    files: Any = part.files
    if part.holds == "ext":
        features = _head(part.source)[1024 + 0x5C : 1024 + 0x64]
        journal = int.from_bytes(features[:4], "little") & 0x4
        modern = int.from_bytes(features[4:8], "little") & 0x2C0
        return "ext4" if modern else "ext3" if journal else "ext2"
    kind = getattr(getattr(files, "fatfs", None), "type", None)
    return str(getattr(kind, "name", kind) or part.holds).lower() if part.holds == "fat" else part.holds


def _label(part: Part) -> str:
    """The file system's own name, where it has one."""
    head = _head(part.source)
    if part.holds.startswith("ext"):
        raw = head[1024 + 0x78 : 1024 + 0x88]
    elif part.holds == "xfs":
        raw = head[108:120]
    elif part.holds == "btrfs":
        raw = head[0x1012B : 0x1012B + 256]
    elif part.holds.startswith("fat"):
        raw = head[71:82] if part.holds == "fat32" else head[43:54]
        raw = b"" if raw == b"NO NAME    " else raw
    else:
        return ""
    text = raw.split(b"\0", 1)[0].decode("utf-8", "replace").strip()
    return _plain(text) if text else ""


def _plain(name: str) -> str:
    return "".join(char if char.isprintable() and char != "/" else "_" for char in name) or "_"


def _of_entry(path: str, entry: Any) -> GuestFile:
    try:
        return _described(path, entry.get())
    except Exception:
        # One damaged inode must not hide the rest of its folder.
        return GuestFile(path, "other", 0)


def _is_volume_label(entry: Any) -> bool:
    """Whether it is what FAT keeps its label in, which is no file."""
    raw = getattr(entry, "entry", None)
    return raw is not None and hasattr(raw, "is_volume_id") and bool(raw.is_volume_id())


def _described(path: str, entry: FilesystemEntry) -> GuestFile:
    found = entry.lstat()
    mode = int(found.st_mode)
    target = ""
    if entry.is_symlink():
        kind = "link"
        target = str(entry.readlink())
    elif entry.is_dir():
        kind = "folder"
    else:
        kind = "file" if stat.S_ISREG(mode) or not stat.S_IFMT(mode) else "other"
    return GuestFile(
        path, kind, int(found.st_size), float(found.st_mtime), stat.S_IMODE(mode), found.st_uid, found.st_gid, target
    )


def _translated(error: Exception, part: Part, path: str) -> TriuneError:
    from dissect.target.exceptions import FileNotFoundError as Missing  # type: ignore[import-untyped]
    from dissect.target.exceptions import NotADirectoryError as NoFolder

    if isinstance(error, Missing | NoFolder | FileNotFoundError | NotADirectoryError):
        return NotFound("no_such_file", f"there is no {path!r} on the disk", hint="See: triune rescue inside FILE ls")
    cause: BaseException | None = error
    for _ in range(8):
        if isinstance(cause, TriuneError):
            return cause
        cause = cause.__cause__ or cause.__context__ if cause else None
    return Failed("guest_damaged", f"{path!r} of {part.name} can't be read: {_sentence(error)}", hint=_DAMAGED)


def _sentence(error: Exception) -> str:
    text = _plain(str(error).split("\n", 1)[0][:200].replace("/", "∕"))
    return f"{type(error).__name__}: {text}" if text != "_" else type(error).__name__
