"""Taking the networks off the host, as an uninstallation does: instances go on, and the store keeps what is wanted.

A bridge that instances are in stays, and what engines know of it stays with it: no running instance may lose its card.
What is ours alone goes in any case: names, DHCP, published ports, rules in others' firewalls, traffic limits.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial

from triune.domain.errors import Failed, TriuneError
from triune.domain.network import Network
from triune.engines.base import Engine
from triune.host import dnsmasq, firewall, hosts_file, net, nft, tc
from triune.services.networks.settings import NetworkSettings

_NAMED = 5


class Withdrawal:
    """`members` gives the instances that hold an address of a network, `service` its name server. The daemon that keeps
    the networks must have ended."""

    def __init__(
        self,
        networks: Sequence[Network],
        engines: Mapping[str, Engine],
        settings: NetworkSettings,
        members: Callable[[str], Sequence[str]],
        service: Callable[[Network], dnsmasq.Service],
    ) -> None:
        self._networks = networks
        self._engines = engines
        self._settings = settings
        self._members = members
        self._service = service

    def left(self) -> list[str]:
        """What of ours is on the host, a phrase each; bridges in use are not counted."""
        found = []
        table = self._settings.table
        if any(item.get("table", {}).get("name") == table for item in nft.ruleset()):
            found.append(f"nftables table {table}")
        for network in self._networks:
            service = self._service(network)
            if dnsmasq.running(service) is not None or service.folder.exists():
                found.append(f"name server of {network.name}")
            if net.link(network.bridge) is not None and not self.users(network):
                found.append(f"bridge {network.bridge}")
        with suppress(FileNotFoundError):
            content = self._settings.hosts_file.read_bytes()
            if hosts_file.split(content, self._settings.label)[1]:
                found.append(f"names in {self._settings.hosts_file}")
        return found

    def users(self, network: Network) -> list[str]:
        """The instances in a network, running or not; where only cards are seen in it, their names on the host."""
        named = set(self._members(network.name))
        for engine in self._engines.values():
            named |= self._of(engine, network) or set()
        return sorted(named) or [port.name for port in net.ports(network.bridge)]

    def _of(self, engine: Engine, network: Network) -> set[str] | None:
        """An engine's instances that hold or have an address of the network; None: it does not answer."""
        subnet, members = ipaddress.IPv4Network(network.subnet), self._members(network.name)
        try:
            rows = engine.list()
        except TriuneError:
            return None
        return {
            row.name
            for row in rows
            if row.name in members or any(ipaddress.ip_address(one) in subnet for one in row.addresses)
        }

    def run(self) -> list[str]:
        """Take everything away that may go; returns what stays and for whom, a sentence each.

        Raises Failed("network_left") at the end with what could not be taken away.
        """
        stays: list[str] = []
        wrong: list[str] = []
        for network in self._networks:
            stays += self._withdraw(network, wrong)
        _try(partial(nft.delete_table, self._settings.table), wrong)
        _try(partial(hosts_file.write, self._settings.hosts_file, {}, self._settings.label), wrong)
        with suppress(OSError):
            self._settings.folder.rmdir()
        if wrong:
            raise Failed("network_left", "; ".join(wrong), hint="Mend it, and repeat: triune uninstall")
        return stays

    def _withdraw(self, network: Network, wrong: list[str]) -> Iterator[str]:
        used = self.users(network)
        for action in self._actions(network, used):
            _try(action, wrong)
        if used:
            shown = ", ".join(used[:_NAMED]) + (" and others" if used[_NAMED:] else "")
            verb = "is" if len(used) == 1 else "are"
            yield (
                f"the bridge {network.bridge} stays until the host restarts, for {shown} {verb} in it, "
                "now without names, DHCP and ports that Triune published"
            )

    def _actions(self, network: Network, used: Sequence[str]) -> Iterator[Callable[[], object]]:
        yield partial(_unlimit, network)
        yield partial(dnsmasq.remove, self._service(network))
        yield partial(firewall.shut_again, self._settings.table, network.bridge)
        for engine in self._engines.values():
            if engine.bridging is not None and self._of(engine, network) == set():
                yield partial(engine.bridging.forget, network)
        if not used:
            yield partial(net.delete_link, network.bridge)


def _unlimit(network: Network) -> None:
    for port in net.ports(network.bridge):
        if tc.read(port.name):
            tc.clear(port.name)


def _try(action: Callable[[], object], wrong: list[str]) -> None:
    try:
        action()
    except TriuneError as error:
        wrong.append(error.message)
