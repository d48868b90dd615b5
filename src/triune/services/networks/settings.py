"""What the networks service can be told, and how a subnet is divided."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path

DEFAULT_CANDIDATES = (
    "10.87.0.0/16", "10.91.0.0/16", "10.147.0.0/16", "10.203.0.0/16", "10.239.0.0/16",
    "172.31.0.0/16", "172.27.0.0/16", "192.168.87.0/24", "192.168.211.0/24",
)  # fmt: skip
_FIRST_HOST = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkSettings:
    """`name` is the default network's, and its bridge's. `folder` must be reachable by dnsmasq's own user: every
    folder above it needs o+x. `table` is our nftables table of family ip; `label` marks our block in `hosts_file`.
    """

    name: str = "triune0"
    table: str = "triune"
    domain: str = "triune.internal"
    label: str = "triune"
    folder: Path = Path("/var/lib/triune-network")
    hosts_file: Path = Path("/etc/hosts")
    resolv_file: Path = Path("/etc/resolv.conf")
    candidates: tuple[str, ...] = DEFAULT_CANDIDATES
    lease_seconds: int = 3600
    debounce_s: float = 0.1
    check_every_s: float = 60.0


@dataclass(frozen=True, slots=True)
class Division:
    """The parts of a subnet: gateway first, then reservations for every engine's instances up to the half, then
    `dynamic` leases for machines made by hand, and the last quarter for Docker's own."""

    gateway: str
    first: ipaddress.IPv4Address
    last: ipaddress.IPv4Address
    dynamic: tuple[str, str]

    @property
    def size(self) -> int:
        """How many reservations there can be."""
        return int(self.last) - int(self.first) + 1


def divide(subnet: str) -> Division:
    """Divide a subnet of prefix 8 to 26."""
    network = ipaddress.IPv4Network(subnet)
    base, half = network.network_address, network.num_addresses // 2
    return Division(
        gateway=str(base + 1),
        first=base + _FIRST_HOST,
        last=base + half - 1,
        dynamic=(str(base + half), str(base + half + half // 2 - 1)),
    )
