"""Detection is bounded, never surprised, and never calls anything raw."""

from __future__ import annotations

import io
import struct
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from triune.disks import qcow2, vmdk
from triune.disks.detect import Content, detect
from triune.domain.errors import Failed, Invalid, TriuneError


class Counting(io.BytesIO):
    """Counts what is read."""

    taken = 0

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        self.taken += len(data)
        return data


def at(offset: int, mark: bytes, size: int = 0) -> bytes:
    return (bytes(offset) + mark).ljust(size, b"\0")


@pytest.mark.parametrize(
    ("data", "content"),
    [
        (b"QFI\xfb\x00\x00\x00\x03", Content.QCOW2),
        (b"QFI\xfb\x00\x00\x00\x01", Content.QCOW),
        (b"KDMV\x01\x00\x00\x00", Content.VMDK),
        (b"\xbe\xba\xfe\xca\x00\x00\x00\x00", Content.VMDK),
        (b"# Disk DescriptorFile\nversion=1\n", Content.VMDK),
        (b"\xef\xbb\xbf\n# disk descriptorfile\n", Content.VMDK),
        (at(0x40, b"\x7f\x10\xda\xbe"), Content.VDI),
        (at(0x8001, b"CD001"), Content.ISO),
        (at(257, b"ustar"), Content.TAR),
        (at(4096, b"conectix", 4608), Content.VHD),
        (b"\x1f\x8b\x08", Content.GZIP),
        (b"hsqs", Content.SQUASHFS),
        (b"", Content.UNKNOWN),
        (b"hello", Content.UNKNOWN),
    ],
)
def test_known_marks(data: bytes, content: Content) -> None:
    assert detect(io.BytesIO(data)).content is content


def test_a_hybrid_installer_is_an_installer_and_a_disk_is_unknown() -> None:
    mbr = at(510, b"\x55\xaa")
    assert detect(io.BytesIO(mbr)).partitions == "mbr"
    assert detect(io.BytesIO(mbr)).content is Content.UNKNOWN
    assert detect(io.BytesIO(mbr.ljust(0x8001, b"\0") + b"CD001")).content is Content.ISO
    assert detect(io.BytesIO(at(512, b"EFI PART"))).partitions == "gpt"


@given(
    st.binary(max_size=2048), st.sampled_from([b"", b"QFI\xfb\0\0\0\3", b"KDMV\1\0\0\0", b"# Disk DescriptorFile\n"])
)
@example(b"", b"QFI\xfb\0\0\0\3")
def test_nothing_but_domain_errors(data: bytes, head: bytes) -> None:
    raw = head + data
    detect(io.BytesIO(raw))
    for read in (qcow2.read_header, vmdk.inspect):
        stream = Counting(raw)
        try:
            read(stream)
        except TriuneError as error:
            assert error.hint
        assert stream.taken <= 1 << 17


def test_reads_are_bounded() -> None:
    stream = Counting(bytes(4 << 20))
    detect(stream)
    assert stream.taken <= 0x9000 + 512


def test_an_unreadable_file_is_a_domain_error() -> None:
    class Broken(io.BytesIO):
        def read(self, *_: Any) -> bytes:
            raise OSError(5, "Input/output error")

    with pytest.raises(Failed, match="Input/output"):
        detect(Broken(b"x"))


def header(*, version: int = 3, backing: int = 0, bits: int = 16, size: int = 1 << 30, crypt: int = 0,
           incompatible: int = 0, extensions: bytes = b"") -> bytes:  # fmt: skip
    head = struct.pack(">4sIQIIQIIQQIIQ", b"QFI\xfb", version, backing, 0, bits, size, crypt, 1, 0, 0, 1, 0, 0)
    if version == 3:
        head += struct.pack(">QQQII", incompatible, 0, 0, 4, 104)
    return head + extensions + bytes(64)


def test_qcow2_header_tells_what_it_points_to() -> None:
    plain = qcow2.read_header(io.BytesIO(header()))
    assert (plain.virtual_size, plain.backing, plain.external_data) == (1 << 30, False, False)
    assert qcow2.read_header(io.BytesIO(header(version=2, backing=512))).backing
    assert qcow2.read_header(io.BytesIO(header(incompatible=4))).external_data
    # The feature bit may be missing while the name is there.
    named = struct.pack(">II", 0x6803F857, 0) + struct.pack(">II", 0x44415441, 8) + b"/etc/shadow"
    assert qcow2.read_header(io.BytesIO(header(extensions=named))).external_data
    assert qcow2.read_header(io.BytesIO(header(crypt=2))).encrypted


@pytest.mark.parametrize("bad", [header(version=9), header(bits=40), header()[:50], header()[:90]])
def test_a_damaged_qcow2_header(bad: bytes) -> None:
    with pytest.raises(Invalid) as caught:
        qcow2.read_header(io.BytesIO(bad))
    assert caught.value.code == "corrupt_image"


def test_vmdk_descriptor_tells_extents_and_parent() -> None:
    text = (
        b"# Disk DescriptorFile\nCID=12345678\nparentCID=ffffffff\ncreateType=\"monolithicFlat\"\n"
        b'RW 2048 FLAT "/etc/shadow" 0\nRW 2048 ZERO\n'
    )  # fmt: skip
    info = vmdk.inspect(io.BytesIO(text))
    assert info.extents == ("/etc/shadow",)
    assert info.virtual_size == 2 * 2048 * 512
    assert not info.parent
    assert vmdk.inspect(io.BytesIO(text.replace(b"ffffffff", b"0badcafe"))).parent
