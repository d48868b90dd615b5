"""Reading others' filter tables, and what a bridge needs in them."""

from __future__ import annotations

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triune.domain.errors import Invalid
from triune.host import iptables

DOCKER = """-P INPUT ACCEPT
-P FORWARD DROP
-P OUTPUT ACCEPT
-N DOCKER
-N DOCKER-ISOLATION-STAGE-1
-N DOCKER-USER
-A FORWARD -j DOCKER-USER
-A FORWARD -j DOCKER-ISOLATION-STAGE-1
-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -i docker0 -o docker0 -j ACCEPT
-A DOCKER-USER -j RETURN
"""
UFW = """-P INPUT DROP
-P FORWARD ACCEPT
-N ufw-before-forward
-N ufw-reject-forward
-A INPUT -m comment --comment "with spaces" -j ACCEPT
-A FORWARD -j ufw-before-forward
-A FORWARD -j ufw-reject-forward
-A ufw-reject-forward -j REJECT --reject-with icmp-port-unreachable
"""
LIBVIRT = """-P INPUT ACCEPT
-P FORWARD ACCEPT
-N LIBVIRT_FWI
-A FORWARD -j LIBVIRT_FWI
-A LIBVIRT_FWI -o virbr0 -j REJECT --reject-with icmp-port-unreachable
"""


def table(text: str) -> iptables.Filter:
    return iptables.parse(iptables.NFT, text)


def applied(before: iptables.Filter, script: bytes) -> iptables.Filter:
    """What `iptables-restore --noflush` would make of it."""
    chains = {name: list(rules) for name, rules in before.chains.items()}
    for line in script.decode().splitlines()[1:-1]:
        verb, chain, *rest = shlex.split(line)
        if verb == "-D":
            chains[chain].remove(tuple(rest))
        else:
            chains[chain].insert(int(rest[0]) - 1, tuple(rest[1:]))
    return iptables.Filter(before.program, before.policies, {name: tuple(rules) for name, rules in chains.items()})


def targets(found: iptables.Filter, chain: str) -> list[str]:
    return [" ".join(rule).replace("-m comment --comment triune:br0 ", "") for rule in found.chains[chain]]


def test_behind_docker_the_bridge_is_let_in_first_and_out_last() -> None:
    after = applied(table(DOCKER), iptables.script(table(DOCKER), "br0"))
    assert targets(after, "DOCKER-USER") == [
        "-i br0 -o br0 -j ACCEPT",
        "-o br0 -m conntrack --ctstate RELATED,ESTABLISHED,DNAT -j ACCEPT",
        "-j RETURN",
    ]
    assert targets(after, "FORWARD")[-1] == "-i br0 -j ACCEPT"
    assert len(after.chains["FORWARD"]) == 5
    assert not iptables.missing(after, "br0")
    assert iptables.missing(after, "br1")


def test_before_ufw_rejects_everything_is_at_the_head() -> None:
    after = applied(table(UFW), iptables.script(table(UFW), "br0"))
    assert targets(after, "FORWARD")[:3] == [
        "-i br0 -o br0 -j ACCEPT",
        "-o br0 -m conntrack --ctstate RELATED,ESTABLISHED,DNAT -j ACCEPT",
        "-i br0 -j ACCEPT",
    ]
    assert targets(after, "INPUT")[:2] == [
        "-i br0 -p udp -m multiport --dports 53,67 -j ACCEPT",
        "-i br0 -p tcp -m multiport --dports 53 -j ACCEPT",
    ]
    assert not iptables.missing(after, "br0")


def test_docker_before_ufw_gets_the_way_out_between_them() -> None:
    both = DOCKER + "-N ufw-reject-forward\n-A FORWARD -j ufw-reject-forward\n-A ufw-reject-forward -j REJECT\n"
    after = applied(table(both), iptables.script(table(both), "br0"))
    forward = targets(after, "FORWARD")
    assert forward.index("-i br0 -j ACCEPT") == forward.index("-j ufw-reject-forward") - 1


@pytest.mark.parametrize("text", [LIBVIRT, "-P INPUT ACCEPT\n-P FORWARD ACCEPT\n", ""])
def test_an_open_table_is_left_alone(text: str) -> None:
    assert iptables.wanted(table(text), "br0") == []
    assert not iptables.missing(table(text), "br0")


def test_rules_no_longer_needed_are_taken_out() -> None:
    mended = applied(table(DOCKER), iptables.script(table(DOCKER), "br0"))
    opened = iptables.Filter(mended.program, {**mended.policies, "FORWARD": "ACCEPT"}, mended.chains)
    assert iptables.missing(opened, "br0")
    assert applied(opened, iptables.script(opened, "br0")).chains == table(DOCKER).chains


def test_a_rule_behind_a_final_one_counts_as_missing() -> None:
    mended = applied(table(UFW), iptables.script(table(UFW), "br0"))
    chains = {**mended.chains, "FORWARD": (("-j", "DROP"), *mended.chains["FORWARD"])}
    late = iptables.Filter(mended.program, mended.policies, chains)
    assert iptables.missing(late, "br0")
    assert not iptables.missing(applied(late, iptables.script(late, "br0")), "br0")


def test_chains_that_call_each_other_end() -> None:
    ring = "-P FORWARD ACCEPT\n-N a\n-N b\n-A FORWARD -j a\n-A a -j b\n-A b -j a\n"
    assert not iptables.blocks(table(ring), "FORWARD")


@pytest.mark.parametrize("name", ["br0 -j DROP", "br0\nCOMMIT", "x" * 16, "", "-i"])
def test_a_hostile_bridge_name_reaches_no_script(name: str) -> None:
    with pytest.raises(Invalid):
        iptables.script(table(DOCKER), name)


_WORDS = st.sampled_from(["-A", "-P", "-N", "FORWARD", "INPUT", "DROP", "ACCEPT", "-j", "x", "DOCKER-USER", '"', "-i"])


@given(st.lists(st.lists(_WORDS, max_size=6).map(" ".join), max_size=10))
def test_mending_any_table_once_is_enough(lines: list[str]) -> None:
    before = table("\n".join(lines))
    after = applied(before, iptables.script(before, "br0"))
    assert not iptables.missing(after, "br0")
    assert applied(after, iptables.script(after, "br0", remove=True)).chains == before.chains
