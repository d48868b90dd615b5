"""The kernel's view of links, addresses, routes and neighbours, through `ip -j` and `bridge -j` of iproute2."""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from triune.domain.errors import Invalid
from triune.host.run import run

_ATF_COM = 0x02  # <net/if_arp.h>: the entry is complete
_LINK_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,14}", re.ASCII)
_SYSCTL_KEY = re.compile(r"[a-z0-9_]+(?:/[A-Za-z0-9_.-]+)+", re.ASCII)


@dataclass(frozen=True, slots=True)
class Link:
    """One network interface. `master` is the bridge it is a port of, `hairpin` whether that port reflects."""

    name: str
    index: int
    up: bool
    mac: str
    kind: str
    master: str | None = None
    hairpin: bool = False


def link_name(text: str) -> str:
    """Return the name if the kernel accepts it as an interface (15 characters). Raises Invalid."""
    if not _LINK_NAME.fullmatch(text):
        raise Invalid(
            "bad_interface_name",
            f"{text!r} cannot be the name of a network interface",
            hint="Use 1 to 15 of a-z, 0-9, '-', '_' and '.'.",
        )
    return text


def _json(*argv: str) -> list[dict[str, Any]]:
    """Run `ip`/`bridge` with JSON output; both print nothing where there is nothing."""
    done = run(argv, check=False)
    if done.status != 0 or not done.stdout.strip():
        return []
    rows: list[dict[str, Any]] = json.loads(done.stdout)
    return rows


def _link(row: dict[str, Any]) -> Link:
    info = row.get("linkinfo", {})
    return Link(
        name=row["ifname"],
        index=row["ifindex"],
        up="UP" in row.get("flags", ()),
        mac=row.get("address", ""),
        kind=info.get("info_kind", ""),
        master=row.get("master"),
        hairpin=bool(info.get("info_slave_data", {}).get("hairpin", False)),
    )


def link(name: str) -> Link | None:
    """The interface, or None."""
    rows = _json("ip", "-d", "-j", "link", "show", "dev", link_name(name))
    return _link(rows[0]) if rows else None


def ports(bridge: str) -> list[Link]:
    """The ports of a bridge."""
    return [_link(row) for row in _json("ip", "-d", "-j", "link", "show", "master", link_name(bridge)) if row]


def partners(namespace: Path) -> dict[str, str]:
    """The interfaces of this host that are the other ends of a network namespace's veth pairs, by the MAC inside.

    Empty where the namespace is gone, or is not this host's.
    """
    if not namespace.exists():
        return {}
    ends = {row["name"]: row for row in map(_end, _json("ip", "-d", "-j", "link", "show", "type", "veth"))}
    by_index = {row["index"]: row for row in ends.values()}
    found = {}
    for row in map(_end, _json("nsenter", f"--net={namespace}", "ip", "-d", "-j", "link", "show", "type", "veth")):
        other = by_index.get(row["partner"])
        # Numbers are each namespace's own: only those that name each other belong together.
        if other is not None and other["partner"] == row["index"]:
            found[row["mac"]] = other["name"]
    return found


def _end(row: dict[str, Any]) -> dict[str, Any]:
    mac, partner = row.get("address", ""), row.get("link_index", 0)
    return {"name": row.get("ifname", ""), "index": row.get("ifindex", 0), "mac": mac, "partner": partner}


def addresses(name: str | None = None) -> dict[str, list[ipaddress.IPv4Interface]]:
    """IPv4 addresses by interface; of one interface where `name` is given."""
    rows = _json("ip", "-4", "-j", "addr", "show", *(("dev", link_name(name)) if name else ()))
    found: dict[str, list[ipaddress.IPv4Interface]] = {}
    for row in rows:
        for item in row.get("addr_info", ()):
            if item.get("family") == "inet":
                text = f"{item['local']}/{item['prefixlen']}"
                found.setdefault(row["ifname"], []).append(ipaddress.IPv4Interface(text))
    return found


def routes() -> Iterator[tuple[ipaddress.IPv4Network, str]]:
    """(destination, interface) of every IPv4 route of every table, default routes left out."""
    for row in _json("ip", "-4", "-j", "route", "show", "table", "all"):
        if row.get("dst") not in (None, "default"):
            yield ipaddress.IPv4Network(row["dst"], strict=False), row.get("dev", "")


def neighbours(bridge: str, table: Path = Path("/proc/net/arp")) -> dict[str, str]:
    """IPv4 address to MAC of every neighbour the kernel has met on this bridge.

    From the ARP table of proc(5): each launch asks, and a process of its own would cost more than all the rest of it.
    """
    met: dict[str, str] = {}
    for line in table.read_text().splitlines()[1:]:
        address, _, flags, mac, _, device = line.split()
        if device == bridge and int(flags, 16) & _ATF_COM:
            met[address] = mac
    return met


def learned(bridge: str) -> dict[str, str]:
    """MAC to port name, as the bridge has learned it."""
    rows = _json("bridge", "-j", "fdb", "show", "br", link_name(bridge))
    return {row["mac"]: row["ifname"] for row in rows if row.get("state") != "permanent" and "mac" in row}


def forget_neighbour(bridge: str, address: str) -> None:
    """Drop what the kernel believes of an address, so that its next owner is met at once."""
    run(["ip", "neigh", "del", address, "dev", link_name(bridge)], check=False)


def set_hairpin(port: str) -> None:
    """Let the bridge send a frame back out of the port it came from."""
    run(["bridge", "link", "set", "dev", link_name(port), "hairpin", "on"])


def create_bridge(name: str, mac: str) -> None:
    """Make a bridge that forwards at once and keeps its MAC whatever joins it."""
    # Without a MAC of its own a bridge takes the lowest of its ports' and changes it under its neighbours.
    run(["ip", "link", "add", "name", link_name(name), "address", mac,
         "type", "bridge", "forward_delay", "0", "stp_state", "0"])  # fmt: skip


def create_pair(name: str, inside: str, pid: int) -> None:
    """Make a veth pair with one end here and the other in the network namespace of a process."""
    run(["ip", "link", "add", "name", link_name(name), "type", "veth",
         "peer", "name", link_name(inside), "netns", str(pid)])  # fmt: skip


def set_up_in(pid: int, name: str, address: ipaddress.IPv4Interface, *, gateway: ipaddress.IPv4Address) -> None:
    """Give an interface in the network namespace of a process its address, and lead everything to the gateway."""
    enter = ("nsenter", f"--net=/proc/{pid}/ns/net", "ip")
    run([*enter, "address", "add", str(address), "dev", link_name(name)])
    for one in ("lo", name):
        run([*enter, "link", "set", "dev", one, "up"])
    run([*enter, "route", "add", "default", "via", str(gateway)])


def delete_link(name: str) -> None:
    """Remove an interface; gone is fine."""
    if link(name) is not None:
        run(["ip", "link", "delete", "dev", name], check=False)


def set_mac(name: str, mac: str) -> None:
    """Give an interface this MAC."""
    run(["ip", "link", "set", "dev", link_name(name), "address", mac])


def set_up(name: str) -> None:
    """Bring an interface up."""
    run(["ip", "link", "set", "dev", link_name(name), "up"])


def join(port: str, bridge: str) -> bool:
    """Make an interface a port of the bridge; False when it is gone."""
    return run(["ip", "link", "set", "dev", link_name(port), "master", link_name(bridge)], check=False).status == 0


def add_address(name: str, address: ipaddress.IPv4Interface) -> None:
    """Give an interface an address; repeating is fine."""
    run(["ip", "address", "replace", str(address), "brd", "+", "dev", link_name(name)])


def sysctl(key: str) -> str | None:
    """Read `net/ipv4/ip_forward` and the like; None where the kernel has no such setting."""
    try:
        return _sysctl_path(key).read_text().strip()
    except OSError:
        return None


def set_sysctl(key: str, value: str) -> bool:
    """Write a setting where it differs; True when it was changed. A read-only /proc leaves it as it is."""
    if sysctl(key) in (value, None):
        return False
    try:
        _sysctl_path(key).write_text(value)
    except OSError:
        return False
    return True


def _sysctl_path(key: str) -> Path:
    # With '/' between the parts, as sysctl(8) allows: interface names may contain dots.
    if not _SYSCTL_KEY.fullmatch(key) or ".." in key.split("/"):
        raise Invalid("bad_sysctl", f"{key!r} is not a kernel setting", hint="Write it like net/ipv4/ip_forward.")
    return Path("/proc/sys") / key
