"""dnsmasq as DHCP and DNS server of one bridge: its own process, which outlives ours and is found again.

Names and reservations are one small file per instance in two folders that dnsmasq watches by inotify; it sees files
that are renamed in, but keeps what a removed file said until SIGHUP (dnsmasq(8), --hostsdir and --dhcp-hostsdir).
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
import shutil
import signal
import socket
import struct
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from triune.domain.errors import Failed, Invalid
from triune.domain.names import single_line
from triune.host.net import link, link_name
from triune.host.run import run

_MAC = re.compile(r"[0-9a-f]{2}(?::[0-9a-f]{2}){5}", re.ASCII)
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,252}[a-z0-9])?", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """One server. `folder` holds all its files and must be reachable by dnsmasq's own user (modes o+x upwards)."""

    bridge: str
    subnet: str
    gateway: str
    domain: str
    dynamic: tuple[str, str]
    folder: Path
    resolv_file: Path = Path("/etc/resolv.conf")
    lease_seconds: int = 3600

    @property
    def pid_file(self) -> Path:
        """Written by dnsmasq."""
        return self.folder / "pid"

    @property
    def leases_file(self) -> Path:
        """Written by dnsmasq: `expiry mac address name client-id` per line."""
        return self.folder / "leases"

    @property
    def names_folder(self) -> Path:
        """hosts(5) files, one per instance."""
        return self.folder / "names"

    @property
    def reservations_folder(self) -> Path:
        """dhcp-host values, one file per instance."""
        return self.folder / "reservations"

    def argv(self) -> list[str]:
        """The whole configuration; no file of the host's own dnsmasq is read, and no other interface served."""
        network = ipaddress.IPv4Network(self.subnet)
        first, last = self.dynamic
        values = {
            "conf-file": "",
            "interface": link_name(self.bridge),
            "except-interface": "lo",
            "pid-file": str(self.pid_file),
            "dhcp-leasefile": str(self.leases_file),
            "hostsdir": str(self.names_folder),
            "dhcp-hostsdir": str(self.reservations_folder),
            "dhcp-range": f"{first},{last},{network.netmask},{self.lease_seconds}",
            "dhcp-lease-max": str(network.num_addresses),
            "domain": self.domain,
            "resolv-file": str(self.resolv_file),
            "cache-size": "1000",
        }
        words = [f"--{key}={single_line(value, key)}" for key, value in values.items()]
        # Names and addresses of this network are answered here or not at all, never asked upstream.
        words += [f"--local=/{self.domain}/", *(f"--local=/{zone}/" for zone in reverse_zones(network))]
        # A guest that calls itself wpad would become its neighbours' proxy (CERT VU#598349).
        words += ["--dhcp-name-match=set:wpad,wpad", "--dhcp-ignore-names=tag:wpad"]
        flags = ("bind-dynamic", "no-hosts", "expand-hosts", "domain-needed", "no-ping", "dhcp-authoritative",
                 "quiet-dhcp")  # fmt: skip
        return ["dnsmasq", *words, *(f"--{flag}" for flag in flags)]


def reverse_zones(network: ipaddress.IPv4Network) -> list[str]:
    """The in-addr.arpa zones that cover a network; one smaller than a /24 takes the whole /24."""
    step = min(24, -(-network.prefixlen // 8) * 8)
    inside = network.prefixlen <= step
    parts = network.subnets(new_prefix=step) if inside else [network.supernet(new_prefix=step)]
    return [".".join(reversed(str(part.network_address).split(".")[: step // 8])) + ".in-addr.arpa" for part in parts]


def running(service: Service) -> int | None:
    """The pid of this very server (same arguments), or None."""
    try:
        pid = int(service.pid_file.read_text())
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[:-1]
    except (OSError, ValueError):
        return None
    return pid if [os.fsdecode(word) for word in words] == service.argv() else None


def _other(service: Service) -> int | None:
    """The pid of a server left from other settings: it writes our pid file but has other arguments."""
    try:
        pid = int(service.pid_file.read_text())
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (OSError, ValueError):
        return None
    return pid if f"--pid-file={service.pid_file}".encode() in words else None


def prepare(service: Service) -> None:
    """Make the folders."""
    for folder in (service.folder, service.names_folder, service.reservations_folder):
        folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        folder.chmod(0o755)


def start(service: Service) -> bool:
    """Make sure it runs; True when it had to be started. Raises Failed("name_server") with what dnsmasq said."""
    # Its DHCP socket is bound to the bridge's index: one that was removed and made again needs it started anew.
    found = link(service.bridge)
    index = str(found.index) if found else ""
    bound = service.folder / "bridge-index"
    if running(service) is not None and bound.exists() and bound.read_text() == index:
        return False
    stop(service)
    prepare(service)
    bound.write_text(index)
    try:
        # It goes into the background by itself, once it listens: a session of its own, no child of ours.
        run(service.argv(), timeout=20)
    except Failed as error:
        raise Failed(
            "name_server",
            f"the DHCP and DNS server of {service.bridge} did not start: {error.message}",
            hint="See what holds port 53 with triune doctor; then it starts by itself within a minute.",
        ) from None
    return True


def stop(service: Service) -> None:
    """End the server, whatever settings it was started with; leases and names stay."""
    pid = running(service) or _other(service)
    if pid is None:
        return
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
        for _ in range(200):
            if not Path(f"/proc/{pid}").exists() or _zombie(pid):
                return
            time.sleep(0.01)
        os.kill(pid, signal.SIGKILL)


def _zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def remove(service: Service) -> None:
    """End the server and remove its files."""
    stop(service)
    shutil.rmtree(service.folder, ignore_errors=True)


def write_host(service: Service, key: str, address: str, names: Sequence[str], mac: str | None) -> bool:
    """Give names, and with `mac` a DHCP reservation, to an address; True when something changed.

    `key` is the file's name: a valid instance name, or `gateway`. The first of `names` is the canonical one.
    """
    words = [_checked(_NAME, name, "host name") for name in names]
    address = str(ipaddress.IPv4Address(address))
    # The short name is the last word: `NAME.domain NAME`.
    changed = _put(service.names_folder, key, " ".join([address, *words]) + "\n")
    if mac is not None:
        # The client is told its short name; DHCP appends the domain.
        line = ",".join([_checked(_MAC, mac, "MAC address"), address, words[-1], str(service.lease_seconds)])
        changed = _put(service.reservations_folder, key, line + "\n") or changed
    return changed


def _checked(pattern: re.Pattern[str], text: str, what: str) -> str:
    if not pattern.fullmatch(text):
        raise Invalid(f"bad_{what.lower().replace(' ', '_')}", f"{text!r} is not a {what}", hint="Correct it.")
    return text


def _put(folder: Path, key: str, content: str) -> bool:
    target = folder / _checked(_NAME, key, "host name")
    try:
        if target.read_text() == content:
            return False
    except OSError:
        pass
    # dnsmasq passes over names that begin with a dot.
    draft = folder / f".{key}"
    draft.write_text(content)
    draft.chmod(0o644)
    draft.rename(target)
    return True


def sync_hosts(service: Service, wanted: Mapping[str, tuple[str, Sequence[str], str | None]]) -> bool:
    """Make the folders hold exactly these hosts, `key: (address, names, mac)`; True when something changed."""
    changed = [write_host(service, key, *host) for key, host in wanted.items()]
    extra = {
        file.name
        for folder in (service.names_folder, service.reservations_folder)
        for file in folder.iterdir()
        if file.name not in wanted
    }
    left = [address for key in extra for address in _addresses(service, key)]
    for key in extra:
        _unlink(service, key)
    if extra:
        reload(service)
    for address in left:
        end_lease(service, address)
    return any(changed) or bool(extra)


def _addresses(service: Service, key: str) -> list[str]:
    """The address a host's file names, if it is still there and whole."""
    try:
        return (service.names_folder / key).read_text().split()[:1]
    except (OSError, UnicodeDecodeError):
        return []


def remove_host(service: Service, key: str) -> None:
    """Forget a host; gone is fine."""
    if _unlink(service, _checked(_NAME, key, "host name")):
        reload(service)


def _unlink(service: Service, key: str) -> bool:
    found = False
    for folder in (service.names_folder, service.reservations_folder):
        with contextlib.suppress(FileNotFoundError):
            (folder / key).unlink()
            found = True
    return found


def reload(service: Service) -> None:
    """Make it forget what removed files said."""
    pid = running(service)
    if pid is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGHUP)


@dataclass(frozen=True, slots=True)
class Lease:
    """One line of the leases file. `client_id` is what the client calls itself, empty for none."""

    address: str
    mac: str
    client_id: bytes


def leases(service: Service) -> list[Lease]:
    """Every lease that has not expired."""
    try:
        lines = service.leases_file.read_text().splitlines()
    except OSError:
        return []
    now = time.time()
    found: list[Lease] = []
    for line in lines:
        words = line.split()
        if len(words) >= 5 and words[0].isdigit() and (words[0] == "0" or int(words[0]) > now):
            try:
                identity = b"" if words[4] == "*" else bytes.fromhex(words[4].replace(":", ""))
            except ValueError:
                # dnsmasq writes the file in place: this line is not whole yet, but its address is.
                identity = b""
            found.append(Lease(words[2], words[1], identity))
    return found


def end_lease(service: Service, address: str) -> bool:
    """Take a lease back as if its client had released it (RFC 2131, 4.4.6); True when there was one.

    A lease keeps its address and its name alive in DNS until it expires, whatever the files say.
    """
    lease = next((one for one in leases(service) if one.address == address), None)
    if lease is None:
        return False
    packet = _release_packet(lease, service.gateway)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender, contextlib.suppress(OSError):
        # Bound to the bridge, the packet counts as received there though it never leaves the host.
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, service.bridge.encode())
        sender.sendto(packet, (service.gateway, 67))
    return True


def _release_packet(lease: Lease, server: str) -> bytes:
    client = socket.inet_aton(lease.address)
    chaddr = bytes.fromhex(lease.mac.replace(":", ""))
    head = struct.pack("!BBBB4sHH4s12x16s192x", 1, 1, len(chaddr), 0, os.urandom(4), 0, 0, client, chaddr)
    options = bytes([53, 1, 7, 54, 4]) + socket.inet_aton(server)
    if lease.client_id:
        options += bytes([61, len(lease.client_id)]) + lease.client_id
    return head + b"\x63\x82\x53\x63" + options + b"\xff"


def reachable(service: Service) -> bool:
    """Whether dnsmasq's own unprivileged user can reach the folder."""
    try:
        return all(parent.stat().st_mode & 0o001 for parent in service.folder.resolve().parents)
    except OSError:
        return False
