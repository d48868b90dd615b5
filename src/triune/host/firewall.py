"""What on this host stands in the way of a bridge: reading others' firewalls, opening them for it, naming the rest."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from triune.host import iptables, net, nft
from triune.host.listeners import listeners, owners

Objects = Sequence[dict[str, Any]]

_FILTER_HOOKS = ("forward", "input")
_ARP_MINIMUM = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocker:
    """Something that blocks the network: `what` is stable (kebab-case), `fix` a command or a next step."""

    what: str
    sentence: str
    fix: str


@dataclass(frozen=True, slots=True)
class Base:
    """A base chain of nftables that is neither ours nor kept by iptables."""

    family: str
    table: str
    name: str
    hook: str

    def __str__(self) -> str:
        return f"chain {self.name} of table {self.family} {self.table}"


def _rules(objects: Objects, family: str, table: str, chain: str) -> Iterator[dict[str, Any]]:
    for item in objects:
        rule = item.get("rule")
        if rule and (rule["family"], rule["table"], rule["chain"]) == (family, table, chain):
            yield rule


def has_iptables(objects: Objects) -> bool:
    """Whether nftables holds a filter table that iptables-nft keeps."""
    return any(
        (c := item.get("chain"))
        and c["family"] == "ip"
        and c["table"] == "filter"
        and c["name"] in ("FORWARD", "INPUT")
        for item in objects
    )


def _blocks(objects: Objects, family: str, table: str, chain: str, seen: frozenset[str] = frozenset()) -> bool:
    """Whether the chain has a rule without a condition that drops, rejects, or leads to a chain that does."""
    for rule in _rules(objects, family, table, chain):
        verbs = {key: value for expr in rule.get("expr", ()) for key, value in expr.items()}
        if verbs.keys() & {"match", "limit", "vmap", "xt", "lookup"}:
            continue
        if verbs.keys() & {"drop", "reject"}:
            return True
        target = (verbs.get("jump") or verbs.get("goto") or {}).get("target")
        if target and target not in seen and _blocks(objects, family, table, target, seen | {chain}):
            return True
    return False


def closed(objects: Objects, own_table: str, *, iptables_readable: bool) -> list[Base]:
    """Base chains of others, on forward and input, that drop what they do not know."""
    found = []
    for item in objects:
        chain = item.get("chain")
        if not chain or chain.get("hook") not in _FILTER_HOOKS or chain["family"] not in ("ip", "inet"):
            continue
        family, table, name = chain["family"], chain["table"], chain["name"]
        kept = family == "ip" and table == "filter" and name in ("FORWARD", "INPUT")
        if (family, table) == (nft.FAMILY, own_table) or chain.get("type") != "filter" or (kept and iptables_readable):
            continue
        if chain.get("policy") == "drop" or _blocks(objects, family, table, name):
            found.append(Base(family, table, name, chain["hook"]))
    return found


def openings(base: Base, bridge: str) -> list[tuple[nft.Expr, ...]]:
    """The rules that let the bridge through this chain, in order."""
    inward = nft.match(nft.meta("iifname"), bridge)
    outward = nft.match(nft.meta("oifname"), bridge)
    if base.hook == "input":
        dns_dhcp = nft.match(nft.field("udp", "dport"), {"set": [53, 67]})
        dns = nft.match(nft.field("tcp", "dport"), 53)
        return [(inward, dns_dhcp, nft.ACCEPT), (inward, dns, nft.ACCEPT)]
    return [
        (inward, nft.ACCEPT),
        (outward, nft.ESTABLISHED, nft.ACCEPT),
        (outward, nft.TRANSLATED, nft.ACCEPT),
    ]


def _marks(base: Base, bridge: str) -> list[str]:
    return [f"{iptables.comment(bridge)}:{number}" for number, _ in enumerate(openings(base, bridge))]


def opened(objects: Objects, base: Base, bridge: str) -> bool:
    """Whether our rules are in this chain."""
    have = [rule.get("comment") for rule in _rules(objects, base.family, base.table, base.name)]
    return [mark for mark in have if mark in _marks(base, bridge)] == _marks(base, bridge)


def _own_rules(objects: Objects, own_table: str, bridge: str) -> Iterator[dict[str, Any]]:
    prefix = f"{iptables.comment(bridge)}:"
    for item in objects:
        rule = item.get("rule")
        if rule and rule["table"] != own_table and str(rule.get("comment", "")).startswith(prefix):
            yield {key: rule[key] for key in ("family", "table", "chain", "handle")}


def _open(objects: Objects, base: Base, bridge: str) -> None:
    here = (base.family, base.table, base.name)
    stale = [rule for rule in _own_rules(objects, "", bridge) if (rule["family"], rule["table"], rule["chain"]) == here]
    head = {"family": base.family, "table": base.table, "chain": base.name}
    pairs = list(zip(openings(base, bridge), _marks(base, bridge), strict=True))
    inserts = [{"insert": {"rule": {**head, "comment": mark, "expr": list(rule)}}} for rule, mark in reversed(pairs)]
    nft.apply({"nftables": [{"delete": {"rule": rule}} for rule in stale] + inserts})


def let_through(objects: Objects, own_table: str, bridge: str) -> list[str]:
    """Open every firewall of others that is closed to the bridge; returns what was opened, for people."""
    mended: list[str] = []
    readable = True
    programs = [iptables.NFT] if has_iptables(objects) else []
    programs += [iptables.LEGACY] if iptables.legacy_in_use() else []
    for program in programs:
        changed = iptables.mend(program, bridge)
        if changed is None and program == iptables.NFT:
            readable = False
        if changed:
            mended.append(f"accept rules for {bridge} in the filter table of {program}")
    for base in closed(objects, own_table, iptables_readable=readable):
        if not opened(objects, base, bridge):
            _open(objects, base, bridge)
            mended.append(f"accept rules for {bridge} in {base}")
    return mended


def shut_again(own_table: str, bridge: str) -> None:
    """Take every rule of ours out of others' firewalls."""
    objects = nft.ruleset()
    if has_iptables(objects):
        iptables.clear(iptables.NFT, bridge)
    if iptables.legacy_in_use():
        iptables.clear(iptables.LEGACY, bridge)
    stale = list(_own_rules(nft.ruleset(), own_table, bridge))
    if stale:
        nft.apply({"nftables": [{"delete": {"rule": rule}} for rule in stale]})


def blockers(bridge: str, *, gateway: str | None = None, own_table: str = "triune") -> list[Blocker]:
    """Everything that blocks this bridge now. Changes nothing; needs no daemon. Needs root to see firewalls."""
    found = list(_missing_tools())
    found += _kernel(bridge)
    if shutil.which("nft"):
        found += _firewalls(bridge, own_table)
    found += _name_servers(gateway)
    return found


def _missing_tools() -> Iterator[Blocker]:
    for program, package in (("nft", "nftables"), ("ip", "iproute2"), ("dnsmasq", "dnsmasq-base")):
        if shutil.which(program) is None:
            yield Blocker(
                what=f"{program}-missing",
                sentence=f"{program} is not installed, and the network needs it",
                fix=f"apt-get install {package}",
            )


def _kernel(bridge: str) -> Iterator[Blocker]:
    if net.sysctl("net/ipv4/ip_forward") == "0":
        yield Blocker(
            what="ip-forward",
            sentence="the kernel does not forward IPv4 packets, so instances reach nothing beyond the host",
            fix="sysctl -w net.ipv4.ip_forward=1",
        )
    limit = net.sysctl("net/ipv4/neigh/default/gc_thresh3")
    if limit is not None and int(limit) < _ARP_MINIMUM:
        yield Blocker(
            what="arp-table",
            sentence=f"the ARP table holds {limit} neighbours at most; some {int(limit) * 3 // 4} instances "
            "that talk to the host fill it",
            fix=f"sysctl -w net.ipv4.neigh.default.gc_thresh2={_ARP_MINIMUM // 2} "
            f"net.ipv4.neigh.default.gc_thresh3={_ARP_MINIMUM}",
        )
    mine = net.link(bridge)
    if mine is not None and mine.kind != "bridge":
        yield Blocker(
            what="not-a-bridge",
            sentence=f"{bridge} is a network interface of another kind ({mine.kind or 'physical'})",
            fix=f"ip link set dev {bridge} name other0",
        )


def _firewalls(bridge: str, own_table: str) -> Iterator[Blocker]:
    objects = nft.ruleset()
    readable = True
    bridged = net.sysctl("net/bridge/bridge-nf-call-iptables") == "1"
    aside = "; bridge-nf-call-iptables is 1, so even instances cannot reach each other" if bridged else ""
    fix = "The daemon opens it while it runs: triune serve"
    programs = [iptables.NFT] if has_iptables(objects) else []
    programs += [iptables.LEGACY] if iptables.legacy_in_use() else []
    for program in programs:
        table = iptables.read(program)
        if table is None:
            readable = readable and program != iptables.NFT
        elif iptables.missing(table, bridge):
            for chain in ("FORWARD", "INPUT"):
                if iptables.blocks(table, chain):
                    yield Blocker(
                        what="forward-drop" if chain == "FORWARD" else "input-drop",
                        sentence=f"chain {chain} of the filter table ({program}) drops what it does not know and "
                        f"has no rule for {bridge}{aside if chain == 'FORWARD' else ''}",
                        fix=fix,
                    )
    for base in closed(objects, own_table, iptables_readable=readable):
        if not opened(objects, base, bridge):
            yield Blocker(
                what=f"{base.hook}-drop",
                sentence=f"{base} drops what it does not know and has no rule for {bridge}"
                f"{aside if base.hook == 'forward' else ''}",
                fix=fix,
            )


def _name_servers(gateway: str | None) -> Iterator[Blocker]:
    """Programs that hold port 53 of every address: ours could not listen on the bridge's."""
    held = [one for one in listeners() if one.port == 53 and one.address is None]
    names = owners(held)
    for one in held:
        yield Blocker(
            what="port-53",
            sentence=f"{names.get(one.inode, 'a program')} listens on port 53/{one.protocol} of every address"
            + (f", {gateway} included" if gateway else ""),
            fix="Bind it to the addresses it serves (dnsmasq: bind-dynamic and except-interface).",
        )
