"""Which process listens on which IPv4 port, read from /proc/net and /proc/PID/fd.

Format: the kernel's Documentation/networking/proc_net_tcp.rst. A dual-stack IPv6 socket on `::` takes
the IPv4 port too.
"""

from __future__ import annotations

import ipaddress
import os
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

_LISTEN = "0A"
_UNCONNECTED = "07"
_V4_MAPPED = "0000000000000000FFFF0000"


@dataclass(frozen=True, slots=True)
class Listener:
    """A socket that takes what comes to `port`; `address` None means every address of the host."""

    protocol: str
    address: str | None
    port: int
    inode: int


def listeners() -> list[Listener]:
    """Every TCP listener and unconnected UDP socket of this network namespace."""
    found: list[Listener] = []
    for protocol, state in (("tcp", _LISTEN), ("udp", _UNCONNECTED)):
        for suffix in ("", "6"):
            try:
                text = Path(f"/proc/thread-self/net/{protocol}{suffix}").read_text()
            except OSError:
                continue
            found.extend(parse(text, protocol, state))
    return found


def parse(text: str, protocol: str, state: str) -> Iterator[Listener]:
    """Parse a table of /proc/net; lines that do not look like one are passed over."""
    for line in text.splitlines()[1:]:
        words = line.split()
        if len(words) < 10 or words[3] != state:
            continue
        host, _, port = words[1].partition(":")
        try:
            address = _address(host)
            yield Listener(protocol, address, int(port, 16), int(words[9]))
        except ValueError:
            continue


def _address(text: str) -> str | None:
    """The IPv4 address of a hexadecimal one; None for "any". Raises ValueError for a real IPv6 address."""
    if set(text) == {"0"} and len(text) in (8, 32):
        return None
    if len(text) == 32 and text.startswith(_V4_MAPPED):
        text = text[24:]
    if len(text) != 8:
        raise ValueError(text)
    return str(ipaddress.IPv4Address(struct.pack("=I", int(text, 16))))


def overlaps(one: str | None, other: str | None) -> bool:
    """Whether two listening addresses claim the same traffic."""
    return one is None or other is None or one == other


def owners(wanted: Iterable[Listener]) -> dict[int, str]:
    """Socket inode to `name (pid N)` of the process that holds it, as far as it can be seen."""
    return {inode: f"{name} (pid {pid})" for inode, (pid, name) in holders(wanted).items()}


def holders(wanted: Iterable[Listener]) -> dict[int, tuple[int, str]]:
    """Socket inode to the pid and the name of the process that holds it, as far as it can be seen."""
    inodes = {f"socket:[{listener.inode}]": listener.inode for listener in wanted}
    found: dict[int, tuple[int, str]] = {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit() or len(found) == len(inodes):
            continue
        try:
            held = [entry for entry in (folder / "fd").iterdir() if _link(entry) in inodes]
            name = (folder / "comm").read_text().strip()
        except OSError:
            continue
        for entry in held:
            inode = inodes.get(_link(entry))
            if inode is not None:
                found[inode] = int(folder.name), name
    return found


def _link(entry: Path) -> str:
    """Where a descriptor leads; empty when it was closed meanwhile."""
    try:
        return os.fspath(entry.readlink())
    except OSError:
        return ""
