"""Hear of changes to nftables and to links and addresses as they happen, without asking.

Formats: netlink(7), rtnetlink(7), linux/netfilter/nf_tables.h. Only what can matter to a bridge of ours is reported;
changes inside others' chains, such as Docker's for each container, are not.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass

_NETFILTER = 12
_SOL_NETLINK = 270
_ADD_MEMBERSHIP = 1
_GROUP_NFTABLES = 7
_GROUP_LINK = 1
_GROUP_IPV4_ADDRESS = 5

_HEADER = struct.Struct("=LHHLL")
_ATTRIBUTE = struct.Struct("=HH")
_IFINFO = struct.Struct("=BxHiII")
_IFADDR = struct.Struct("=BBBBI")
_TYPE_MASK = 0x3FFF

_SUBSYSTEM_NFTABLES = 10
_NEW_TABLE, _DEL_TABLE, _NEW_CHAIN, _DEL_CHAIN, _NEW_RULE, _DEL_RULE = 0, 2, 3, 5, 6, 8
_RULE_TABLE, _RULE_CHAIN = 1, 2
_TABLE_NAME, _CHAIN_TABLE = 1, 1

_NEW_LINK, _DEL_LINK, _DEL_ADDRESS = 16, 17, 21
_LINK_NAME, _LINK_MASTER = 3, 10
_LINK_UP = 1


@dataclass(frozen=True, slots=True)
class RuleChange:
    """Something of nftables came or went: `what` is table, chain or rule. `chain` is empty but for a rule."""

    what: str
    table: str
    chain: str
    removed: bool


@dataclass(frozen=True, slots=True)
class LinkChange:
    """A link or its address came, changed or went. `name` is empty for an address."""

    name: str
    index: int
    gone: bool
    up: bool
    master: int


@dataclass(frozen=True, slots=True)
class Lost:
    """The kernel had more to tell than the socket could hold: look at everything."""


def rules_socket() -> socket.socket:
    """A socket that hears of nftables."""
    return _listen(_NETFILTER, _GROUP_NFTABLES)


def links_socket() -> socket.socket:
    """A socket that hears of links and IPv4 addresses."""
    return _listen(socket.NETLINK_ROUTE, _GROUP_LINK, _GROUP_IPV4_ADDRESS)


def _listen(protocol: int, *groups: int) -> socket.socket:
    found = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
    found.setblocking(False)
    found.bind((0, 0))
    for group in groups:
        found.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, group)
    return found


def received(source: socket.socket) -> Iterator[RuleChange | LinkChange | Lost]:
    """What has come in since the last call."""
    while True:
        try:
            data = source.recv(1 << 17)
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            yield Lost()
            continue
        yield from parse(data)


def parse(data: bytes) -> Iterator[RuleChange | LinkChange]:
    """Parse a datagram of netlink messages; what it does not know is passed over."""
    offset = 0
    while offset + _HEADER.size <= len(data):
        length, kind, *_ = _HEADER.unpack_from(data, offset)
        if not _HEADER.size <= length <= len(data) - offset:
            return
        body = data[offset + _HEADER.size : offset + length]
        change = _rule_change(kind & 0xFF, body) if kind >> 8 == _SUBSYSTEM_NFTABLES else _link_change(kind, body)
        if change is not None:
            yield change
        offset += (length + 3) & ~3


def _attributes(data: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    offset = 0
    while offset + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if not _ATTRIBUTE.size <= length <= len(data) - offset:
            break
        found[kind & _TYPE_MASK] = data[offset + _ATTRIBUTE.size : offset + length]
        offset += (length + 3) & ~3
    return found


def _text(value: bytes | None) -> str:
    return (value or b"").rstrip(b"\0").decode(errors="replace")


def _number(value: bytes | None) -> int:
    return int.from_bytes(value, "little") if value and len(value) == 4 else 0


def _rule_change(kind: int, body: bytes) -> RuleChange | None:
    attributes = _attributes(body[4:])
    if kind in (_NEW_RULE, _DEL_RULE):
        table, chain = _text(attributes.get(_RULE_TABLE)), _text(attributes.get(_RULE_CHAIN))
        return RuleChange("rule", table, chain, kind == _DEL_RULE)
    if kind in (_NEW_TABLE, _DEL_TABLE):
        return RuleChange("table", _text(attributes.get(_TABLE_NAME)), "", kind == _DEL_TABLE)
    if kind in (_NEW_CHAIN, _DEL_CHAIN):
        return RuleChange("chain", _text(attributes.get(_CHAIN_TABLE)), "", kind == _DEL_CHAIN)
    return None


def _link_change(kind: int, body: bytes) -> LinkChange | None:
    if kind in (_NEW_LINK, _DEL_LINK) and len(body) >= _IFINFO.size:
        _, _, index, flags, _ = _IFINFO.unpack_from(body)
        attributes = _attributes(body[_IFINFO.size :])
        master = _number(attributes.get(_LINK_MASTER))
        # A port that leaves its bridge is told as DELLINK of family AF_BRIDGE too: the link itself lives on.
        gone = kind == _DEL_LINK and body[0] == socket.AF_UNSPEC
        return LinkChange(_text(attributes.get(_LINK_NAME)), index, gone, bool(flags & _LINK_UP), master)
    if kind == _DEL_ADDRESS and len(body) >= _IFADDR.size:
        return LinkChange("", _IFADDR.unpack_from(body)[4], gone=True, up=True, master=0)
    return None
