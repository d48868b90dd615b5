"""A snapshot's extent that a real ESXi wrote in VMFS6's format, read as QEMU reads it.

It comes with the source distribution of dissect.hypervisor (AGPL): fetched by pip against a pinned hash, never
committed.
"""

from __future__ import annotations

import gzip
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tests.patience import PATIENCE
from tests.vmdks import whole
from triune.disks.vmdk_descriptor import ExtentLine, compose
from triune.disks.vmdk_disk import open_disk
from triune.disks.vmdk_sesparse import SeSparseExtent
from triune.disks.vmx import Vmx
from triune.services.rescue.folders import HostFolder

PROJECT = "dissect.hypervisor"
PINNED = f"{PROJECT}==3.20 --hash=sha256:90f4d46a6d6b81045c6fc123600bb8c12afa58c464ecaa67d5ca9435fcff7957\n"
DATA = "dissect_hypervisor-3.20/tests/_data"
MIB = 1 << 20


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hypervisor")
    (folder / "wanted").write_text(PINNED)
    argv = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "-q",
        "--no-deps",
        "--no-binary",
        PROJECT,
        "-r",
        "wanted",
        "-d",
        ".",
    ]
    done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, check=False, timeout=PATIENCE)
    if done.returncode != 0:
        pytest.skip(f"pip can't fetch it: {done.stderr.strip()[-200:]}")
    with tarfile.open(next(folder.glob("*.tar.gz"))) as archive:
        member = archive.extractfile(f"{DATA}/disk/vmdk/sesparse.vmdk.gz")
        assert member
        with gzip.open(member) as packed, (folder / "d-sesparse.vmdk").open("wb") as out:
            shutil.copyfileobj(packed, out)
        member = archive.extractfile(f"{DATA}/descriptor/vmx/encrypted.vmx")
        assert member
        (folder / "encrypted.vmx").write_bytes(member.read())
    return folder


@pytest.mark.heavy
def test_a_real_one(samples: Path) -> None:
    with HostFolder(samples) as folder:
        alone = open_disk(folder, "d-sesparse.vmdk")
        assert alone.size == 512 * MIB and "descriptor is missing" in alone.damages()[0]
        (_, extent) = alone.extents[0]
        assert isinstance(extent, SeSparseExtent) and extent.shared_grains() == (4096, 0)
        line = ExtentLine("RW", alone.size // 512, "SESPARSE", "d-sesparse.vmdk")
        (samples / "d.vmdk").write_bytes(compose((line,), create_type="seSparse").encode())
        disk = open_disk(folder, "d.vmdk")
        first, second = disk.runs()
        assert (first.length, second.length, second.source) == (16 * MIB, 496 * MIB, None)
        assert first.source and first.source.read(first.at, first.length) == b"a" * (16 * MIB)
        if shutil.which("qemu-img"):
            raw = samples / "raw"
            subprocess.run(["qemu-img", "convert", "-O", "raw", samples / "d.vmdk", raw], check=True)
            assert raw.read_bytes() == whole(disk)[0]
            raw.unlink()


@pytest.mark.heavy
def test_a_real_encrypted_machine(samples: Path) -> None:
    vmx = Vmx.parse((samples / "encrypted.vmx").read_bytes())
    assert vmx.encrypted and vmx.get("displayName") == "Encrypted VM" and not vmx.unread
    assert vmx.encode() == (samples / "encrypted.vmx").read_bytes()
