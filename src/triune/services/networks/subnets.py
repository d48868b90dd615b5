"""A subnet that collides with nothing this host knows."""

from __future__ import annotations

import ipaddress
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from triune.domain.errors import Conflict, Invalid
from triune.host import net

_LIBVIRT_NETWORKS = Path("/etc/libvirt/qemu/networks")
_MAX_XML = 1 << 20


def in_use(bridge: str, resolv_file: Path) -> Iterator[tuple[ipaddress.IPv4Network, str]]:
    """(subnet, who has it) for every address, route, name server and libvirt network, those of `bridge` left out.

    Docker's networks are seen by their bridges' addresses, which stay while dockerd is down.
    """
    for name, found in net.addresses().items():
        if name != bridge:
            yield from ((one.network, f"interface {name}") for one in found)
    for destination, name in net.routes():
        if name != bridge and not destination.is_multicast and destination.prefixlen > 0:
            yield destination, f"a route through {name}" if name else "a route"
    yield from _resolvers(resolv_file)
    yield from _libvirt(_LIBVIRT_NETWORKS)


def _resolvers(path: Path) -> Iterator[tuple[ipaddress.IPv4Network, str]]:
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        words = line.split()
        if len(words) >= 2 and words[0] == "nameserver":
            try:
                yield ipaddress.IPv4Network(words[1]), f"name server {words[1]}"
            except ValueError:
                continue


def _libvirt(folder: Path) -> Iterator[tuple[ipaddress.IPv4Network, str]]:
    for file in sorted(folder.glob("*.xml")):
        try:
            if file.stat().st_size > _MAX_XML:
                continue
            # Written by libvirt, readable and writable by root alone.
            root = ET.fromstring(file.read_bytes())  # noqa: S314
        except (OSError, ET.ParseError):
            continue
        for item in root.iterfind("ip"):
            mask = item.get("netmask") or item.get("prefix")
            try:
                yield (
                    ipaddress.IPv4Network(f"{item.get('address')}/{mask}", strict=False),
                    f"libvirt network {file.stem}",
                )
            except ValueError:
                continue


def choose(candidates: Iterable[str], used: Callable[[], Iterable[tuple[ipaddress.IPv4Network, str]]]) -> str:
    """The first candidate that overlaps nothing. Raises Conflict("no_free_subnet")."""
    taken = list(used())
    reasons = []
    for text in candidates:
        network = ipaddress.IPv4Network(text)
        clash = next((who for other, who in taken if other.overlaps(network)), None)
        if clash is None:
            return text
        reasons.append(f"{text} ({clash})")
    raise Conflict(
        "no_free_subnet",
        f"every subnet tried is in use: {', '.join(reasons)}",
        hint="Give one that is free: triune network create NAME --subnet A.B.C.0/24",
    )


def checked(text: str) -> str:
    """A private IPv4 subnet of prefix 8 to 26, as given by a user. Raises Invalid."""
    try:
        network = ipaddress.IPv4Network(text)
    except ValueError:
        network = None
    if network is None or not 8 <= network.prefixlen <= 26 or not network.is_private or network.is_loopback:
        raise Invalid(
            "bad_subnet",
            f"{text!r} is not a private IPv4 subnet of prefix 8 to 26",
            hint="Write it like 10.99.0.0/16, the part after the prefix all zero.",
        )
    return str(network)
