"""VMX files, whoever wrote them."""

from __future__ import annotations

import contextlib

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


@given(st.binary(max_size=400))
def test_what_was_read_is_written_byte_for_byte(data: bytes) -> None:
    with contextlib.suppress(Invalid):
        assert Vmx.parse(data).encode() == data


@given(st.dictionaries(st.from_regex(r"[a-z][a-z0-9.:]{0,20}", fullmatch=True), st.text(max_size=30), max_size=8))
def test_what_was_set_is_read_again(values: dict[str, str]) -> None:
    vmx = Vmx('.encoding = "UTF-8"\n')
    kept = {key: value for key, value in values.items() if key != "encoding" and _writable(value)}
    for key, value in kept.items():
        vmx.set(key, value)
    again = Vmx.parse(vmx.encode())
    assert {key: again.get(key, "?") for key in kept} == kept


def _writable(value: str) -> bool:
    try:
        value.encode()
    except UnicodeError:
        return False
    return True


def test_lines_are_changed_in_their_place() -> None:
    vmx = Vmx.parse(PLAIN)
    vmx.set("memsize", "2048")
    vmx.set("annotation", 'two\nlines "quoted"')
    vmx.remove("displayname")
    assert vmx.encode() == (
        b'.encoding = "UTF-8"\r\n# a comment\r\n\r\nmemsize = 512\r\nnonsense\r\nmemsize = "2048"\r\n'
        b'annotation = "two|0Alines |22quoted|22"\r\n'
    )
    assert not vmx.encrypted and Vmx.parse(b'encryption.keySafe = "vmware:key/list/(x)"').encrypted
