"""What the independent readers see: dissect.vmfs on VMFS5 and 6, debugvmfs on VMFS3 and on VMFS5 besides.

Contents are compared by a digest over what isn't zero: the files are up to 64 TB long, and nearly all holes.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from dissect.vmfs import LVM, VMFS

from tests.patience import PATIENCE
from tests.rescue.overlay import Overlay
from triune.disks.content import Content, Lost
from triune.disks.source import Source

UNIT = 1 << 16


@dataclass(frozen=True)
class Fact:
    """A file as an independent reader sees it. `kind` is file, folder, link or rdm; `digest` of a file's bytes."""

    kind: str
    size: int
    digest: str


def digest_of(chunks: Iterable[tuple[int, bytes]], size: int) -> str:
    """Over (offset, bytes) in ascending order; how they are cut makes no difference, nor do zeros."""
    total = sha256(str(size).encode())
    held, at = bytearray(), -1
    for offset, data in chunks:
        view = memoryview(data)
        while view:
            unit, inside = divmod(offset, UNIT)
            part = min(len(view), UNIT - inside)
            if unit != at:
                _digest_unit(total, at, held)
                held, at = bytearray(UNIT), unit
            held[inside : inside + part] = view[:part]
            view, offset = view[part:], offset + part
    _digest_unit(total, at, held)
    return total.hexdigest()


def _digest_unit(total: Any, number: int, held: bytearray) -> None:
    if held and held.count(0) != len(held):
        total.update(number.to_bytes(8, "little"))
        total.update(held)


def digest(content: Content) -> str:
    """Of one of our own files. Raises Lost where bytes are missing."""
    return digest_of(_chunks(content), content.size)


def _chunks(content: Content) -> Iterator[tuple[int, bytes]]:
    for run in content.runs():
        if run.missing:
            raise Lost(run)
        if run.source is None:
            continue
        if run.source.size < run.at + run.length:
            raise Lost(run)
        for start, length in _held(run.source, run.at, run.length):
            for at in range(start, start + length, 1 << 20):
                part = min(1 << 20, start + length - at)
                data = run.source.read(at, part)
                if len(data) < part:
                    raise Lost(run)
                yield run.offset + at - run.at, data


def _held(source: Source, at: int, length: int) -> Iterable[tuple[int, int]]:
    """(offset, length) of what may be other than zeros."""
    known = getattr(source, "data", None)
    return known(at, at + length) if known is not None else [(at, length)]


def dissect(*disks: Overlay, lvm: bool = True) -> VMFS:
    """The independent reader on a volume."""
    files = [disk.file() for disk in disks]
    return VMFS(LVM(files).volumes[0].open() if lvm else files[0])


def facts(volume: VMFS) -> dict[str, Fact]:
    """Every file of a volume by its path, without the system's own."""
    return dict(_walk(volume.root, ""))


def _walk(folder: Any, path: str) -> Iterator[tuple[str, Fact]]:
    for entry in folder.iterdir():
        fd = entry.fd
        if entry.name in {".", ".."} or fd.is_system():
            continue
        name = path + entry.name
        if fd.is_dir():
            yield name, Fact("folder", 0, "")
            yield from _walk(fd, f"{name}/")
        elif fd.is_rdm():
            yield name, Fact("rdm", fd.size, "")
        else:
            yield name, Fact("link" if fd.is_symlink() else "file", fd.size, digest_of(_stored(fd), fd.size))


def _stored(fd: Any) -> Iterator[tuple[int, bytes]]:
    """(offset, bytes) of everything that isn't a hole."""
    stream = fd.open()
    for offset, length in _ranges(fd):
        stream.seek(offset)
        yield offset, stream.read(min(length, fd.size - offset))


def _ranges(fd: Any) -> Iterator[tuple[int, int]]:
    """Ranges that may hold bytes: whole pointer blocks that are missing are passed over."""
    size, step = fd.size, fd.block_size
    zla = fd.metadata.zeroLevelAddrType
    per = 1024 if fd.vmfs.is_vmfs5 else 8192
    if zla in {1, 2, 4305}:
        yield 0, size
        return
    for outer, address in enumerate(fd.blocks):
        if not address:
            continue
        tops = [(outer, address)]
        if zla == 4304:
            tops = [(outer * per + n, each) for n, each in enumerate(_pointers(fd, address, per)) if each]
        for top, pointer in tops:
            for n, each in enumerate(_pointers(fd, pointer, per)):
                at = (top * per + n) * step
                if each and at < size:
                    yield at, step


def _pointers(fd: Any, address: int, per: int) -> list[int]:
    width = 4 if fd.vmfs.is_vmfs5 else 8
    raw = fd.vmfs.resources.read(address)
    return [int.from_bytes(raw[n * width : (n + 1) * width], "little") for n in range(per)]


def debugvmfs(image: Path, *words: str) -> bytes:
    """What debugvmfs of Debian's vmfs-tools prints. Raises CalledProcessError."""
    return subprocess.run(["debugvmfs", str(image), *words], capture_output=True, check=True, timeout=PATIENCE).stdout
