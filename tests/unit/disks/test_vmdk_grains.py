"""A VMDK that lacks its end is told from a whole one, whatever was cut off."""

from __future__ import annotations

import io
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triune.disks.vmdk_grains import require_whole
from triune.domain.errors import Invalid

needs_qemu_img = pytest.mark.skipif(shutil.which("qemu-img") is None, reason="needs qemu-img")
KIB = 1024


def check(data: bytes) -> None:
    require_whole(io.BytesIO(data), len(data))


@needs_qemu_img
@pytest.mark.parametrize("subformat", ["monolithicSparse", "streamOptimized"])
@pytest.mark.parametrize("size", [300 * KIB, 64 * KIB * 600 + 512])
def test_every_cut_is_noticed(tmp_path: Path, subformat: str, size: int) -> None:
    raw, disk = tmp_path / "disk.raw", tmp_path / "disk.vmdk"
    with raw.open("wb") as file:
        file.write(b"first" * 40000)
        file.truncate(size)
        file.seek(size - 512)
        file.write(bytes(range(256)) * 2)
    subprocess.run(
        ["qemu-img", "convert", "-f", "raw", "-O", "vmdk", "-o", f"subformat={subformat}", raw, disk], check=True
    )
    whole = disk.read_bytes()
    check(whole)
    data = whole.rstrip(b"\0")
    for length in {len(data) - 1, len(data) // 2, min(70 * KIB, len(data) - 2), 64 * KIB + 4, 600}:
        with pytest.raises(Invalid) as caught:
            check(whole[:length])
        assert caught.value.code == "corrupt_image"


@given(st.binary(max_size=2000), st.sampled_from([b"", b"KDMV", b"COWD", b"\xbe\xba\xfe\xca"]))
def test_nonsense_is_refused_or_let_pass_but_never_fails(data: bytes, magic: bytes) -> None:
    try:
        check(magic + data)
    except Invalid as error:
        assert error.code == "corrupt_image"
