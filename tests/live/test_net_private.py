"""The network on a private host: DHCP, names, published ports, and everything others do to it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.netlab import (
    OUTSIDE,
    UPLINK_HOST,
    UPLINK_OUTSIDE,
    Guest,
    Side,
    eventually,
    guest_of,
    private_host,
    sh,
)
from tests.patience import PATIENCE
from triune.domain.errors import Conflict, Invalid
from triune.domain.network import Nic, parse_publish
from triune.host import dnsmasq
from triune.services.networks import Networks, NetworkSettings
from triune.store import Delete, SqliteStore

pytestmark = [
    pytest.mark.live,
    pytest.mark.net,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(shutil.which("dnsmasq") is None, reason="needs dnsmasq"),
]

BRIDGE, TABLE = "tnet0", "triune_test"

# What dockerd 20.10 writes, as `iptables-save` prints it.
DOCKER_RULES = """*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
:DOCKER - [0:0]
:DOCKER-ISOLATION-STAGE-1 - [0:0]
:DOCKER-ISOLATION-STAGE-2 - [0:0]
:DOCKER-USER - [0:0]
-A FORWARD -j DOCKER-USER
-A FORWARD -j DOCKER-ISOLATION-STAGE-1
-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -o docker0 -j DOCKER
-A FORWARD -i docker0 ! -o docker0 -j ACCEPT
-A FORWARD -i docker0 -o docker0 -j ACCEPT
-A DOCKER-ISOLATION-STAGE-1 -i docker0 ! -o docker0 -j DOCKER-ISOLATION-STAGE-2
-A DOCKER-ISOLATION-STAGE-1 -j RETURN
-A DOCKER-ISOLATION-STAGE-2 -o docker0 -j DROP
-A DOCKER-ISOLATION-STAGE-2 -j RETURN
-A DOCKER-USER -j RETURN
COMMIT
"""


class Lab:
    """One network, its guests and the outside."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.hosts = folder / "hosts"
        self.hosts.write_text("127.0.0.1 localhost\n192.0.2.7 printer\n")
        self.resolv = folder / "resolv.conf"
        self.resolv.write_text("nameserver 192.0.2.53\n")
        self.store = SqliteStore(folder / "store" / "db")
        self.host, self.outside = Side(None), Side(OUTSIDE)
        self.sides: list[Side] = [self.host, self.outside]
        self.networks = self.service()

    def service(self, lease_seconds: int = 3600) -> Networks:
        settings = NetworkSettings(
            name=BRIDGE,
            table=TABLE,
            folder=self.folder / "net",
            hosts_file=self.hosts,
            resolv_file=self.resolv,
            lease_seconds=lease_seconds,
        )
        return Networks(self.store, {}, settings)

    def nic(self, name: str) -> Nic:
        nic = self.networks.reserve(BRIDGE, name)
        self.networks.register(name, nic)
        return nic

    def guest(self, name: str) -> Guest:
        guest = guest_of(name, self.nic(name))
        self.sides.append(guest)
        guest.dhcp()
        return guest

    def publish(self, name: str, *ports: str) -> None:
        self.networks.publish(name, self.nic(name).address, [parse_publish(port) for port in ports])

    @property
    def gateway(self) -> str:
        return self.networks.get(BRIDGE).gateway

    def server_pid(self) -> int | None:
        return next(iter(self.networks.servers()), None)

    def close(self) -> None:
        for side in self.sides:
            side.close()
        self.networks.remove(force=True)
        self.store.close()


@pytest.fixture(scope="module", autouse=True)
def host() -> Iterator[None]:
    with private_host():
        yield


@pytest.fixture
def lab() -> Iterator[Lab]:
    folder = Path(tempfile.mkdtemp(prefix="tnet-"))
    folder.chmod(0o755)
    lab = Lab(folder)
    lab.networks.start()
    assert lab.networks.problems() == []
    try:
        yield lab
    finally:
        lab.close()
        for program in ("iptables-nft", "iptables-legacy"):
            for word in ("-F", "-X"):
                sh(program, word, check=False)
            for chain in ("FORWARD", "INPUT"):
                sh(program, "-P", chain, "ACCEPT", check=False)
        sh("nft", "flush", "ruleset")
        shutil.rmtree(folder)


def all_ways(lab: Lab, one: Guest, other: Guest) -> dict[str, bool]:
    """Who reaches whom; `one` and `other` serve port 80, `one` is published on port 8080."""
    address = {guest: lab.nic(guest.name).address for guest in (one, other)}
    return {
        "one to other": one.can("tcp", address[other], 80) is not None,
        "other to one": other.can("tcp", address[one], 80) is not None,
        "host to one": lab.host.can("tcp", address[one], 80) is not None,
        "one to the outside": one.can("tcp", UPLINK_OUTSIDE, 7000) is not None,
        "outside to the published port": lab.outside.can("tcp", UPLINK_HOST, 8080) is not None,
        "one asks for other": one.ask("a", lab.gateway, other.name) == [address[other]],
    }


@pytest.fixture
def pair(lab: Lab) -> tuple[Guest, Guest]:
    one, other = lab.guest("one"), lab.guest("other")
    one.serve("one", 80)
    other.serve("other", 80)
    lab.outside.serve("outside", 7000)
    lab.publish("one", "8080:80")
    return one, other


def test_an_instance_gets_the_reserved_address_by_dhcp(lab: Lab) -> None:
    nic = lab.nic("web")
    guest = guest_of("web", nic)
    lab.sides.append(guest)
    assert guest.dhcp() == {
        "address": nic.address,
        "mask": "255.255.0.0",
        "router": lab.gateway,
        "dns": lab.gateway,
        "domain": "triune.internal",
    }


def test_a_machine_made_by_hand_gets_a_dynamic_address_and_its_name(lab: Lab) -> None:
    stranger = Guest("stranger", BRIDGE, "52:54:00:00:00:01")
    lab.sides.append(stranger)
    address = stranger.dhcp("by-hand")["address"]
    assert 128 <= int(address.split(".")[2]) <= 191
    assert lab.host.ask("a", lab.gateway, "by-hand") == [address]


@pytest.mark.parametrize("claimed", ["web", "gateway", "wpad"])
def test_a_guest_cannot_take_a_name_that_is_not_its_own(lab: Lab, claimed: str) -> None:
    nic = lab.nic("web")
    stranger = Guest("stranger", BRIDGE, "52:54:00:00:00:02")
    lab.sides.append(stranger)
    address = stranger.dhcp(claimed)["address"]
    assert address not in lab.host.ask("a", lab.gateway, claimed)
    assert lab.host.ask("a", lab.gateway, "web") == [nic.address]


def test_names_resolve_in_every_form_and_both_ways(lab: Lab) -> None:
    web, db = lab.nic("web"), lab.nic("db")
    guest = lab.guest("asker")
    for side in (guest, lab.host):
        for name, nic in (("web", web), ("db", db)):
            eventually(lambda side=side, name=name, nic=nic: side.ask("a", lab.gateway, name) == [nic.address])
            assert side.ask("a", lab.gateway, f"{name}.triune.internal") == [nic.address]
            assert side.ask("ptr", lab.gateway, nic.address) == [f"{name}.triune.internal"]
    assert '"ttls": [0]' in lab.host.probe("a", lab.gateway, "web")


def test_an_unknown_name_of_ours_is_not_asked_upstream(lab: Lab) -> None:
    # The upstream server does not exist: an answer within the probe's time-out can only be our own.
    assert '"status": 3' in lab.host.probe("a", lab.gateway, "nobody.triune.internal")
    assert '"status": 3' in lab.host.probe("ptr", lab.gateway, lab.nic("web").address.rpartition(".")[0] + ".9")


def getent(lab: Lab, name: str) -> list[str]:
    script = 'mount --bind "$0" /etc/hosts && getent ahostsv4 "$1"'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, str(lab.hosts), name], capture_output=True, text=True, timeout=PATIENCE
    )
    return done.stdout.split()[:1]


def test_the_host_resolves_names(lab: Lab) -> None:
    nic = lab.nic("web")
    assert getent(lab, "web") == [nic.address]
    assert getent(lab, "web.triune.internal") == [nic.address]
    lab.nic("printer")
    assert getent(lab, "printer") == ["192.0.2.7"], "an entry of the host's own is not shadowed"


def test_release_takes_everything_back(lab: Lab, pair: tuple[Guest, Guest]) -> None:
    _, other = pair
    address = lab.nic("one").address
    lab.networks.release("one")
    lab.networks.release("one")
    eventually(lambda: other.ask("a", lab.gateway, "one") == [])
    assert other.ask("ptr", lab.gateway, address) == []
    assert b"one" not in lab.hosts.read_bytes().replace(b"localhost", b"")
    assert lab.outside.can("tcp", UPLINK_HOST, 8080) is None
    assert lab.networks.published() == {}
    assert not list((lab.folder / "net" / BRIDGE).glob("*/one"))


def test_rename_moves_the_name_and_keeps_the_address(lab: Lab, pair: tuple[Guest, Guest]) -> None:
    _, other = pair
    before = lab.nic("one")
    lab.networks.rename("one", "first")
    assert lab.networks.reserve(BRIDGE, "first") == before
    eventually(lambda: other.ask("a", lab.gateway, "first") == [before.address])
    eventually(lambda: other.ask("a", lab.gateway, "one") == [])
    assert lab.outside.can("tcp", UPLINK_HOST, 8080) == f"one {UPLINK_OUTSIDE}"
    assert set(lab.networks.published()) == {"first"}
    assert lab.nic("one") != before


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_published_ports_work_from_everywhere(lab: Lab, pair: tuple[Guest, Guest], protocol: str) -> None:
    one, other = pair
    lab.publish("one", f"8080:80/{protocol}")
    assert lab.outside.can(protocol, UPLINK_HOST, 8080) == f"one {UPLINK_OUTSIDE}"
    for side in (lab.host, one, other):
        for address in (UPLINK_HOST, lab.gateway):
            assert (side.can(protocol, address, 8080) or "").startswith("one "), (side.namespace, address)
    assert lab.host.can(protocol, "127.0.0.1", 8080) == f"one {lab.gateway}"
    assert other.can(protocol, "127.0.0.1", 8080) is None


def test_a_port_published_on_one_address_stays_there(lab: Lab, pair: tuple[Guest, Guest]) -> None:
    _, other = pair
    lab.publish("one", "127.0.0.1:8081:80", f"{UPLINK_HOST}:8082:80")
    assert lab.host.can("tcp", "127.0.0.1", 8081) is not None
    assert lab.outside.can("tcp", UPLINK_HOST, 8081) is None
    assert lab.outside.can("tcp", UPLINK_HOST, 8082) is not None
    assert lab.host.can("tcp", "127.0.0.1", 8082) is None
    assert other.can("tcp", lab.gateway, 8081) is None


def test_the_hosts_loopback_stays_closed_to_guests(lab: Lab, pair: tuple[Guest, Guest]) -> None:
    # CVE-2020-8558: a guest sends to 127.0.0.1 through the gateway's MAC.
    one, _ = pair
    lab.host.serve("secret", 9999)
    assert one.namespace is not None
    sh("ip", "netns", "exec", one.namespace, "sysctl", "-qw", "net.ipv4.conf.all.route_localnet=1")
    sh("ip", "-n", one.namespace, "addr", "del", "127.0.0.1/8", "dev", "lo")
    sh("ip", "-n", one.namespace, "route", "add", "127.0.0.0/8", "via", lab.gateway, "dev", "eth0")
    assert one.can("udp", "127.0.0.1", 9999) is None
    assert one.can("tcp", "127.0.0.1", 9999) is None
    assert one.can("tcp", lab.gateway, 9999) is not None


def test_unpublished_ports_are_closed_to_the_outside(lab: Lab, pair: tuple[Guest, Guest]) -> None:
    sh("ip", "-n", OUTSIDE, "route", "replace", lab.networks.get(BRIDGE).subnet, "via", UPLINK_HOST)
    assert lab.outside.can("tcp", lab.nic("one").address, 80) is None


def docker_arrives() -> None:
    sh("iptables-nft-restore", stdin=DOCKER_RULES)


def test_dockers_forward_drop_does_not_cut_instances_off(lab: Lab, pair: tuple[Guest, Guest]) -> None:
    assert sh("sysctl", "-n", "net.bridge.bridge-nf-call-iptables").strip() == "1"
    docker_arrives()
    took = eventually(lambda: BRIDGE in sh("iptables-nft", "-S", "DOCKER-USER"))
    assert took < 1
    assert all(all_ways(lab, *pair).values()), all_ways(lab, *pair)
    # A second look finds nothing to do.
    assert lab.networks.ensure() == []


def test_dockers_own_rules_stay_as_they_are(lab: Lab) -> None:
    docker_arrives()
    eventually(lambda: BRIDGE in sh("iptables-nft", "-S"))
    theirs = [line for line in sh("iptables-nft", "-S").splitlines() if "triune" not in line]
    lab.networks.remove(force=True)
    assert sh("iptables-nft", "-S").splitlines() == theirs
    assert "triune" not in sh("nft", "list", "ruleset")


@pytest.mark.alone
@pytest.mark.parametrize(
    "harm",
    [
        ["nft", "flush", "ruleset"],
        ["nft", "delete", "table", "ip", TABLE],
        ["nft", "flush", "chain", "ip", TABLE, "leaving"],
        ["iptables-nft", "-F"],
        ["iptables-nft", "-F", "DOCKER-USER"],
        ["iptables-nft-restore"],
    ],
    ids=lambda harm: " ".join(harm),
)
def test_what_others_do_to_the_rules_is_mended_within_a_second(
    lab: Lab, pair: tuple[Guest, Guest], harm: list[str]
) -> None:
    docker_arrives()
    eventually(lambda: BRIDGE in sh("iptables-nft", "-S", "DOCKER-USER"))
    sh(*harm, stdin=DOCKER_RULES if harm[0].endswith("restore") else None)
    if harm[-1] == "ruleset":
        docker_arrives()
    took = eventually(lambda: lab.networks.ensure() == [])
    assert took < 1
    assert all(all_ways(lab, *pair).values()), all_ways(lab, *pair)


@pytest.mark.alone
def test_the_watcher_alone_mends(lab: Lab, pair: tuple[Guest, Guest]) -> None:
    sh("nft", "flush", "ruleset")
    assert eventually(lambda: "masquerade" in sh("nft", "list", "ruleset")) < 1
    docker_arrives()
    assert eventually(lambda: all(all_ways(lab, *pair).values()), within=20) < 15
    sh("iptables-nft", "-D", "DOCKER-USER", "1")
    assert eventually(lambda: sh("iptables-nft", "-S", "DOCKER-USER").count(BRIDGE) >= 3) < 1


NATIVE = """
table inet {name} {{
    chain ending {{ reject; }}
    chain inward {{ type filter hook input priority 0; policy drop; iif lo accept; ct state established accept; }}
    chain through {{ type filter hook forward priority 0; policy {policy}; ct state established accept; {last} }}
}}
"""


@pytest.mark.parametrize(("policy", "last"), [("drop", ""), ("accept", "jump ending;")])
def test_a_firewall_of_plain_nftables_is_opened(lab: Lab, pair: tuple[Guest, Guest], policy: str, last: str) -> None:
    sh("nft", "-f", "-", stdin=NATIVE.format(name="tnet_site", policy=policy, last=last))
    eventually(lambda: "triune:tnet0" in sh("nft", "list", "table", "inet", "tnet_site"))
    assert all(all_ways(lab, *pair).values()), all_ways(lab, *pair)
    pair[1].dhcp()
    assert lab.networks.ensure() == []
    lab.networks.remove(force=True)
    assert "triune" not in sh("nft", "list", "ruleset")


@pytest.mark.skipif(shutil.which("iptables-legacy") is None, reason="no iptables-legacy here")
def test_the_old_backend_of_iptables_is_opened_too(lab: Lab, pair: tuple[Guest, Guest]) -> None:
    for chain in ("FORWARD", "INPUT"):
        sh("iptables-legacy", "-P", chain, "DROP")
    sh("iptables-legacy", "-I", "INPUT", "-m", "conntrack", "--ctstate", "ESTABLISHED", "-j", "ACCEPT")
    sh("iptables-legacy", "-A", "FORWARD", "-j", "REJECT")
    # The kernel announces nothing about this backend: the regular check finds it.
    assert lab.networks.ensure() == [f"accept rules for {BRIDGE} in the filter table of iptables-legacy"]
    pair[1].dhcp()
    assert all(all_ways(lab, *pair).values()), all_ways(lab, *pair)
    lab.networks.remove(force=True)
    assert "triune" not in sh("iptables-legacy", "-S")


def test_a_removed_bridge_comes_back_with_its_ports(lab: Lab, pair: tuple[Guest, Guest]) -> None:
    late = lab.guest("late")
    late.serve("late", 80)
    sh("ip", "link", "del", BRIDGE)
    assert eventually(lambda: "tnet-late" in sh("ip", "link", "show", "master", BRIDGE, check=False)) < 1
    eventually(lambda: all(all_ways(lab, *pair).values()), within=20)
    assert pair[0].can("tcp", lab.nic("late").address, 80) is not None
    # dnsmasq 2.90 goes on with a DHCP socket bound to the bridge that was.
    pair[1].dhcp()


def test_a_removed_address_and_a_bridge_set_down_come_back(lab: Lab, pair: tuple[Guest, Guest]) -> None:
    sh("ip", "addr", "flush", "dev", BRIDGE)
    assert eventually(lambda: lab.gateway in sh("ip", "addr", "show", BRIDGE)) < 1
    sh("ip", "link", "set", BRIDGE, "down")
    eventually(lambda: all(all_ways(lab, *pair).values()), within=20)


def test_a_killed_name_server_is_replaced(lab: Lab) -> None:
    nic = lab.nic("web")
    before = lab.server_pid()
    assert before is not None
    os.kill(before, signal.SIGKILL)
    assert eventually(lambda: lab.server_pid() not in (None, before)) < 1
    assert lab.host.ask("a", lab.gateway, "web") == [nic.address]


def test_the_network_outlives_the_daemon_and_is_found_again(lab: Lab, pair: tuple[Guest, Guest]) -> None:
    before = lab.server_pid()
    lab.networks.close()
    assert all(all_ways(lab, *pair).values())
    again = lab.networks = lab.service()
    again.start()
    assert lab.server_pid() == before
    assert again.ensure() == []
    assert set(again.published()) == {"one"}
    again.close()
    lab.networks = lab.service(lease_seconds=1800)
    lab.networks.start()
    assert lab.server_pid() not in (None, before), "other settings need another server"
    assert all(all_ways(lab, *pair).values())


def test_names_lost_or_left_over_on_disk_are_put_right(lab: Lab) -> None:
    nic = lab.nic("web")
    folder = lab.folder / "net" / BRIDGE / "names"
    lab.networks.close()
    (folder / "web").unlink()
    (folder / "ghost").write_text("10.87.0.99 ghost\n")
    lab.hosts.write_text("127.0.0.1 localhost\n")
    lab.networks = lab.service()
    lab.networks.start()
    eventually(lambda: lab.host.ask("a", lab.gateway, "web") == [nic.address])
    eventually(lambda: lab.host.ask("a", lab.gateway, "ghost") == [])
    assert getent(lab, "web") == [nic.address]


def test_a_lease_that_a_crash_left_behind_ends_with_its_name(lab: Lab) -> None:
    guest = lab.guest("web")
    address = lab.nic("web").address
    lab.networks.close()
    for entry in lab.store.scan("networks/"):
        if "/config/" not in entry.key:
            lab.store.commit([Delete(entry.key)])
    lab.networks = lab.service()
    lab.networks.start()
    eventually(lambda: guest.ask("a", lab.gateway, "web") == [])
    eventually(lambda: guest.ask("ptr", lab.gateway, address) == [])


def test_without_a_free_subnet_the_daemon_starts_and_says_why(lab: Lab) -> None:
    lab.networks.remove(force=True)
    settings = NetworkSettings(
        name=BRIDGE, table=TABLE, folder=lab.folder / "net", hosts_file=lab.hosts, candidates=("198.51.0.0/16",)
    )
    lab.networks = Networks(lab.store, {}, settings)
    lab.networks.start()
    assert [problem.code for problem in lab.networks.problems()] == ["no_free_subnet"]
    with pytest.raises(Conflict, match=r"198\.51\.0\.0/16 \(interface uplink\)"):
        lab.networks.reserve(BRIDGE, "web")


def test_a_held_port_53_is_named_and_overcome_once_free(lab: Lab) -> None:
    lab.networks.close()
    service = lab.networks._service(lab.networks.get(BRIDGE))
    dnsmasq.stop(service)
    holder = subprocess.Popen(
        ["dnsmasq", "--keep-in-foreground", "--conf-file=", "--no-resolv", "--pid-file="], stderr=subprocess.DEVNULL
    )
    try:
        eventually(lambda: ":53 " in sh("ss", "-Hlun"))
        lab.networks.ensure()
        names = [blocker.sentence for blocker in lab.networks.blockers() if blocker.what == "port-53"]
        assert any(f"(pid {holder.pid})" in name for name in names), names
    finally:
        holder.terminate()
        holder.wait()
    lab.networks.ensure()
    assert lab.networks.problems() == []
    nic = lab.nic("web")
    eventually(lambda: lab.host.ask("a", lab.gateway, "web") == [nic.address], within=5)


def test_others_changes_of_their_own_chains_and_ours_of_our_table_wake_nobody(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    docker_arrives()
    eventually(lambda: lab.networks.ensure() == [])
    calls: list[int] = []
    monkeypatch.setattr(lab.networks, "ensure", lambda: calls.append(1) or [])
    # Whatever was under way settles first.
    subprocess.run(["sleep", "0.6"], check=True)
    calls.clear()
    for number in range(10):
        sh("iptables-nft", "-A", "DOCKER", "-p", "tcp", "--dport", str(1000 + number), "-j", "ACCEPT")
    lab.publish("web", "8080:80", "8081:81")
    lab.networks.release("web")
    sh("ip", "link", "add", "tnet-x", "type", "bridge")
    sh("ip", "link", "del", "tnet-x")
    subprocess.run(["sleep", "0.4"], check=True)
    assert calls == []


def test_it_says_who_has_a_port(lab: Lab) -> None:
    lab.host.serve("busy", 8443)
    port = [parse_publish("8443:443")]
    with pytest.raises(Conflict, match=r"8443/tcp .* for web: .*python.* \(pid \d+\)"):
        lab.networks.check_ports("web", port, native=False)
    with pytest.raises(Conflict, match="dnsmasq"):
        lab.networks.check_ports("web", [parse_publish("53:53/udp")], native=False)
    lab.networks.check_ports("web", [parse_publish("8444:443")], native=False)


def ended(pid: int | None) -> bool:
    """Whether it is gone, or only waits for a lazy init to notice."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_removal_leaves_nothing_behind_and_is_refused_while_used(lab: Lab) -> None:
    lab.nic("web")
    pid = lab.server_pid()
    with pytest.raises(Conflict, match=r"is used by web"):
        lab.networks.remove()
    lab.networks.remove(force=True)
    assert BRIDGE not in sh("ip", "-br", "link")
    assert TABLE not in sh("nft", "list", "ruleset")
    assert lab.hosts.read_text() == "127.0.0.1 localhost\n192.0.2.7 printer\n"
    assert ended(pid)
    assert lab.store.scan("networks/") == []


def test_the_default_network_is_not_deleted_like_another(lab: Lab) -> None:
    with pytest.raises(Conflict, match="is the default network"):
        lab.networks.delete(BRIDGE, force=True)


def test_an_interface_of_another_kind_is_left_alone(lab: Lab) -> None:
    sh("ip", "link", "add", "tnet9", "type", "veth")
    with pytest.raises(Conflict, match="tnet9"):
        lab.networks.create("tnet9")
    sh("ip", "link", "del", "tnet9")


@pytest.mark.parametrize("name", ["host", "none"])
def test_a_word_of_launches_is_no_name_of_a_network(lab: Lab, name: str) -> None:
    with pytest.raises(Invalid) as error:
        lab.networks.create(name)
    assert error.value.code == "reserved_name"


def test_further_networks_are_apart_and_complete(lab: Lab, pair: tuple[Guest, Guest]) -> None:
    second = lab.networks.create("tnet1")
    try:
        assert second.subnet != lab.networks.get(BRIDGE).subnet
        nic = lab.networks.reserve("tnet1", "far")
        lab.networks.register("far", nic)
        far = guest_of("far", nic)
        lab.sides.append(far)
        assert far.dhcp()["domain"] == "tnet1.internal"
        far.serve("far", 80)
        assert lab.host.can("tcp", nic.address, 80) is not None
        assert all(all_ways(lab, *pair).values())
    finally:
        lab.networks.delete("tnet1", force=True)
    assert "tnet1" not in sh("ip", "-br", "link")
    assert all(all_ways(lab, *pair).values())
