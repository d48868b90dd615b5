"""A virtual disk as its guest saw it: descriptor, extents and parents of a VMDK put together.

The format is told by content alone. A flat extent has no mark of its own and what it holds is the guest's, so it is
taken for what the descriptor says of it, and never looked at for another format. File names in descriptors and headers
are somebody else's: extents are looked for in the disk's own folder and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from triune.disks import vmdk_descriptor, vmdk_sesparse
from triune.disks.content import Content, Lost, Run, read
from triune.disks.source import Unreadable
from triune.disks.vmdk_descriptor import DEVICE_KINDS, FLAT_KINDS, SPARSE_KINDS, Descriptor, ExtentLine
from triune.disks.vmdk_layout import SECTOR, corrupt, read_layout
from triune.disks.vmdk_pieces import Absent, Extent, Piece, stored
from triune.disks.vmdk_sesparse import SeSparseExtent
from triune.disks.vmdk_sparse import SparseExtent
from triune.domain.errors import Invalid, NotFound, TriuneError

_DEEPEST = 64
_MOST_TOLD = 100


class Folder(Protocol):
    """Where a disk's files are. Paths are relative, `/` between names."""

    @property
    def name(self) -> str: ...
    def names(self) -> Sequence[str]: ...
    def open(self, path: str) -> Content:
        """Raises NotFound for what isn't there and Denied for what leads out."""

    def beside(self, hint: str) -> tuple[Folder, str] | None:
        """Where the path of a parent disk leads from here; None where that can't be told or isn't allowed."""


class Disk:
    """The disk as `Content`. `descriptor` is None where an extent stands alone. `kind` is the create type, or that of
    the one extent. Not closed: its folder holds what is open."""

    def __init__(self, folder: Folder, name: str, kind: str, descriptor: Descriptor | None) -> None:
        self.folder, self.name, self.kind, self.descriptor = folder, name, kind, descriptor
        self.extents: list[tuple[ExtentLine, Extent]] = []
        self.parent: Disk | None = None
        self.needs_parent = False
        self._size = 0
        self._damages: dict[str, None] = {}

    @property
    def size(self) -> int:
        """In bytes."""
        return self._size

    @property
    def chain(self) -> list[Disk]:
        """This disk and those it is a difference to, itself first."""
        found, disk = [self], self.parent
        while disk is not None:
            found.append(disk)
            disk = disk.parent
        return found

    def damages(self) -> tuple[str, ...]:
        """What is wrong with the whole chain, as far as it was read: a sentence each."""
        told: dict[str, None] = {}
        for disk in self.chain:
            for sentence in disk._damages:
                told.setdefault(f"{disk.name}: {sentence}")
            for line, extent in disk.extents[:_MOST_TOLD]:
                for sentence in extent.notes():
                    told.setdefault(f"{line.name or disk.name}: {sentence}")
        return tuple(told)

    def runs(self, start: int = 0, end: int | None = None) -> Iterator[Run]:
        """What lies between, parents included."""
        end = self.size if end is None else min(end, self.size)
        base = 0
        for line, extent in self.extents:
            length = line.sectors * SECTOR
            if base >= end:
                return
            if base + length > start:
                yield from self._of_extent(extent, base, length, max(start, base), min(end, base + length))
            base += length

    def _of_extent(self, extent: Extent, base: int, length: int, start: int, end: int) -> Iterator[Run]:
        held = min(end, base + min(length, extent.size))
        for run in extent.runs(start - base, held - base) if start < held else ():
            if isinstance(run, Absent):
                yield from self._below(run.offset + base, run.length)
            else:
                yield Run(run.offset + base, run.length, run.source, run.at, run.why)
        start = max(start, held)
        if start < end:
            yield Run(start, end - start, why="its extent is smaller than the descriptor says")

    def _below(self, offset: int, length: int) -> Iterator[Run]:
        if self.parent is None:
            yield Run(offset, length, why="it is the parent disk's, which is missing" if self.needs_parent else "")
            return
        end = min(offset + length, self.parent.size)
        if offset < end:
            yield from self.parent.runs(offset, end)
        if max(end, offset) < offset + length:
            yield Run(max(end, offset), offset + length - max(end, offset))

    def add(self, line: ExtentLine, extent: Extent) -> None:
        """Append an extent."""
        self.extents.append((line, extent))
        self._size += line.sectors * SECTOR

    def blame(self, sentence: str) -> None:
        """Note what is wrong with it."""
        if len(self._damages) < _MOST_TOLD:
            self._damages.setdefault(sentence)


class _Nothing:
    """An extent whose bytes aren't there."""

    def __init__(self, size: int, why: str) -> None:
        self.size, self._why = size, why

    def runs(self, start: int, end: int) -> Iterator[Run | Absent]:
        yield Run(start, end - start, why=self._why)

    def notes(self) -> Sequence[str]:
        return (self._why,) if self._why else ()


class _Flat:
    """Sectors one after the other in a file, from `start` (bytes) on."""

    def __init__(self, content: Content, start: int, size: int) -> None:
        self._content, self._start, self.size = content, start, size

    def runs(self, start: int, end: int) -> Iterator[Run | Absent]:
        yield from stored(self._content, Piece(start, end - start, self._start + start))

    def notes(self) -> Sequence[str]:
        short = self._start + self.size - self._content.size
        return (f"its file ends {short} bytes before the extent does",) if short > 0 else ()


def open_disk(folder: Folder, name: str, *, raw: bool = False) -> Disk:
    """The disk that a file of a folder is or describes. `raw` takes a file without any mark for a raw disk.

    Raises NotFound, Invalid("unknown_disk") where the content tells nothing, Invalid("corrupt_image") for a header
    that nothing can be read by.
    """
    return _open(folder, name, raw, ())


def _open(folder: Folder, name: str, raw: bool, above: tuple[tuple[str, str], ...]) -> Disk:
    content = folder.open(name)
    head = first_sector(content)
    above = (*above, (folder.name, name))
    if head.startswith((vmdk_sesparse.MAGIC, b"COWD")):
        return _alone(folder, name, content, head)
    if head.startswith(b"KDMV"):
        disk = _hosted(folder, name, content, head)
    elif vmdk_descriptor.looks_like(head):
        disk = described(folder, name, vmdk_descriptor.parse(_text(content)))
    elif raw:
        disk = Disk(folder, name, "raw", None)
        # A raw file may end within a sector; VMware's count in whole ones.
        sectors = -(-content.size // SECTOR)
        disk.add(ExtentLine("RW", sectors, "FLAT", name), _Flat(content, 0, content.size))
        disk._size = content.size
        return disk
    elif found := owner_of(folder, name):
        return _open(folder, found, raw, above)
    else:
        raise Invalid("unknown_disk", f"nothing in {name!r} says what disk it is", hint="Is it the right file?")
    _join_parent(disk, raw, above)
    return disk


def first_sector(content: Content) -> bytes:
    """As much of the first sector as can be read."""
    try:
        return read(content, 0, SECTOR)
    except (Lost, Unreadable):
        return b""


def _text(content: Content) -> bytes:
    try:
        return read(content, 0, vmdk_descriptor.LONGEST)
    except (Lost, Unreadable):
        return b"".join(_readable(content))


def _readable(content: Content) -> Iterator[bytes]:
    """The first sectors up to one that is lost."""
    for offset in range(0, min(content.size, vmdk_descriptor.LONGEST), SECTOR):
        try:
            yield read(content, offset, SECTOR)
        except (Lost, Unreadable):
            return


def owner_of(folder: Folder, name: str) -> str | None:
    """The descriptor beside a flat extent that names it."""
    stem = name.removesuffix(".vmdk")
    for mark in ("-flat", "-delta", "-sesparse", "-rdm", "-rdmp"):
        if stem.endswith(mark) and name.endswith(".vmdk"):
            owner = stem.removesuffix(mark) + ".vmdk"
            try:
                content = folder.open(owner)
            except TriuneError:
                return None
            if content.size <= vmdk_descriptor.LONGEST and vmdk_descriptor.looks_like(first_sector(content)):
                named = vmdk_descriptor.parse(_text(content)).extents
                return owner if any(line.name == name for line in named) else None
    return None


def _alone(folder: Folder, name: str, content: Content, head: bytes) -> Disk:
    """An extent of a snapshot without its descriptor: whose difference it is nobody knows."""
    if (owner := owner_of(folder, name)) is not None:
        return _open(folder, owner, False, ((folder.name, name),))
    extent = _sparse(content, head)
    kind = "seSparse" if isinstance(extent, SeSparseExtent) else "vmfsSparse"
    disk = Disk(folder, name, kind, None)
    disk.needs_parent = True
    disk.blame("its descriptor is missing: which disk it is a difference to is unknown")
    disk.add(ExtentLine("RW", -(-extent.size // SECTOR), "VMFSSPARSE", name), extent)
    return disk


def _hosted(folder: Folder, name: str, content: Content, head: bytes) -> Disk:
    layout = read_layout(head)
    text = b""
    if layout is not None and layout.descriptor:
        try:
            length = min(layout.descriptor_length * SECTOR, vmdk_descriptor.LONGEST)
            text = read(content, layout.descriptor * SECTOR, length)
        except (Lost, Unreadable):
            text = b""
    descriptor = vmdk_descriptor.parse(text) if text.strip(b"\0") else None
    if layout is not None and layout.capacity == 0 and descriptor is not None and descriptor.extents:
        return described(folder, name, descriptor)
    extent = SparseExtent(content, head)
    disk = Disk(folder, name, (descriptor.create_type if descriptor else "") or "sparse", descriptor)
    disk.add(ExtentLine("RW", extent.layout.capacity, "SPARSE", name), extent)
    if descriptor is not None and descriptor.size not in (0, disk.size):
        disk.blame(f"its header says {disk.size} bytes, the descriptor in it {descriptor.size}")
    if layout is not None and layout.descriptor and descriptor is None:
        disk.blame("the descriptor in it is lost: whether it has a parent is unknown")
    return disk


def described(folder: Folder, name: str, descriptor: Descriptor) -> Disk:
    """The disk of a descriptor, without its parent."""
    disk = Disk(folder, name, descriptor.create_type or "vmdk", descriptor)
    if not descriptor.extents:
        raise corrupt("its descriptor names no extent")
    for line in descriptor.extents:
        try:
            disk.add(line, _extent(folder, line))
        except TriuneError as error:
            disk.add(line, _Nothing(line.sectors * SECTOR, error.message))
    return disk


def _extent(folder: Folder, line: ExtentLine) -> Extent:
    size = line.sectors * SECTOR
    if line.kind == "ZERO":
        return _Nothing(size, "")
    if line.kind in DEVICE_KINDS:
        return _Nothing(size, f"it is on a device that {line.name!r} points to, not in a file")
    if line.access == "NOACCESS":
        return _Nothing(size, "the descriptor forbids access to the extent")
    if not leads_inside(line.name):
        return _Nothing(size, f"its extent {line.name!r} is outside of the disk's folder")
    content = folder.open(line.name)
    if line.kind in FLAT_KINDS:
        return _Flat(content, line.start * SECTOR, size)
    if line.kind in SPARSE_KINDS:
        return _sparse(content, first_sector(content))
    return _Nothing(size, f"extents of the kind {line.kind} are not known")


def leads_inside(name: str) -> bool:
    """Whether a file name in a descriptor is one of the same folder or below."""
    parts = name.split("/")
    return bool(name) and "\\" not in name and "\0" not in name and not any(part in ("", ".", "..") for part in parts)


def _sparse(content: Content, head: bytes) -> Extent:
    if head.startswith(vmdk_sesparse.MAGIC):
        return SeSparseExtent(content, head)
    return SparseExtent(content, head)


def _join_parent(disk: Disk, raw: bool, above: tuple[tuple[str, str], ...]) -> None:
    descriptor = disk.descriptor
    if descriptor is None or not descriptor.has_parent:
        return
    disk.needs_parent = True
    if len(above) > _DEEPEST:
        disk.blame(f"the chain of its parents is longer than {_DEEPEST}")
        return
    hint = descriptor.parent_name
    for folder, name in _candidates(disk.folder, hint):
        if (folder.name, name) in above:
            disk.blame(f"its parent {hint!r} is the disk itself, or stands above it")
            return
        try:
            disk.parent = _open(folder, name, raw, above)
        except NotFound:
            continue
        except TriuneError as error:
            disk.blame(f"its parent {hint!r} can't be read: {error.message}")
            return
        _compare(disk, disk.parent)
        return
    disk.blame(f"its parent {hint!r} is missing")


def _candidates(folder: Folder, hint: str) -> Iterator[tuple[Folder, str]]:
    plain = hint.replace("\\", "/")
    if leads_inside(plain):
        yield folder, plain
    if (found := folder.beside(hint)) is not None:
        yield found
    last = plain.rpartition("/")[2]
    if last != plain and leads_inside(last):
        yield folder, last


def _compare(disk: Disk, parent: Disk) -> None:
    """The parent must be in the state that the disk is a difference to."""
    wanted = disk.descriptor.parent_cid if disk.descriptor else None
    cid = parent.descriptor.cid if parent.descriptor else None
    if wanted is None or cid is None:
        disk.blame("whether its parent is in the right state is unknown: a CID is missing")
    elif wanted != cid:
        disk.blame(f"its parent is in the state {cid:08x}, not {wanted:08x}: it was changed, or is another disk")
    if parent.size != disk.size:
        disk.blame(f"its parent has {parent.size} bytes, itself {disk.size}")
