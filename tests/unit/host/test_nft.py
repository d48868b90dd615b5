"""Our table: written as one transaction, recognised when it is whole."""

from __future__ import annotations

from typing import Any

from triune.host import nft

CHAINS = [
    nft.Chain(name="one", type="nat", hook="prerouting", priority=-101, rules=((nft.ACCEPT,), (nft.DROP,))),
    nft.Chain(name="two", type="filter", hook="forward", priority=0, rules=()),
]


def listed(commands: dict[str, Any], table: str = "t") -> list[dict[str, Any]]:
    """What `nft -j list ruleset` would answer, as far as it matters."""
    return [command["add"] for command in commands["nftables"][2:]]


def test_the_transaction_replaces_the_table() -> None:
    commands = nft.transaction("t", CHAINS)["nftables"]
    assert [next(iter(command)) for command in commands[:3]] == ["add", "delete", "add"]
    assert all(command.get("add", {}).get("rule", {}).get("table", "t") == "t" for command in commands)


def test_a_whole_table_is_intact_and_a_harmed_one_is_not() -> None:
    objects = listed(nft.transaction("t", CHAINS))
    assert nft.intact(objects, "t", CHAINS)
    for number, item in enumerate(objects):
        if "rule" not in item and item.get("chain", {}).get("name") != "two":
            continue
        assert not nft.intact(objects[:number] + objects[number + 1 :], "t", CHAINS), objects[number]
    extra = {"rule": {"family": "ip", "table": "t", "chain": "one", "expr": [nft.DROP]}}
    assert not nft.intact([*objects, extra], "t", CHAINS)
    assert not nft.intact(objects, "t", CHAINS[:1])
    assert not nft.intact([], "t", CHAINS)


def test_others_tables_do_not_matter() -> None:
    objects = listed(nft.transaction("t", CHAINS))
    other = [{"rule": {"family": "inet", "table": "t", "chain": "one", "expr": []}}]
    assert nft.intact(objects + other, "t", CHAINS)


def test_the_fingerprint_follows_the_rules() -> None:
    changed = [CHAINS[0], nft.Chain(name="two", type="filter", hook="forward", priority=1, rules=())]
    assert nft.fingerprint(CHAINS) != nft.fingerprint(changed)
