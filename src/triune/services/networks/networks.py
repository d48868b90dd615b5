"""Networks: bridges with DHCP, DNS and NAT that instances of every engine join. IPv4 only.

The store holds what is wanted (networks, reservations, published ports); the host is made to match it, at the start and
whenever somebody else changed it. Nothing here depends on the daemon once it is set up: bridge, rules and name server
stay when it ends.
"""

from __future__ import annotations

import builtins
import difflib
import ipaddress
import logging
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

from triune.domain.errors import Conflict, Failed, Invalid, NotFound, TriuneError
from triune.domain.instance import HOST_NETWORK
from triune.domain.names import instance_name
from triune.domain.network import Network, Nic, Publish
from triune.engines.base import Engine
from triune.host import dnsmasq, firewall, hosts_file, net, nft
from triune.host.firewall import Blocker
from triune.services.networks import ruleset, subnets
from triune.services.networks.addresses import Addresses, Reservation
from triune.services.networks.bridges import Bridges
from triune.services.networks.ports import Ports
from triune.services.networks.settings import NetworkSettings, divide
from triune.services.networks.watch import Pace, Watcher
from triune.services.networks.withdrawal import Withdrawal
from triune.store import Delete, Entry, Put, Store

_LOG = logging.getLogger(__name__)
_CONFIG = "networks/config/"
_FOREIGN_MAX_AGE_S = 10.0
_FORWARD = "net/ipv4/ip_forward"
_SUBNET = "subnet"


def _network(entry: Entry) -> Network:
    return Network(name=entry.key.removeprefix(_CONFIG), **entry.value)


class Networks:
    """See the package. Changes are made one at a time."""

    def __init__(self, store: Store, engines: Mapping[str, Engine], settings: NetworkSettings) -> None:
        self._store = store
        self._engines = engines
        self._settings = settings
        self._addresses = Addresses(store)
        self._ports = Ports(store, engines)
        self._lock = threading.RLock()
        self._watcher: Watcher | None = None
        self._bridges = Bridges()
        self._problems: dict[str, TriuneError] = {}
        self._foreign: tuple[float, frozenset[str]] = (0.0, frozenset())

    # Life

    def start(self) -> None:
        """Bring the networks up, the default one made if need be, and watch over them from now on.

        What this host lacks does not raise: `problems` tells it, and it is tried again.
        """
        with self._lock, self._noting(_SUBNET):
            if self._store.get(_CONFIG + self._settings.name) is None:
                self._create(self._settings.name, self._settings.domain, None)
        for line in self.ensure():
            _LOG.info("network: %s", line)
        if self._watcher is None:
            pace = Pace(self._settings.debounce_s, self._settings.check_every_s)
            self._watcher = Watcher(self, self._settings.table, pace)
            self._watcher.start()

    def close(self) -> None:
        """Stop watching; the networks stay up."""
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            watcher.close()

    def engine_up(self) -> None:
        """An engine answers again: tell it of the bridges."""
        self.ensure()

    # Networks

    @property
    def default(self) -> str:
        """Name of the network that instances join unless told otherwise."""
        return self._settings.name

    def list(self) -> builtins.list[Network]:
        """Every network, by name."""
        return [_network(entry) for entry in self._store.scan(_CONFIG)]

    def get(self, name: str) -> Network:
        """One network. Raises NotFound("network_not_found"), or why there is no default network."""
        entry = self._store.get(_CONFIG + name)
        if entry is None and name == self._settings.name and _SUBNET in self._problems:
            raise self._problems[_SUBNET]
        if entry is None:
            near = difflib.get_close_matches(name, [network.name for network in self.list()], 1)
            did = f"Did you mean {near[0]!r}? " if near else ""
            raise NotFound(
                "network_not_found",
                f"there is no network {name}",
                hint=f"{did}See them with triune network list; make one with triune network create.",
            )
        return _network(entry)

    def members(self, name: str) -> builtins.list[str]:
        """Instances that hold an address in this network."""
        network = self.get(name).name
        return [held.instance for held in self._addresses.all() if held.network == network]

    def create(self, name: str, subnet: str | None = None) -> Network:
        """Make a further network; its bridge has its name. Raises Invalid, Conflict."""
        net.link_name(instance_name(name))
        if name in (HOST_NETWORK, "none"):
            raise Invalid(
                "reserved_name", f"{name} is what launches without a network say", hint="Choose another name."
            )
        with self._lock:
            if self._store.get(_CONFIG + name) is not None or net.link(name) is not None:
                raise Conflict(
                    "network_exists",
                    f"there is a network or an interface {name} already",
                    hint="Choose another name.",
                )
            made = self._create(name, f"{name}.internal", subnet)
        self.ensure()
        problem = self._problems.get(f"bridge {name}")
        if problem is not None:
            raise problem
        return made

    def _create(self, name: str, domain: str, subnet: str | None) -> Network:
        candidates = [subnets.checked(subnet)] if subnet else self._settings.candidates
        resolv = self._settings.resolv_file
        found = subnets.choose(candidates, lambda: [*subnets.in_use(name, resolv), *self._subnets()])
        made = Network(name=name, bridge=name, subnet=found, gateway=divide(found).gateway, domain=domain)
        value = {"bridge": made.bridge, "subnet": found, "gateway": made.gateway, "domain": domain}
        self._store.commit([Put(_CONFIG + name, value)], expect={_CONFIG + name: 0})
        return made

    def _subnets(self) -> Iterator[tuple[ipaddress.IPv4Network, str]]:
        for network in self.list():
            yield ipaddress.IPv4Network(network.subnet), f"network {network.name}"

    def delete(self, name: str, *, force: bool = False) -> None:
        """Take a further network down and forget it.

        Raises Conflict("network_in_use") unless `force`, and Conflict("default_network") for the default one.
        """
        if name == self._settings.name:
            raise Conflict(
                "default_network",
                f"{name} is the default network, and instances expect it",
                hint="It goes when Triune is uninstalled.",
            )
        self._delete(name, force=force)

    def _delete(self, name: str, *, force: bool) -> None:
        network = self.get(name)
        with self._lock:
            members = self.members(name)
            if members and not force:
                raise Conflict(
                    "network_in_use",
                    f"network {name} is used by {', '.join(members[:5])}{' and others' if members[5:] else ''}",
                    hint="Remove them first.",
                    instances=members,
                )
            for instance in members:
                self._ports.delete(instance)
                self._addresses.release(instance)
            self._store.commit([Delete(_CONFIG + name)])
        self._take_down(network)

    def _take_down(self, network: Network) -> None:
        for engine in self._engines.values():
            if engine.bridging is not None:
                with self._noting(f"engine {engine.name}"):
                    engine.bridging.forget(network)
        with self._lock:
            dnsmasq.remove(self._service(network))
            firewall.shut_again(self._settings.table, network.bridge)
            if self.list():
                self._apply_rules()
            else:
                nft.delete_table(self._settings.table)
            self._write_hosts()
            self._bridges.remove(network.bridge)

    def remove(self, *, force: bool = False) -> None:
        """Tear every network down and forget it, whoever is in it; IPv4 forwarding stays on, others may need it by now.

        Raises Conflict("network_in_use") unless `force`.
        """
        self.close()
        for network in self.list():
            self._delete(network.name, force=force)

    # Instances

    def reserve(self, network: str, instance: str, mac: str = "") -> Nic:
        """Reserve an address and a MAC (this one, if given) for an instance, or return those it holds. Raises Conflict,
        Failed."""
        wanted = self.get(network)
        self._require_bridge(wanted)
        service = self._service(wanted)

        def foreign(mac: str) -> Collection[str]:
            leased = {lease.address for lease in dnsmasq.leases(service) if lease.mac != mac}
            met = {address for address, owner in net.neighbours(wanted.bridge).items() if owner != mac}
            return leased | met | self._engine_addresses()

        held = self._addresses.reserve(network, wanted.subnet, instance_name(instance), foreign, mac)
        return Nic(network=wanted, mac=held.mac, address=held.address)

    def leased(self, network: str, mac: str) -> str:
        """The address that a card has got by DHCP, "" while it has none."""
        found = dnsmasq.leases(self._service(self.get(network)))
        return next((lease.address for lease in found if lease.mac == mac), "")

    def _require_bridge(self, network: Network) -> None:
        if f"bridge {network.name}" in self._problems:
            self.ensure()
        problem = self._problems.get(f"bridge {network.name}")
        if problem is not None:
            raise problem

    def _engine_addresses(self) -> frozenset[str]:
        """Addresses that engines report, of instances we did not make too; a few seconds old at most."""
        when, found = self._foreign
        if time.monotonic() - when > _FOREIGN_MAX_AGE_S or when == 0.0:
            addresses: set[str] = set()
            for engine in self._engines.values():
                try:
                    addresses.update(text for one in engine.list() for text in one.addresses)
                except TriuneError:
                    continue
            found = frozenset(addresses)
            self._foreign = (time.monotonic(), found)
        return found

    def register(self, instance: str, nic: Nic) -> None:
        """Let DHCP, DNS and the host know the instance by its name."""
        with self._lock:
            self._addresses.mark_registered(instance)
            held = self._addresses.get(instance)
            if held is None or (held.mac, held.address) != (nic.mac, nic.address):
                raise Failed(
                    "not_reserved",
                    f"{nic.address} is not reserved for {instance}",
                    hint="Reserve it first; another operation may have released it.",
                )
            service = self._service(nic.network)
            dnsmasq.prepare(service)
            dnsmasq.write_host(service, instance, *_host(held, nic.network))
            self._write_hosts()

    def release(self, instance: str) -> None:
        """Give back everything of an instance: address, names, lease, ports. Repeating does nothing."""
        with self._lock:
            if self._ports.delete(instance):
                self._apply_rules()
            held = self._addresses.release(instance)
            if held is None:
                return
            network = self.get(held.network)
            service = self._service(network)
            dnsmasq.remove_host(service, instance)
            dnsmasq.end_lease(service, held.address)
            net.forget_neighbour(network.bridge, held.address)
            self._write_hosts()

    def rename(self, instance: str, new: str) -> None:
        """Hand address, names and ports over to a new name. Repeating does nothing."""
        with self._lock:
            held = self._addresses.rename(instance, instance_name(new))
            self._ports.rename(instance, new)
            if held is None:
                return
            network = self.get(held.network)
            service = self._service(network)
            if held.registered:
                dnsmasq.write_host(service, new, *_host(held, network))
            dnsmasq.remove_host(service, instance)
            # The lease goes by the old name; the client keeps its address, which is reserved, when it renews.
            dnsmasq.end_lease(service, held.address)
            self._write_hosts()

    def withdrawal(self) -> Withdrawal:
        """How to take the networks off the host while instances go on; for when the daemon has ended."""
        return Withdrawal(self.list(), self._engines, self._settings, self.members, self._service)

    # Ports

    def check_ports(self, instance: str, ports: Sequence[Publish], *, native: bool) -> None:
        """Raise where the instance cannot have these ports: Conflict("port_taken"), Invalid("duplicate_port")."""
        self._ports.check(instance, ports, native=native)

    def publish(self, instance: str, address: str, ports: Sequence[Publish]) -> None:
        """Lead ports of the host to an instance whose engine does not do it itself; replaces those it has."""
        with self._lock:
            self._ports.check_own(instance, ports)
            if ports:
                self._ports.put(instance, str(ipaddress.IPv4Address(address)), ports)
            else:
                self._ports.delete(instance)
            self._apply_rules()
            self.settle_ports()

    def published(self) -> Mapping[str, Sequence[Publish]]:
        """Ports of every instance, those published by engines themselves too."""
        return self._ports.all()

    # What others see

    def problems(self) -> builtins.list[TriuneError]:
        """What could not be set up at the last attempt."""
        return [self._problems[key] for key in sorted(self._problems)]

    def blockers(self) -> builtins.list[Blocker]:
        """What on this host blocks a network now."""
        found: dict[str, Blocker] = {}
        for network in self.list():
            for one in firewall.blockers(network.bridge, gateway=network.gateway, own_table=self._settings.table):
                found.setdefault(one.sentence, one)
        return builtins.list(found.values())

    # Mending

    def ensure(self) -> builtins.list[str]:
        """Make the host match the store; returns what was mended, a phrase each. `problems` has what could not be."""
        mended: builtins.list[str] = []
        with self._lock:
            networks = self.list()
            if networks and net.set_sysctl(_FORWARD, "1"):
                mended.append("IPv4 forwarding")
            for network in networks:
                self._step(f"bridge {network.name}", mended, partial(self._bridges.mend, network))
            self._step("rules", mended, self._rules)
            for network in networks:
                self._step(f"names {network.name}", mended, partial(self._names, network))
            self._step("hosts file", mended, self._hosts)
            self.settle_ports()
        # Outside the lock: a daemon that does not answer must not hold others up.
        for network in networks:
            for engine in self._engines.values():
                if engine.bridging is not None:
                    with self._noting(f"engine {engine.name}"):
                        engine.bridging.ensure(network)
        return mended

    def _step(self, key: str, mended: builtins.list[str], action: Callable[[], builtins.list[str]]) -> None:
        with self._noting(key):
            mended.extend(action())

    @contextmanager
    def _noting(self, key: str) -> Iterator[None]:
        """Keep a failure as a problem instead of raising it: each part of the network is of use without the others."""
        try:
            yield
        except TriuneError as error:
            if key not in self._problems:
                _LOG.warning("network: %s: %s", key, error.message)
            self._problems[key] = error
        except OSError as error:
            self._problems[key] = Failed("network_setup", f"{key}: {error}", hint="See triune doctor.")
        else:
            self._problems.pop(key, None)

    def _chains(self) -> builtins.list[nft.Chain]:
        pairs = [(address, port) for _, (address, ports) in sorted(self._ports.own().items()) for port in ports]
        return ruleset.build(self.list(), pairs)

    def _apply_rules(self) -> None:
        nft.apply(nft.transaction(self._settings.table, self._chains()))

    def _rules(self) -> builtins.list[str]:
        mended: builtins.list[str] = []
        objects = nft.ruleset()
        chains = self._chains()
        if not nft.intact(objects, self._settings.table, chains):
            nft.apply(nft.transaction(self._settings.table, chains))
            mended.append(f"nftables table {self._settings.table}")
        for network in self.list():
            mended += firewall.let_through(objects, self._settings.table, network.bridge)
        return mended

    def _service(self, network: Network) -> dnsmasq.Service:
        return dnsmasq.Service(
            bridge=network.bridge,
            subnet=network.subnet,
            gateway=network.gateway,
            domain=network.domain,
            dynamic=divide(network.subnet).dynamic,
            folder=self._settings.folder / network.name,
            resolv_file=self._settings.resolv_file,
            lease_seconds=self._settings.lease_seconds,
        )

    def _names(self, network: Network) -> builtins.list[str]:
        service = self._service(network)
        dnsmasq.prepare(service)
        if not dnsmasq.reachable(service):
            raise Failed(
                "folder_unreachable",
                f"dnsmasq's own user cannot reach {service.folder}",
                hint=f"Let everyone pass through the folders above it: chmod o+x {service.folder.parent}",
            )
        hosts: dict[str, tuple[str, Sequence[str], str | None]] = {
            held.instance: _host(held, network)
            for held in self._addresses.all()
            if held.network == network.name and held.registered
        }
        hosts["gateway"] = (network.gateway, (f"gateway.{network.domain}", "gateway"), None)
        mended = [f"names in {network.name}"] if dnsmasq.sync_hosts(service, hosts) else []
        if dnsmasq.start(service):
            mended.append(f"name server of {network.name}")
        return mended

    def _hosts(self) -> builtins.list[str]:
        return [f"names in {self._settings.hosts_file}"] if self._write_hosts() else []

    def _write_hosts(self) -> bool:
        networks = {network.name: network for network in self.list()}
        names = {
            held.address: _host(held, networks[held.network])[1]
            for held in self._addresses.all()
            if held.registered and held.network in networks
        }
        return hosts_file.write(self._settings.hosts_file, names, self._settings.label)

    # For the watcher

    def bridges(self) -> Mapping[int, str]:
        """Index and name of each bridge, as last seen."""
        return self._bridges.names()

    def port_joined(self, bridge: int, port: int, name: str) -> None:
        """Remember a port: if the bridge is removed by somebody, it is put back."""
        self._bridges.joined(bridge, port, name)

    def settle_ports(self) -> None:
        """Let instances reach their own published ports through the host.

        With bridge netfilter such a frame leaves by the port it came from, which a bridge refuses unless the port is
        in hairpin mode. Only ports of instances that publish get it: it reflects broadcasts too.
        """
        own = self._ports.own()
        with self._noting("ports"):
            self._bridges.reflect({held.mac for held in self._addresses.all() if held.instance in own} if own else ())

    def servers(self) -> builtins.list[int]:
        """Pids of the name servers that run."""
        found = [dnsmasq.running(self._service(network)) for network in self.list()]
        return [pid for pid in found if pid is not None]


def _host(held: Reservation, network: Network) -> tuple[str, Sequence[str], str | None]:
    return held.address, (f"{held.instance}.{network.domain}", held.instance), held.mac
