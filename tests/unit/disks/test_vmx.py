"""VMX files, whoever wrote them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triune.disks.vmx import LARGEST, Vmx
from triune.domain.errors import Invalid

PLAIN = (
    b'.encoding = "UTF-8"\r\n# a comment\r\n\r\ndisplayName = "w|22eb|7C"\r\nmemsize = 512\r\n'
    b'nonsense\r\nMemSize = "1024"\r\n'
)


def test_lines_with_their_numbers() -> None:
    vmx = Vmx.parse(PLAIN)
    assert list(vmx.items()) == [
        (".encoding", "UTF-8", 1),
        ("displayName", 'w"eb|', 4),
        ("memsize", "512", 5),
        ("MemSize", "1024", 7),
    ]
    assert vmx.get("MEMSIZE") == "1024"
    assert vmx.get("none", "x") == "x"
    assert vmx.unread == (6,)


def test_encodings() -> None:
    assert Vmx.parse('.encoding = "GBK"\ndisplayName = "虚拟机"'.encode("gbk")).get("displayname") == "虚拟机"
    assert Vmx.parse(b'displayName = "caf\xe9"').get("displayName") == "café"
    assert Vmx.parse('\ufeffname = "x"'.encode()).get("name") == "x"


@pytest.mark.parametrize("data", [b"a\0b = 1", b"x" * (LARGEST + 1)])
def test_what_is_no_vmx(data: bytes) -> None:
    with pytest.raises(Invalid) as caught:
        Vmx.parse(data)
    assert caught.value.code == "bad_vmx"


@given(st.binary(max_size=400))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        vmx = Vmx.parse(data)
    except Invalid:
        return
    assert all(key and number >= 1 for key, _, number in vmx.items())
