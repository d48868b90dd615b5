"""nftables through its JSON interface (libnftables-json(5)): read the ruleset, replace one table in one transaction.

A table is described as data: base chains and rules, built by the small functions below. What is written carries a
fingerprint in an unhooked chain, so that one listing tells whether the table is still ours, whole, and current.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from triune.host.run import run

FAMILY = "ip"
_MARK = "fingerprint"

Expr = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """A base chain with its rules, each a list of expressions."""

    name: str
    type: str
    hook: str
    priority: int
    rules: tuple[tuple[Expr, ...], ...]


def match(left: Expr, right: Any, op: str = "==") -> Expr:
    """Compare two expressions."""
    return {"match": {"op": op, "left": left, "right": right}}


def meta(key: str) -> Expr:
    """Packet metadata: `iifname`, `oifname`."""
    return {"meta": {"key": key}}


def field(protocol: str, name: str) -> Expr:
    """A header field: `ip saddr`, `tcp dport`."""
    return {"payload": {"protocol": protocol, "field": name}}


def conntrack(key: str) -> Expr:
    """Connection tracking: `state`, `status`."""
    return {"ct": {"key": key}}


def prefix(network: str) -> Expr:
    """`10.87.0.0/16` as an operand."""
    address, _, length = network.partition("/")
    return {"prefix": {"addr": address, "len": int(length)}}


LOCAL_DESTINATION: Expr = match({"fib": {"result": "type", "flags": ["daddr"]}}, "local")
ESTABLISHED: Expr = match(conntrack("state"), ["established", "related"], "in")
TRANSLATED: Expr = match(conntrack("status"), "dnat", "in")
ACCEPT: Expr = {"accept": None}
DROP: Expr = {"drop": None}
MASQUERADE: Expr = {"masquerade": None}
REJECT: Expr = {"reject": {"type": "icmp", "expr": "admin-prohibited"}}


def dnat(address: str, port: int) -> Expr:
    """Send it to this address and port."""
    return {"dnat": {"addr": address, "port": port}}


def fingerprint(chains: Sequence[Chain]) -> str:
    """Short digest of what the table should hold."""
    text = json.dumps([[c.name, c.type, c.hook, c.priority, c.rules] for c in chains], sort_keys=True)
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()[:32]


def transaction(table: str, chains: Sequence[Chain]) -> dict[str, Any]:
    """The JSON that replaces the whole table at once. Adding it first makes the deletion never fail."""
    head = {"family": FAMILY, "table": table}
    named = {"table": {"family": FAMILY, "name": table}}
    commands: list[dict[str, Any]] = [{"add": named}, {"delete": named}, {"add": named}]
    commands.append({"add": {"chain": {**head, "name": _MARK}}})
    mark = {**head, "chain": _MARK, "comment": fingerprint(chains), "expr": [{"counter": None}]}
    commands.append({"add": {"rule": mark}})
    for chain in chains:
        base = {"name": chain.name, "type": chain.type, "hook": chain.hook, "prio": chain.priority}
        commands.append({"add": {"chain": {**head, **base, "policy": "accept"}}})
        commands.extend({"add": {"rule": {**head, "chain": chain.name, "expr": list(rule)}}} for rule in chain.rules)
    return {"nftables": commands}


def apply(commands: dict[str, Any]) -> None:
    """Hand a transaction to nft. Raises Failed, or Unsupported where nft is missing."""
    run(["nft", "-j", "-f", "-"], stdin=json.dumps(commands).encode())


def ruleset() -> list[dict[str, Any]]:
    """Every object of every table: `{"table"|"chain"|"rule"|…: {…}}`."""
    # -t leaves out the elements of sets, which may be many and matter to nobody here.
    done = run(["nft", "-j", "-t", "list", "ruleset"], check=False)
    if done.status != 0 or not done.stdout.strip():
        return []
    objects: list[dict[str, Any]] = json.loads(done.stdout).get("nftables", [])
    return objects


def intact(objects: Sequence[dict[str, Any]], table: str, chains: Sequence[Chain]) -> bool:
    """Whether the listed ruleset holds this very table, with every chain and as many rules as were written."""
    found: dict[str, int] = {}
    marks: list[str] = []
    for item in objects:
        chain, rule = item.get("chain"), item.get("rule")
        if chain and (chain["family"], chain["table"]) == (FAMILY, table):
            found.setdefault(chain["name"], 0)
        if rule and (rule["family"], rule["table"]) == (FAMILY, table):
            found[rule["chain"]] = found.get(rule["chain"], 0) + 1
            if rule["chain"] == _MARK:
                marks.append(rule.get("comment", ""))
    wanted = {chain.name: len(chain.rules) for chain in chains} | {_MARK: 1}
    return found == wanted and marks == [fingerprint(chains)]


def delete_table(table: str) -> None:
    """Remove the table; gone is fine."""
    named = {"table": {"family": FAMILY, "name": table}}
    apply({"nftables": [{"add": named}, {"delete": named}]})
