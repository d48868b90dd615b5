"""Accept rules for a bridge in the filter table of iptables, whichever backend holds it.

A packet that one table drops cannot be saved by an accept in another, so our own nftables table is not enough
where FORWARD or INPUT drop what they do not know: Docker (FORWARD policy DROP), ufw, firewalld, rules by hand.
There, and only there, a few rules marked with a comment let the bridge through; others' rules are never touched.

Format: `iptables -S`, which prints what `iptables` would take as arguments.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from triune.domain.errors import Invalid, TriuneError
from triune.host.net import link_name
from triune.host.run import run

NFT = "iptables-nft"
LEGACY = "iptables-legacy"
DOCKER_USER = "DOCKER-USER"
_WORD = re.compile(r"[A-Za-z0-9_,.:+!-]+", re.ASCII)
_FINAL = ("DROP", "REJECT")

Rule = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Filter:
    """The filter table as one backend shows it: policies of built-in chains, rules of all."""

    program: str
    policies: Mapping[str, str] = field(default_factory=dict)
    chains: Mapping[str, tuple[Rule, ...]] = field(default_factory=dict)


def comment(bridge: str) -> str:
    """The comment that marks our rules for this bridge."""
    return f"triune:{bridge}"


def legacy_in_use() -> bool:
    """Whether the old backend holds a filter table here. Asking iptables-legacy itself would create one."""
    try:
        return "filter" in Path("/proc/thread-self/net/ip_tables_names").read_text().split()
    except OSError:
        return False


def read(program: str) -> Filter | None:
    """The filter table, or None where the program is missing or cannot express what the table holds."""
    try:
        done = run([program, "-w", "-S"], check=False)
    except TriuneError:
        return None
    return parse(program, done.text) if done.status == 0 else None


def parse(program: str, text: str) -> Filter:
    """Parse `iptables -S`."""
    policies: dict[str, str] = {}
    chains: dict[str, list[Rule]] = {}
    for line in text.splitlines():
        try:
            words = shlex.split(line)
        except ValueError:
            continue
        if len(words) == 3 and words[0] == "-P":
            policies[words[1]] = words[2]
            chains.setdefault(words[1], [])
        elif len(words) == 2 and words[0] == "-N":
            chains.setdefault(words[1], [])
        elif len(words) > 2 and words[0] == "-A":
            chains.setdefault(words[1], []).append(tuple(words[2:]))
    return Filter(program, policies, {name: tuple(rules) for name, rules in chains.items()})


def _target(rule: Rule) -> str:
    """Where an unconditional rule sends everything; empty for a conditional one."""
    return rule[1] if len(rule) >= 2 and rule[0] in ("-j", "-g") else ""


def blocks(table: Filter, chain: str, seen: frozenset[str] = frozenset()) -> bool:
    """Whether the chain ends in dropping what no rule knows."""
    if table.policies.get(chain) == "DROP":
        return True
    for rule in table.chains.get(chain, ()):
        target = _target(rule)
        if target in _FINAL:
            return True
        if target in table.chains and target not in seen and blocks(table, target, seen | {chain}):
            return True
    return False


def _ours(rule: Rule, bridge: str) -> bool:
    mark = ("--comment", comment(bridge))
    return any(rule[at : at + 2] == mark for at in range(len(rule) - 1))


def _rule(bridge: str, *matches: str) -> Rule:
    return (*matches, "-m", "comment", "--comment", comment(bridge), "-j", "ACCEPT")


def wanted(table: Filter, bridge: str) -> list[tuple[str, int, Rule]]:
    """What the bridge needs in this table: (chain, position from 1 among others' rules, rule), in order."""
    name = link_name(bridge)
    found: list[tuple[str, int, Rule]] = []
    if blocks(table, "FORWARD"):
        docker = ("-j", DOCKER_USER) in table.chains.get("FORWARD", ())
        inward = DOCKER_USER if docker else "FORWARD"
        found.append((inward, 1, _rule(name, "-i", name, "-o", name)))
        states = ("-m", "conntrack", "--ctstate", "RELATED,ESTABLISHED,DNAT")
        found.append((inward, 1, _rule(name, "-o", name, *states)))
        # Behind Docker's own chains: it keeps its networks apart from each other and from ours.
        found.append(("FORWARD", _outward(table, name) if docker else 1, _rule(name, "-i", name)))
    if blocks(table, "INPUT"):
        for protocol, numbers in (("udp", "53,67"), ("tcp", "53")):
            ports = ("-m", "multiport", "--dports", numbers)
            found.append(("INPUT", 1, _rule(name, "-i", name, "-p", protocol, *ports)))
    return found


def _outward(table: Filter, bridge: str) -> int:
    others = [rule for rule in table.chains["FORWARD"] if not _ours(rule, bridge)]
    for number, rule in enumerate(others, start=1):
        target = _target(rule)
        if target and not target.startswith("DOCKER"):
            return number
    return len(others) + 1


def missing(table: Filter, bridge: str) -> bool:
    """Whether rules of ours are not there, are too many, or come too late to matter."""
    want = wanted(table, bridge)
    have = [(chain, rule) for chain, rules in table.chains.items() for rule in rules if _ours(rule, bridge)]
    if sorted(have) != sorted((chain, rule) for chain, _, rule in want):
        return True
    return any(not _reached(table, chain, rule) for chain, _, rule in want)


def _reached(table: Filter, chain: str, rule: Rule) -> bool:
    rules = table.chains[chain]
    before = rules[: rules.index(rule)]
    return not any(_target(other) in _FINAL for other in before)


def script(table: Filter, bridge: str, *, remove: bool = False) -> bytes:
    """Input for `iptables-restore --noflush`: takes our rules out and puts the wanted ones in, at once."""
    lines: list[Sequence[str]] = [
        ("-D", chain, *rule) for chain, rules in table.chains.items() for rule in rules if _ours(rule, bridge)
    ]
    placed: dict[tuple[str, int], int] = {}
    for chain, position, rule in [] if remove else wanted(table, bridge):
        shift = placed.get((chain, position), 0)
        placed[chain, position] = shift + 1
        lines.append(("-I", chain, str(position + shift), *rule))
    for words in lines:
        for word in words:
            if not _WORD.fullmatch(word):
                raise Invalid("bad_rule", f"{word!r} cannot be part of a firewall rule", hint="Rename the bridge.")
    return ("\n".join(["*filter", *(" ".join(words) for words in lines), "COMMIT"]) + "\n").encode()


def apply(table: Filter, commands: bytes) -> None:
    """Run a script against the backend it was made for."""
    run([f"{table.program}-restore", "--noflush", "-w"], stdin=commands)


def mend(program: str, bridge: str) -> bool | None:
    """Make the wanted rules be there; True when something was changed, None where the program cannot tell."""
    table = read(program)
    if table is None:
        return None
    if not missing(table, bridge):
        return False
    apply(table, script(table, bridge))
    return True


def clear(program: str, bridge: str) -> None:
    """Take our rules for this bridge out."""
    table = read(program)
    if table is not None and any(_ours(rule, bridge) for rules in table.chains.values() for rule in rules):
        apply(table, script(table, bridge, remove=True))
