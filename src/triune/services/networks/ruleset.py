"""Our own nftables table, as data: NAT for the bridges, published ports, and the guards that make them safe."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from triune.domain.network import Network, Publish
from triune.host.nft import (
    ACCEPT,
    DROP,
    ESTABLISHED,
    LOCAL_DESTINATION,
    MASQUERADE,
    REJECT,
    TRANSLATED,
    Chain,
    Expr,
    dnat,
    field,
    match,
    meta,
    prefix,
)

# One before the places where iptables keeps its own: Docker and libvirt use those.
_RAW, _DSTNAT, _FILTER, _SRCNAT = -300, -101, -1, 99
_LOOPBACK = "127.0.0.0/8"

Rule = tuple[Expr, ...]


def build(networks: Sequence[Network], published: Iterable[tuple[str, Publish]]) -> list[Chain]:
    """The whole table. `published` are (instance's address, port) pairs, in a stable order."""
    ports = list(published)
    return [
        Chain(name="guard", type="filter", hook="prerouting", priority=_RAW,
              rules=tuple(rule for network in networks for rule in _guard(network))),
        Chain(name="arriving", type="nat", hook="prerouting", priority=_DSTNAT,
              rules=tuple(rule for address, port in ports for rule in _arriving(address, port))),
        Chain(name="own", type="nat", hook="output", priority=_DSTNAT,
              rules=tuple(_own(address, port) for address, port in ports)),
        Chain(name="forwarded", type="filter", hook="forward", priority=_FILTER,
              rules=tuple(rule for network in networks for rule in _forwarded(network))),
        Chain(name="leaving", type="nat", hook="postrouting", priority=_SRCNAT,
              rules=tuple(rule for network in networks for rule in _leaving(network))),
    ]  # fmt: skip


def _guard(network: Network) -> list[Rule]:
    # route_localnet, which publishing on 127.0.0.1 needs, would let instances reach services that listen on the
    # host's loopback only (CVE-2020-8558).
    bridge = match(meta("iifname"), network.bridge)
    return [
        (bridge, match(field("ip", "daddr"), prefix(_LOOPBACK)), DROP),
        (bridge, match(field("ip", "saddr"), prefix(_LOOPBACK)), DROP),
    ]


def _target(address: str, port: Publish) -> tuple[Expr, Expr]:
    return match(field(port.protocol, "dport"), port.host_port), dnat(address, port.guest_port)


def _arriving(address: str, port: Publish) -> list[Rule]:
    where, to = _target(address, port)
    if port.host_ip is None:
        return [(LOCAL_DESTINATION, match(field("ip", "daddr"), prefix(_LOOPBACK), "!="), where, to)]
    if port.host_ip.startswith("127."):
        return []
    return [(match(field("ip", "daddr"), port.host_ip), where, to)]


def _own(address: str, port: Publish) -> Rule:
    where, to = _target(address, port)
    at = LOCAL_DESTINATION if port.host_ip is None else match(field("ip", "daddr"), port.host_ip)
    return (at, where, to)


def _forwarded(network: Network) -> list[Rule]:
    # What was not asked for from within, or published, does not come in by being routed here.
    outward = match(meta("oifname"), network.bridge)
    return [
        (match(meta("iifname"), network.bridge), ACCEPT),
        (outward, ESTABLISHED, ACCEPT),
        (outward, TRANSLATED, ACCEPT),
        (outward, REJECT),
    ]


def _leaving(network: Network) -> list[Rule]:
    inside = prefix(network.subnet)
    source = match(field("ip", "saddr"), inside)
    outward = match(meta("oifname"), network.bridge)
    return [
        # An instance that reaches another through the host's address must get its answers that way too.
        (outward, source, TRANSLATED, match(field("ip", "saddr"), network.gateway, "!="), MASQUERADE),
        (outward, match(field("ip", "saddr"), prefix(_LOOPBACK)), MASQUERADE),
        (source, match(field("ip", "daddr"), inside, "!="),
         match(field("ip", "daddr"), prefix("224.0.0.0/4"), "!="), MASQUERADE),
    ]  # fmt: skip
