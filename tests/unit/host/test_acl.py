"""Access control lists as text become what the kernel stores."""

from __future__ import annotations

import struct
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triune.domain.errors import Invalid
from triune.host.acl import to_attribute

EXPECTED = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", *entry)
    for entry in ((1, 7, 0xFFFFFFFF), (2, 5, 1005), (4, 5, 0xFFFFFFFF), (0x10, 5, 0xFFFFFFFF), (0x20, 4, 0xFFFFFFFF))
)


@pytest.mark.parametrize(
    "text",
    [
        "user::rwx,user:1005:r-x,group::r-x,mask::r-x,other::r--",
        "user::rwx\nuser:1005:r-x\t#effective:r-x\ngroup::r-x\nmask::r-x\nother::r--\n",
        "user::rwx,user:anna:r-x:1005,group::r-x,mask::r-x,other::r--",
        "other::r--,mask::r-x,group::r-x,user:1005:r-x,user::rwx",
    ],
)
def test_lists_are_read(text: str) -> None:
    assert to_attribute(text) == EXPECTED


@pytest.mark.parametrize(
    "text",
    ["", "user::rwx", "user::rwx,group::rwx,other::rwz", "user::rwx,group::r-x,other::r--,user:anna:r-x",
     "user::rwx,group::r-x,other::r--,user:4294967295:r-x", "user::rwx,group::r-x,who::r--"],
)  # fmt: skip
def test_what_is_no_list_is_refused(text: str) -> None:
    with pytest.raises(Invalid):
        to_attribute(text)


@given(st.text(alphabet="usergopmakth:rwx-,\n#0123456789²", max_size=80))
def test_any_text_is_read_or_refused(text: str) -> None:
    with suppress(Invalid):
        to_attribute(text)
