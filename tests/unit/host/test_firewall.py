"""Base chains of plain nftables that stand in the way."""

from __future__ import annotations

from typing import Any

from triune.host import firewall, nft


def chain(table: str, name: str, policy: str = "accept", hook: str = "forward", family: str = "inet") -> dict[str, Any]:
    head = {"family": family, "table": table, "name": name}
    return {"chain": {**head, "type": "filter", "hook": hook, "prio": 0, "policy": policy}}


def rule(table: str, name: str, *expr: Any, comment: str = "", handle: int = 1) -> dict[str, Any]:
    return {
        "rule": {
            "family": "inet",
            "table": table,
            "chain": name,
            "handle": handle,
            "comment": comment,
            "expr": list(expr),
        }
    }


def names(objects: list[dict[str, Any]], *, readable: bool = True) -> list[str]:
    return [str(base) for base in firewall.closed(objects, "triune", iptables_readable=readable)]


def test_a_dropping_policy_is_seen() -> None:
    objects = [chain("site", "through", "drop"), chain("site", "inward", "drop", hook="input")]
    assert names(objects) == ["chain through of table inet site", "chain inward of table inet site"]


def test_a_final_reject_is_seen_through_jumps_that_go_in_circles() -> None:
    objects = [
        chain("firewalld", "filter_FORWARD"),
        rule("firewalld", "filter_FORWARD", {"jump": {"target": "policies"}}),
        rule("firewalld", "policies", {"jump": {"target": "policies"}}),
        rule("firewalld", "policies", {"counter": {}}, nft.REJECT),
    ]
    assert names(objects) == ["chain filter_FORWARD of table inet firewalld"]


def test_a_conditional_drop_is_not_taken_for_a_closed_door() -> None:
    invalid = nft.match(nft.conntrack("state"), "invalid", "in")
    objects = [chain("site", "through"), rule("site", "through", invalid, nft.DROP)]
    assert names(objects) == []


def test_our_own_table_and_what_iptables_keeps_are_left_to_others() -> None:
    objects = [chain("triune", "forwarded", "drop", family="ip"), chain("filter", "FORWARD", "drop", family="ip")]
    assert names(objects) == []
    assert names(objects, readable=False) == ["chain FORWARD of table ip filter"]
    assert firewall.has_iptables(objects)


def test_an_opened_chain_is_recognised_only_whole() -> None:
    base = firewall.Base("inet", "site", "through", "forward")
    rules = [rule("site", "through", nft.ACCEPT, comment=f"triune:br0:{number}") for number in range(3)]
    assert firewall.opened(rules, base, "br0")
    assert not firewall.opened(rules[1:], base, "br0")
    assert not firewall.opened(rules, base, "br1")
