"""Disks inside files of other formats: qcow2, VHD, VHDX, VDI, VMDK, E01, and raw images in parts.

What the libraries read is asked for in pieces that never cross a block: some of them give wrong bytes for more, and a
piece that comes short is told from zeros. A file that is a difference to another is refused: paths in images are not
followed.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

from triune.disks.detect import Content, detect
from triune.disks.source import FileSource, Source, Unreadable
from triune.disks.stream import ContentSource, Stream
from triune.disks.vmfs.space import Segment, Space
from triune.domain.errors import Invalid, TriuneError
from triune.services.rescue.links import resolved

if TYPE_CHECKING:
    from triune.disks.vmdk_disk import Disk

_PIECE = 1 << 20
_EWF = b"EVF\x09\x0d\x0a\xff\x00"
_PART = re.compile(r"\.(\d{2,4})$")
_MOST_PARTS = 10_000


class Decoded:
    """A disk that a library decodes: `Source`. `pieces` is the size of what is asked for at once, a power of two."""

    def __init__(self, name: str, stream: BinaryIO, size: int, pieces: int, below: Source) -> None:
        self._name, self._stream, self._size, self._pieces, self._below = name, stream, size, pieces, below
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        """Its file's path."""
        return self._name

    @property
    def size(self) -> int:
        """Of the disk, in bytes."""
        return self._size

    def read(self, offset: int, length: int) -> bytes:
        """The bytes there. Raises Unreadable."""
        parts: list[bytes] = []
        end = min(self._size, offset + length)
        while offset < end:
            stop = min(end, (offset // self._pieces + 1) * self._pieces)
            parts.append(self._piece(offset, stop - offset))
            offset = stop
        return b"".join(parts)

    def close(self) -> None:
        """Close the file."""
        self._below.close()

    def _piece(self, offset: int, length: int) -> bytes:
        try:
            with self._lock:
                self._stream.seek(offset)
                data = self._stream.read(length)
        except TriuneError:
            raise
        except Exception as error:
            raise Unreadable(self._name, offset, length, f"it is damaged ({error})") from None
        if len(data) != length:
            raise Unreadable(self._name, offset + len(data), length - len(data), "the file ends before it")
        return data


def open_paths(paths: list[Path]) -> list[Source]:
    """The disks in files, parts of one image joined and named once. Raises NotFound, Invalid("bad_container")."""
    found: list[Source] = []
    taken: set[Path] = set()
    try:
        for path in paths:
            real = resolved(path)
            if real in taken:
                continue
            parts = _parts(real)
            taken.update(parts or [real])
            found.append(_joined(path, parts) if len(parts) > 1 else _opened(path, taken))
    except BaseException:
        for source in found:
            source.close()
        raise
    return found


def _parts(path: Path) -> list[Path]:
    """All parts of the raw image that `path` is the first of, in order; a number that is missing is left out."""
    match = _PART.search(path.name)
    if match is None or int(match[1]) > 1:
        return []
    stem, width = path.name[: match.start()], len(match[1])
    numbered = {}
    for beside in path.parent.glob(f"{_escaped(stem)}.*"):
        other = _PART.search(beside.name)
        if other is not None and len(other[1]) == width and beside.name[: other.start()] == stem and beside.is_file():
            numbered[int(other[1])] = beside
    return [numbered[number] for number in sorted(numbered)][:_MOST_PARTS]


def _escaped(text: str) -> str:
    return re.sub(r"([*?[])", r"[\1]", text)


def _joined(path: Path, parts: list[Path]) -> Source:
    """The parts one behind the other; a part that is missing leaves a gap as large as the first."""
    numbers = [int(part.suffix[1:]) - int(parts[0].suffix[1:]) for part in parts]
    gapless = numbers == list(range(len(parts)))
    sources = [FileSource(part) for part in parts]
    segments, behind = [], 0
    for number, source in zip(numbers, sources, strict=True):
        segments.append(Segment(behind if gapless else number * sources[0].size, source.size, source, 0))
        behind += source.size
    return Space(str(path), segments)


def _opened(path: Path, taken: set[Path]) -> Source:
    source = FileSource(path)
    try:
        return _decoded(path, source, taken)
    except TriuneError:
        source.close()
        raise
    except Exception as error:
        source.close()
        raise _refused(path, str(error) or type(error).__name__) from None


def _decoded(path: Path, source: FileSource, taken: set[Path]) -> Source:
    if source.read(0, len(_EWF)) == _EWF:
        return _ewf(path, source, taken)
    kind = detect(cast(BinaryIO, Stream(source))).content
    if kind == Content.VMDK:
        return _vmdk(path, source)
    opener = _OPENERS.get(kind)
    return source if opener is None else opener(path, source)


def _vmdk(path: Path, source: FileSource) -> Source:
    """Its extents are looked for beside it, and nowhere else."""
    from triune.disks.vmdk_disk import open_disk
    from triune.services.rescue.folders import on_host

    source.close()
    folder, name = on_host(path)
    return _OfFolder(open_disk(folder, name), str(path), folder.close)


class _OfFolder(ContentSource):
    """A VMDK as a source: closing it closes its extents."""

    def __init__(self, content: Disk, name: str, close: Callable[[], None]) -> None:
        super().__init__(content, name)
        self._close = close

    def close(self) -> None:
        self._close()


def _qcow2(path: Path, source: FileSource) -> Source:
    from dissect.hypervisor.disk.qcow2 import QCow2  # type: ignore[import-untyped]

    disk = QCow2(_stream(source))
    if disk.header.backing_file_offset:
        raise _refused(path, "it is a difference to another disk")
    return Decoded(str(path), disk.open(), disk.size, _PIECE, source)


def _vhdx(path: Path, source: FileSource) -> Source:
    from dissect.hypervisor.disk.vhdx import VHDX  # type: ignore[import-untyped]

    disk = VHDX(_stream(source))
    if any(bytes(disk.header.log_guid)):
        raise _refused(path, "its log was never written back; `qemu-img check -r all` on a copy does it")
    return Decoded(str(path), disk, disk.size, min(_PIECE, disk.block_size), source)


def _vdi(path: Path, source: FileSource) -> Source:
    from dissect.hypervisor.disk.vdi import VDI  # type: ignore[import-untyped]

    disk = VDI(_stream(source))
    if int(disk.type) not in (1, 2) or disk.block_size & (disk.block_size - 1) or not disk.block_size:
        raise _refused(path, "it is a difference to another disk, or of a kind that is not known")
    return Decoded(str(path), disk.open(), disk.size, disk.block_size, source)


def _vhd(path: Path, source: FileSource) -> Source:
    from dissect.hypervisor.disk.vhd import VHD  # type: ignore[import-untyped]

    disk = VHD(_stream(source))
    return Decoded(str(path), disk, disk.size, 4096, source)


def _ewf(path: Path, source: FileSource, taken: set[Path]) -> Source:
    from dissect.evidence.ewf import EWF  # type: ignore[import-untyped]
    from dissect.evidence.ewf.ewf import find_files  # type: ignore[import-untyped]

    others = [FileSource(part) for part in find_files(path) if part != path.resolve()]
    files = sorted([source, *others], key=_segment)
    try:
        for number, file in enumerate(files, 1):
            if _segment(file) != number:
                raise _refused(path, f"part {number} is not beside it")
        disk = EWF([_stream(file) for file in files])
    except BaseException:
        for file in others:
            file.close()
        raise
    taken.update(found.path.resolve() for found in files)
    return Decoded(str(path), disk.open(), disk.size, disk.chunk_size, _Several(files))


def _segment(file: FileSource) -> int:
    """Which part of an evidence file it is, by its head."""
    return int.from_bytes(file.read(9, 2), "little")


class _Several:
    """Sources that are closed together."""

    def __init__(self, sources: list[FileSource]) -> None:
        self._sources = sources
        self.name, self.size = sources[0].name, sum(source.size for source in sources)

    def read(self, offset: int, length: int) -> bytes:
        """Not what they are for."""
        raise Unreadable(self.name, offset, length, "it is encoded")

    def close(self) -> None:
        """Close all."""
        for source in self._sources:
            source.close()


def _stream(source: FileSource) -> BinaryIO:
    """An open file without a name: a library that knows no path follows none."""
    stream = Stream(source)
    stream.name = ""
    return cast(BinaryIO, stream)


_OPENERS: dict[Content, Callable[[Path, FileSource], Source]] = {
    Content.QCOW2: _qcow2,
    Content.VHDX: _vhdx,
    Content.VDI: _vdi,
    Content.VHD: _vhd,
}


def _refused(path: Path, why: str) -> Invalid:
    return Invalid("bad_container", f"{path} can't be read as a disk: {why}", hint="Convert it with qemu-img first.")
