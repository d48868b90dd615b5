"""Addresses of what lies on an ESXi host.

    esxi://[user@]host[:port]                            the host: its datastores, machines and devices
    esxi://[user@]host[:port]/datastore[/path]           a datastore, a folder or an intact file, over HTTPS
    esxi://[user@]host[:port]/vmfs/devices/disks[/NAME]  the raw devices, over SSH; NAME:2 is a partition
    esxi+ssh://[user@]host[:port]/vmfs/…                 any file below /vmfs, over SSH

`%20` and the like are decoded once, so `%` itself is written `%25`. A port is that of the service the address uses.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import quote, unquote_to_bytes

from triune.domain.errors import Invalid

SCHEMES = ("esxi://", "esxi+ssh://")
HTTPS_PORT, SSH_PORT = 443, 22
_LONGEST = 4096
_LONGEST_NAME = 255
_DEVICES = ("vmfs", "devices", "disks")
_VOLUMES = ("vmfs", "volumes")
_HOST = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,252}[A-Za-z0-9_.])?")
_NO_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_HINT = "An address is esxi://[user@]host[:port]/datastore/path or esxi://[user@]host[:port]/vmfs/devices/disks/NAME."


class Place(StrEnum):
    """What an address names."""

    HOST = "host"
    DATASTORE = "datastore"
    DEVICES = "devices"
    DEVICE = "device"


@dataclass(frozen=True, slots=True)
class Address:
    """A place on a host. `path` are the decoded names below the host; never empty, `.` or `..`."""

    host: str
    user: str = "root"
    port: int | None = None
    path: tuple[str, ...] = ()
    ssh: bool = False

    @property
    def place(self) -> Place:
        """What it names."""
        if self.ssh or self.path[:3] == _DEVICES:
            return Place.DEVICES if self.path == _DEVICES else Place.DEVICE
        return Place.DATASTORE if self.datastore else Place.HOST

    @property
    def datastore(self) -> str:
        """The datastore's name, empty for a host or a device."""
        names = self._below
        return names[0] if names else ""

    @property
    def file(self) -> str:
        """The path on the datastore, `/` between names."""
        return "/".join(self._below[1:])

    @property
    def remote(self) -> str:
        """The absolute path on the host, for SSH."""
        return "/" + "/".join(self.path)

    @property
    def service_port(self) -> int:
        """The port of the service it uses."""
        over_ssh = self.place in (Place.DEVICE, Place.DEVICES)
        return self.port or (SSH_PORT if over_ssh else HTTPS_PORT)

    @property
    def _below(self) -> tuple[str, ...]:
        if self.ssh or self.path[:3] == _DEVICES:
            return ()
        return self.path[2:] if self.path[:2] == _VOLUMES else self.path

    def __str__(self) -> str:
        """As it can be parsed again."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port is None else f":{self.port}"
        below = "".join("/" + quote(name, safe=":@!$&'()*+,;= ~") for name in self.path)
        scheme = SCHEMES[1] if self.ssh else SCHEMES[0]
        return f"{scheme}{quote(self.user, safe='@')}@{host}{port}{below}"


def is_address(text: str) -> bool:
    """Whether it is one of ours."""
    return text.lower().startswith(SCHEMES)


def parse_address(text: str) -> Address:
    """Take it apart. Raises Invalid("bad_address") and Invalid("password_in_address"); neither repeats a password."""
    if not is_address(text) or len(text) > _LONGEST:
        raise Invalid("bad_address", "this is no address of an ESXi host", hint=_HINT)
    scheme, _, rest = text.partition("://")
    authority, _, path = rest.partition("/")
    before, at, place = authority.rpartition("@")
    if ":" in before:
        raise Invalid(
            "password_in_address",
            "the address holds a password, which everyone on this machine could read",
            hint="Leave it out: it is asked for, or comes from --password-file or TRIUNE_ESXI_PASSWORD.",
        )
    user = _decoded(before) if at else "root"
    if not user or len(user) > _LONGEST_NAME:
        raise Invalid("bad_address", "the address names an empty or endless user", hint=_HINT)
    host, port = _host(place)
    address = Address(host, user, port, _names(path), ssh=scheme.lower() == "esxi+ssh")
    _require_place(address)
    return address


def _require_place(address: Address) -> None:
    over_ssh = address.ssh or address.path[:3] == _DEVICES
    if over_ssh and (address.path[:1] != ("vmfs",) or len(address.path) < 3):
        raise Invalid("bad_address", f"{address} is not below /vmfs", hint=_HINT)
    if address.path[:1] == ("vmfs",) and not over_ssh and address.path[:2] != _VOLUMES:
        raise Invalid("bad_address", f"{address} is neither a datastore nor a device", hint=_HINT)


def _host(place: str) -> tuple[str, int | None]:
    """Host and port of `host:port`, `[v6]:port`, or without a port."""
    if place.startswith("["):
        host, bracket, rest = place[1:].partition("]")
        try:
            host = str(ipaddress.IPv6Address(host))
        except ValueError:
            bracket = ""
        if not bracket or "%" in host:
            raise Invalid("bad_address", "the address's [host] is no IPv6 address", hint=_HINT)
    else:
        host, colon, number = place.partition(":")
        rest = colon + number
        if not _HOST.fullmatch(host):
            raise Invalid("bad_address", "the address names no host, or one with strange characters", hint=_HINT)
        host = host.lower()
    if not rest:
        return host, None
    digits = rest[1:]
    if rest[0] != ":" or not (digits.isascii() and digits.isdigit() and len(digits) <= 5 and 0 < int(digits) < 65536):
        raise Invalid("bad_address", f"the port after {host} is no number from 1 to 65535", hint=_HINT)
    return host, int(digits)


def _names(path: str) -> tuple[str, ...]:
    names = tuple(_decoded(name) for name in path.split("/") if name)
    for name in names:
        if name in (".", "..") or "/" in name or not name.isprintable() or len(name.encode()) > _LONGEST_NAME:
            raise Invalid("bad_address", f"the address holds a name that no file has: {name[:80]!r}", hint=_HINT)
    return names


def _decoded(text: str) -> str:
    """`%20` and the like, once."""
    if _NO_ESCAPE.search(text):
        raise Invalid("bad_address", "a % in the address is no escape", hint="Write % itself as %25.")
    try:
        decoded = unquote_to_bytes(text).decode()
    except UnicodeError:
        raise Invalid("bad_address", "the address is not UTF-8", hint=_HINT) from None
    if not decoded.isprintable():
        raise Invalid("bad_address", "the address holds control characters", hint=_HINT)
    return decoded
