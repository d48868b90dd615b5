"""VMFS3 against its only other reader, `debugvmfs` of vmfs-tools."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.rescue import samples
from tests.rescue.test_healthy import digest
from triune.disks.vmfs.volume import VmfsVolume
from triune.domain.rescue import FileKind, Status
from triune.services.rescue.opening import open_volumes
from triune.services.rescue.sources import open_sources

pytestmark = pytest.mark.skipif(shutil.which("debugvmfs") is None, reason="needs debugvmfs (vmfs-tools)")
MIB = 1 << 20


def opened(image: Path) -> VmfsVolume:
    (volume,) = open_volumes(open_sources([image]))
    return volume


@pytest.fixture(scope="module")
def marked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample, whose data blocks were dropped, with each of them told apart again by a mark in its middle."""
    image = samples.copy("vmfs3", tmp_path_factory.mktemp("vmfs3") / "vmfs3.img")
    volume = opened(image)
    size = volume.space.size
    used = set(range(8))
    for found in volume.walk(system=True):
        if found.kind == FileKind.SYSTEM:
            for run in volume.open(found).runs():
                begin = volume.space.segments[0].at
                used |= set(range((run.at - begin) // MIB, (run.at - begin + run.length - 1) // MIB + 1))
    base = volume.space.segments[0].at
    volume.close()
    with image.open("r+b") as file:
        for block in range(size // MIB):
            if block not in used:
                file.seek(base + block * MIB + 4096 * (block % 250))
                file.write(b"block %d " % block * 20)
    return image


def theirs(image: Path, *args: str) -> bytes:
    return subprocess.run(["debugvmfs", image, *args], check=True, capture_output=True).stdout


@pytest.mark.heavy
def test_names_and_content_equal_the_other_reader(marked: Path) -> None:
    volume = opened(marked)
    found = {one.path: one for one in volume.walk(system=True)}
    names = set(theirs(marked, "ls", "/").decode().split()) - {".", ".."}
    assert set(found) == names
    assert (volume.version, volume.label, volume.damages()) == ("VMFS3", "toto", ())
    flat = 0
    for path, one in found.items():
        assert one.status == Status.INTACT
        data = theirs(marked, "cat", f"/{path}")
        content = volume.open(one)
        assert content.size == len(data), path
        assert digest(content) == hashlib.sha256(data).hexdigest(), path
        flat += data.count(b"block") > 100
    assert flat >= 2
    volume.close()


def test_blocks_to_be_zeroed_read_as_zeros_whatever_lies_there(marked: Path) -> None:
    volume = opened(marked)
    lazy, eager = (volume.open(volume.find(f"{name}-flat.vmdk")) for name in ("zeroedthick", "eagerzeroedthick"))
    holes = sum(run.length for run in lazy.runs() if run.source is None)
    assert holes == 199 * MIB
    assert all(run.source is not None for run in eager.runs())
    volume.close()
