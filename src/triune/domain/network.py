"""Networks, addresses and published ports."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from triune.domain.errors import Invalid

_HINT = "Write it as [IP:]HOST:GUEST[/udp], like 8080:80 or 127.0.0.1:5353:53/udp."


@dataclass(frozen=True, slots=True, kw_only=True)
class Publish:
    """A port of the host that leads to a port of an instance. `host_ip` None means every address of the host."""

    host_port: int
    guest_port: int
    host_ip: str | None = None
    protocol: str = "tcp"

    def __str__(self) -> str:
        prefix = f"{self.host_ip}:" if self.host_ip else ""
        suffix = "/udp" if self.protocol == "udp" else ""
        return f"{prefix}{self.host_port}:{self.guest_port}{suffix}"


def parse_publish(text: str) -> Publish:
    """Parse `[IP:]HOST:GUEST[/udp]`. IPv4 only. Raises Invalid."""
    ports, slash, protocol = text.partition("/")
    parts = ports.split(":")
    if (slash and protocol not in ("tcp", "udp")) or len(parts) not in (2, 3):
        raise Invalid("bad_publish", f"{text!r} is not a port to publish", hint=_HINT)
    host_ip = parts[0] if len(parts) == 3 else None
    numbers = parts[-2:]
    if not all(number.isascii() and number.isdigit() and 1 <= int(number) <= 65535 for number in numbers):
        raise Invalid("bad_publish", f"{text!r} is not a port to publish: ports are 1 to 65535", hint=_HINT)
    if host_ip is not None:
        try:
            host_ip = str(ipaddress.IPv4Address(host_ip))
        except ValueError:
            raise Invalid("bad_publish", f"{host_ip!r} is not an IPv4 address", hint=_HINT) from None
        if host_ip == "0.0.0.0":  # noqa: S104 - the user's way to say "every address"
            host_ip = None
    return Publish(host_port=int(numbers[0]), guest_port=int(numbers[1]), host_ip=host_ip, protocol=protocol or "tcp")


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """An L2 segment with DHCP and DNS. `gateway` is the bridge's own address and the name server."""

    name: str
    bridge: str
    subnet: str
    gateway: str
    domain: str

    @property
    def prefix(self) -> int:
        """Prefix length of the subnet, e.g. 16."""
        return ipaddress.IPv4Network(self.subnet).prefixlen


@dataclass(frozen=True, slots=True, kw_only=True)
class Nic:
    """One network card of one instance: the address is reserved before the instance exists."""

    network: Network
    mac: str
    address: str
