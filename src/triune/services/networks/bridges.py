"""The bridges themselves: made, kept, and given their ports back when somebody removed them."""

from __future__ import annotations

import builtins
import hashlib
import ipaddress
from collections.abc import Collection, Mapping

from triune.domain.errors import Failed
from triune.domain.network import Network
from triune.host import net


class Bridges:
    """What is known of each bridge: its index, and its ports by index, so that they can be put back."""

    def __init__(self) -> None:
        self._names: dict[int, str] = {}
        self._ports: dict[str, dict[int, str]] = {}

    def names(self) -> Mapping[int, str]:
        """Index and name of each bridge, as last seen."""
        return self._names

    def mend(self, network: Network) -> builtins.list[str]:
        """Make the bridge be there, up, with its address; returns what was mended. Raises Failed("not_a_bridge")."""
        mended: builtins.list[str] = []
        link = net.link(network.bridge)
        if link is not None and link.kind != "bridge":
            raise Failed(
                "not_a_bridge",
                f"the interface {network.bridge} exists already and is no bridge",
                hint=f"Rename it: ip link set dev {network.bridge} name other0",
            )
        mac = _mac(network.name)
        if link is None:
            net.create_bridge(network.bridge, mac)
            back = self._rejoin(network.bridge)
            mended.append(f"bridge {network.bridge}" + (f" with {len(back)} of its ports" if back else ""))
            link = net.link(network.bridge)
        elif link.mac != mac:
            # Somebody else made it, such as dockerd starting before us: its MAC would change with its ports.
            net.set_mac(network.bridge, mac)
            mended.append(f"MAC of {network.bridge}")
        net.set_sysctl(f"net/ipv6/conf/{network.bridge}/disable_ipv6", "1")
        address = ipaddress.IPv4Interface(f"{network.gateway}/{network.prefix}")
        if address not in net.addresses(network.bridge).get(network.bridge, ()):
            net.add_address(network.bridge, address)
            mended.append(f"address {address} of {network.bridge}")
        if link is None or not link.up:
            net.set_up(network.bridge)
            mended.append(f"{network.bridge} up")
        # Publishing on 127.0.0.1 needs it; the table's guard chain makes it safe.
        net.set_sysctl(f"net/ipv4/conf/{network.bridge}/route_localnet", "1")
        self._remember(network.bridge)
        return mended

    def _remember(self, bridge: str) -> None:
        link = net.link(bridge)
        if link is not None:
            kept = {index: name for index, name in self._names.items() if name != bridge}
            self._names = {**kept, link.index: bridge}
            self._ports[bridge] = {port.index: port.name for port in net.ports(bridge)}

    def _rejoin(self, bridge: str) -> builtins.list[str]:
        """Put the former ports back that have no bridge now; an index is never given twice in a namespace's life."""
        back = []
        for index, name in self._ports.get(bridge, {}).items():
            port = net.link(name)
            if port is not None and port.index == index and port.master is None and net.join(name, bridge):
                back.append(name)
        return back

    def joined(self, bridge: int, port: int, name: str) -> None:
        """Remember a port as soon as it is told."""
        if bridge in self._names:
            self._ports.setdefault(self._names[bridge], {})[port] = name

    def remove(self, bridge: str) -> None:
        """Forget it and take it down."""
        self._names = {index: name for index, name in self._names.items() if name != bridge}
        self._ports.pop(bridge, None)
        net.delete_link(bridge)

    def reflect(self, macs: Collection[str]) -> None:
        """Put the ports of these MACs into hairpin mode, where they are known and bridge netfilter needs it."""
        if not macs or net.sysctl("net/bridge/bridge-nf-call-iptables") != "1":
            return
        for bridge in set(self._names.values()):
            known = net.learned(bridge)
            wanted = {known[mac] for mac in macs if mac in known}
            for port in net.ports(bridge) if wanted else ():
                if port.name in wanted and not port.hairpin:
                    net.set_hairpin(port.name)


def _mac(name: str) -> str:
    digest = hashlib.sha256(f"bridge\0{name}".encode()).hexdigest()
    return "02:" + ":".join(digest[at : at + 2] for at in range(0, 10, 2))
