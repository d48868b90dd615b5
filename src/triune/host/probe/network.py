"""The network: forwarding, firewalls in the way, bridge netfilter, table limits."""

from __future__ import annotations

import re
from collections.abc import Sequence

from triune.domain.errors import TriuneError
from triune.domain.finding import Finding
from triune.host import firewall
from triune.host.probe.view import Facts, View, missing, ok, unknown, warning

AREA = "network"
BRIDGE = "triune0"
_NEIGHBOURS = 4096
# Told by findings of their own below.
_ELSEWHERE = frozenset({"ip-forward", "arp-table"})


def forward_policy(rules: str) -> str | None:
    """The policy in the output of `iptables -S FORWARD`: ACCEPT or DROP; None where it says neither."""
    match = re.search(r"^-P FORWARD (ACCEPT|DROP)\s*$", rules, re.MULTILINE)
    return match.group(1) if match else None


def probe(view: View) -> Sequence[Finding]:
    """Everything that may stand between two instances, or an instance and the world."""
    return [_forwarding(view), *_firewalls(view), *_firewall_programs(view), _bridge_netfilter(view), _neighbours(view)]


def _forwarding(view: View) -> Finding:
    value = view.files.number("/proc/sys/net/ipv4/ip_forward")
    if value == 1:
        return ok("network.forwarding", AREA, "The kernel forwards IPv4 packets.", ip_forward=value)
    sentence = (
        "The kernel does not forward IPv4 packets: instances reach nothing beyond this host until the daemon runs."
    )
    fix = "echo 'net.ipv4.ip_forward = 1' | tee /etc/sysctl.d/60-triune-forward.conf | sysctl -p -"
    return warning("network.forwarding", AREA, sentence, fix, ip_forward=value)


def _firewalls(view: View) -> list[Finding]:
    if not view.root:
        sentence = "Only root can see the firewalls of this host."
        return [unknown("network.forward", AREA, sentence, "sudo triune doctor")]
    policy = forward_policy(view.tools.text("iptables", "-S", "FORWARD") or "")
    facts: Facts = {"policy": policy, "docker": "DOCKER-USER" in (view.tools.text("iptables", "-S") or "")}
    try:
        blockers = firewall.blockers(BRIDGE) if view.live else []
    except (TriuneError, OSError) as error:
        return [unknown("network.forward", AREA, f"The firewalls could not be read: {error}.", **facts)]
    found = [_blocked(blocker, facts) for blocker in blockers if blocker.what not in _ELSEWHERE]
    if any(finding.id == "network.forward-drop" for finding in found):
        return found
    return [_forward(policy, facts, live=view.live), *found]


def _forward(policy: str | None, facts: Facts, *, live: bool) -> Finding:
    if policy == "DROP":
        who = "Docker set" if facts["docker"] else "Something set"
        if not live:
            sentence = f"{who} iptables' FORWARD policy to DROP: frames of {BRIDGE} need rules of their own."
            return warning("network.forward", AREA, sentence, "triune setup", **facts)
        sentence = f"{who} iptables' FORWARD policy to DROP; {BRIDGE} has accept rules of its own there."
        return ok("network.forward", AREA, sentence, **facts)
    return ok("network.forward", AREA, "No firewall keeps instances from each other or from the network.", **facts)


def _blocked(blocker: firewall.Blocker, facts: Facts) -> Finding:
    sentence = f"{blocker.sentence[:1].upper()}{blocker.sentence[1:].rstrip('.')}."
    dropped = blocker.what.endswith("-drop")
    fix = "triune setup" if dropped else _command(blocker.fix)
    if dropped and facts["docker"] and facts["policy"] == "DROP" and blocker.what == "forward-drop":
        sentence = f"Docker set iptables' FORWARD policy to DROP. {sentence}".replace(". Chain", ": chain")
    return warning(f"network.{blocker.what}", AREA, sentence, fix, **facts)


def _command(text: str) -> str | None:
    """A blocker's next step, if it is a command rather than advice."""
    return text if re.match(r"[a-z]", text) else None


def _firewall_programs(view: View) -> list[Finding]:
    found = []
    if view.tools.find("ufw") and view.root:
        active = (view.tools.text("ufw", "status") or "").startswith("Status: active")
        sentence = (
            "ufw is active; the daemon keeps its own rules beside ufw's." if active else "ufw is installed, inactive."
        )
        found.append(ok("network.ufw", AREA, sentence, active=active))
    if view.tools.text("firewall-cmd", "--state") == "running":
        sentence = f"firewalld is running and treats {BRIDGE} as an unknown interface unless it is put into a zone."
        fix = f"firewall-cmd --permanent --zone=trusted --add-interface={BRIDGE} && firewall-cmd --reload"
        zone = view.tools.text("firewall-cmd", f"--get-zone-of-interface={BRIDGE}")
        if zone:
            found.append(ok("network.firewalld", AREA, f"firewalld has {BRIDGE} in its zone {zone}.", zone=zone))
        else:
            found.append(warning("network.firewalld", AREA, sentence, fix, zone=None))
    return found


def _bridge_netfilter(view: View) -> Finding:
    value = view.files.number("/proc/sys/net/bridge/bridge-nf-call-iptables")
    if value is None:
        sentence = "Bridge netfilter is not loaded: frames between instances pass no firewall."
    elif value == 0:
        sentence = "Bridge netfilter is off: frames between instances pass no firewall."
    else:
        sentence = (
            "Bridge netfilter is on (Docker wants it): frames between instances pass iptables' FORWARD chain too."
        )
    return ok("network.bridge-netfilter", AREA, sentence, bridge_nf_call_iptables=value)


def _neighbours(view: View) -> Finding:
    folder = "/proc/sys/net/ipv4/neigh/default"
    limits = {name: view.files.number(f"{folder}/{name}") for name in ("gc_thresh1", "gc_thresh2", "gc_thresh3")}
    hard = limits["gc_thresh3"]
    if hard is None:
        return missing(
            "network.neighbours", AREA, "The ARP table's limits cannot be read.", optional=True, neighbours=None
        )
    if hard >= _NEIGHBOURS:
        return ok("network.neighbours", AREA, f"The ARP table holds {hard} neighbours.", **limits)
    sentence = f"The ARP table holds {hard} neighbours: some {hard * 3 // 4} instances that talk to the host fill it."
    setting = f"net.ipv4.neigh.default.gc_thresh3 = {_NEIGHBOURS}"
    fix = f"echo '{setting}' | tee /etc/sysctl.d/60-triune-arp.conf | sysctl -p -"
    return warning("network.neighbours", AREA, sentence, fix, **limits)
