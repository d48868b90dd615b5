"""libvirt's save files: what is read is what was written, and nothing else is taken for one."""

from __future__ import annotations

import io
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triune.domain.errors import Failed
from triune.engines.kvm import savefile
from triune.engines.kvm.savefile import Head

_texts = st.text(st.characters(blacklist_characters="\0", blacklist_categories=("Cs",)))


@given(xml=_texts, cookie=_texts, running=st.booleans(), compression=st.integers(0, 4), memory=st.binary())
def test_what_is_written_is_read(xml: str, cookie: str, running: bool, compression: int, memory: bytes) -> None:
    head = Head(xml=xml, cookie=cookie, running=running, compression=compression)
    file = io.BytesIO(head.packed() + memory)
    found = savefile.read(file)
    assert (found.xml, found.cookie, found.running, found.compression) == (xml, cookie, running, compression)
    assert file.read() == memory
    assert found.memory == len(head.packed())


@given(st.binary(max_size=400))
def test_noise_is_refused(data: bytes) -> None:
    with pytest.raises(Failed, match="save file"):
        savefile.read(io.BytesIO(data))


@given(st.binary(max_size=200), st.lists(st.integers(0, 2**32 - 1), min_size=5, max_size=5))
def test_any_header_is_read_or_refused(data: bytes, words: list[int]) -> None:
    file = io.BytesIO(struct.pack("=16s5I56x", b"LibvirtQemudSave", *words) + data)
    try:
        found = savefile.read(file)
    except Failed as error:
        assert error.code == "bad_save_file"
    else:
        assert found.memory <= 92 + len(data)


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"LibvirtQemudPart" + struct.pack("=5I56x", 2, 4, 1, 0, 0) + b"<d>\0", "never completed"),
        (b"LibvirtQemudSave" + struct.pack("=5I56x", 3, 4, 1, 0, 0) + b"<d>\0", "version 3"),
        (b"LibvirtQemudSave" + struct.pack("=5I56x", 2, 9, 1, 0, 0) + b"<d>\0", "ends before its memory"),
        (b"LibvirtQemudSave" + struct.pack("=5I56x", 2, 3, 1, 0, 0) + b"<d>", "does not end"),
        (b"LibvirtQemudSave" + struct.pack("=5I56x", 2, 2**31, 1, 0, 0), "makes no sense"),
        (b"LibvirtQemudSave" + struct.pack("=5I56x", 2, 4, 1, 0, 4) + b"<d>\0", "makes no sense"),
        (b"LibvirtQemud", "too short"),
    ],
)
def test_what_is_wrong_is_told(raw: bytes, why: str) -> None:
    with pytest.raises(Failed, match=why):
        savefile.read(io.BytesIO(raw))


def test_a_nul_never_reaches_the_file() -> None:
    with pytest.raises(Failed, match="NUL"):
        Head(xml="<domain>\0</domain>").packed()


def test_as_libvirt_writes_it() -> None:
    """Byte for byte what libvirt 9.0 put before the XML of a running domain with a cookie, its padding left out."""
    head = Head(xml="<domain/>", cookie="<cookie/>")
    assert head.packed() == (
        b"LibvirtQemudSave" + bytes.fromhex("02000000 14000000 01000000 00000000 0a000000") + bytes(56)
        + b"<domain/>\0<cookie/>\0"
    )  # fmt: skip
