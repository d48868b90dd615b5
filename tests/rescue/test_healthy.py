"""Every file of every healthy sample equals what an independent reader gives."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator

import pytest
from dissect.vmfs.lvm import LVM
from dissect.vmfs.vmfs import VMFS

from tests.rescue import samples
from triune.disks.content import Content, read
from triune.disks.source import FileSource
from triune.disks.vmfs.volume import VmfsVolume
from triune.domain.rescue import FileKind, Found, Status
from triune.services.rescue.opening import open_volumes

WHOLE = 256 << 20
CHUNK = 4 << 20
QUICK = ("vmfs5", "vmfs6")
SLOW = tuple(name for name in samples.VOLUMES if name not in QUICK and name != "vmfs3")


def ours(name: str) -> VmfsVolume:
    (volume,) = open_volumes([FileSource(path) for path in reversed(samples.images(name))])
    return volume


def oracle(name: str) -> dict[str, object]:
    """Path to file of the independent reader."""
    streams = [path.open("rb") for path in samples.images(name)]
    streams[0].seek(0x100000)
    if streams[0].read(4) == b"\x0d\xd0\x01\xc0":
        root = VMFS(LVM(streams).volumes[0].open()).root
    else:
        root = VMFS(streams[0]).root
    return dict(_below(root, ""))


def _below(folder, prefix: str) -> Iterator[tuple[str, object]]:
    for entry in folder.iterdir():
        if entry.name not in {".", ".."}:
            inside = entry.file_descriptor
            yield prefix + entry.name, inside
            if inside.is_dir():
                yield from _below(inside, f"{prefix}{entry.name}/")


def kind_of(theirs) -> FileKind:
    if theirs.is_dir():
        return FileKind.FOLDER
    if theirs.is_symlink():
        return FileKind.LINK
    if theirs.is_rdm():
        return FileKind.RDM
    return FileKind.SYSTEM if theirs.is_system() else FileKind.FILE


def digest(content: Content) -> str:
    found = hashlib.sha256()
    for offset in range(0, content.size, CHUNK):
        found.update(read(content, offset, CHUNK))
    return found.hexdigest()


def their_digest(theirs) -> str:
    found = hashlib.sha256()
    with theirs.open() as stream:
        while data := stream.read(CHUNK):
            found.update(data)
    return found.hexdigest()


def compare_in_part(content: Content, theirs) -> None:
    """All data of a sparse file too large to hash, and its holes at places taken at random."""
    chance = random.Random(7)
    with theirs.open() as stream:
        for run in content.runs():
            assert not run.missing, run
            places = [run.offset, run.offset + run.length - 1]
            if run.source is None:
                places += [run.offset + chance.randrange(run.length) for _ in range(20)]
                ranges = [(place, min(512, run.offset + run.length - place)) for place in places]
            else:
                ranges = [
                    (place, min(CHUNK, run.length)) for place in range(run.offset, run.offset + run.length, CHUNK)
                ]
                ranges = [(place, min(length, run.offset + run.length - place)) for place, length in ranges]
            for place, length in ranges:
                stream.seek(place)
                assert read(content, place, length) == stream.read(length), place


def compare(volume: VmfsVolume, found: Found, theirs) -> None:
    assert found.size == theirs.size, found.path
    assert found.kind == kind_of(theirs), found.path
    assert found.status == Status.INTACT, found
    assert found.modified == theirs.metadata.mtime
    if found.kind == FileKind.LINK:
        assert found.target == theirs.link
    if found.kind in {FileKind.FOLDER, FileKind.RDM}:
        return
    content = volume.open(found)
    if content.size <= WHOLE:
        assert digest(content) == their_digest(theirs), found.path
    else:
        compare_in_part(content, theirs)


def compare_volume(name: str) -> None:
    volume = ours(name)
    found = {one.path: one for one in volume.walk(system=True)}
    theirs = oracle(name)
    assert set(found) == set(theirs)
    for path, one in found.items():
        compare(volume, one, theirs[path])
    assert volume.damages() == ()


@pytest.mark.parametrize("name", QUICK)
def test_every_file_equals_the_oracle(name: str) -> None:
    compare_volume(name)


@pytest.mark.heavy
@pytest.mark.parametrize("name", SLOW)
def test_every_file_of_every_other_sample_equals_the_oracle(name: str) -> None:
    compare_volume(name)
