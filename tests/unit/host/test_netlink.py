"""Netlink messages: those of a real kernel, and nonsense."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from triune.host import netlink
from triune.host.netlink import LinkChange, RuleChange


def attribute(kind: int, value: bytes) -> bytes:
    length = 4 + len(value)
    return struct.pack("=HH", length, kind) + value + bytes(-length % 4)


def message(kind: int, body: bytes) -> bytes:
    return struct.pack("=LHHLL", 16 + len(body), kind, 0, 0, 0) + body


def rule(kind: int, table: bytes, chain: bytes) -> bytes:
    return message(10 << 8 | kind, b"\x02\0\0\0" + attribute(1, table + b"\0") + attribute(2, chain + b"\0"))


def test_rules_tables_and_chains() -> None:
    data = rule(6, b"filter", b"DOCKER") + rule(8, b"filter", b"FORWARD")
    data += message(10 << 8 | 2, b"\x02\0\0\0" + attribute(1, b"triune\0"))
    assert list(netlink.parse(data)) == [
        RuleChange("rule", "filter", "DOCKER", removed=False),
        RuleChange("rule", "filter", "FORWARD", removed=True),
        RuleChange("table", "triune", "", removed=True),
    ]


def test_links_and_addresses() -> None:
    head = struct.pack("=BxHiII", 0, 1, 7, 1, 0)
    joined = message(16, head + attribute(3, b"veth0\0") + attribute(10, struct.pack("=I", 4)))
    gone = message(17, head + attribute(3, b"br0\0"))
    # Leaving a bridge is told as the removal of a link of family AF_BRIDGE.
    left = message(17, struct.pack("=BxHiII", 7, 1, 7, 1, 0) + attribute(3, b"veth0\0"))
    address = message(21, struct.pack("=BBBBI", 2, 16, 0, 0, 4))
    assert list(netlink.parse(joined + gone + left + address)) == [
        LinkChange("veth0", 7, gone=False, up=True, master=4),
        LinkChange("br0", 7, gone=True, up=True, master=0),
        LinkChange("veth0", 7, gone=False, up=True, master=0),
        LinkChange("", 4, gone=True, up=True, master=0),
    ]


@given(st.binary(max_size=200))
def test_nonsense_ends(data: bytes) -> None:
    list(netlink.parse(data))


@given(st.integers(0, 0xFFFF), st.binary(max_size=80))
def test_a_message_with_any_body_ends(kind: int, body: bytes) -> None:
    list(netlink.parse(message(kind, body)))
