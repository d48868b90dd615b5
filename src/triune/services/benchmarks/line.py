"""A network outside of the host, for clients that come by its firewall and NAT like those of other machines.

A veth pair leads from the host into the network namespace of the clients. That namespace ends with the process that
holds it, and the pair with the namespace. The addresses are of 198.18.0.0/15, which is set aside for benchmarks (RFC
2544), so no network of the host's is likely to have them.
"""

from __future__ import annotations

import ipaddress

from triune.domain.errors import Failed
from triune.host import net

_NAMES = "tb"
_SPACE = ipaddress.IPv4Network("198.18.0.0/15")
_PREFIX = 30
_INSIDE = "eth0"


def name(run: str) -> str:
    """Of the host's end."""
    return net.link_name(f"{_NAMES}{run}")


class Line:
    """The line of a run, whose id is hexadecimal. Raises Failed("no_addresses")."""

    def __init__(self, run: str) -> None:
        self._name = name(run)
        self._subnet = _free(int(run, 16))

    @property
    def host(self) -> str:
        """The address of the host at its end."""
        return str(self._subnet[1])

    def lay(self, pid: int) -> None:
        """Into the network namespace of this process."""
        near, far = (ipaddress.IPv4Interface(f"{self._subnet[number]}/{_PREFIX}") for number in (1, 2))
        net.create_pair(self._name, _INSIDE, pid)
        net.add_address(self._name, near)
        net.set_up(self._name)
        net.set_up_in(pid, _INSIDE, far, gateway=near.ip)

    def remove(self) -> None:
        """The kernel does it too, a little later."""
        net.delete_link(self._name)


def _free(number: int) -> ipaddress.IPv4Network:
    """One that no address or route of the host overlaps, beginning at this number."""
    used = [one.network for found in net.addresses().values() for one in found] + [route for route, _ in net.routes()]
    count = _SPACE.num_addresses >> 2
    for offset in range(count):
        at = int(_SPACE.network_address) + ((number + offset) % count) * 4
        found = ipaddress.IPv4Network((at, _PREFIX))
        if not any(found.overlaps(other) for other in used):
            return found
    raise Failed("no_addresses", f"all of {_SPACE} is in use on this host", hint="Leave out what needs it: --only")
