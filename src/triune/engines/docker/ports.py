"""Ports that Docker publishes by itself."""

from __future__ import annotations

import errno
import socket
from collections.abc import Mapping, Sequence
from typing import Any

from triune.domain.errors import Conflict
from triune.domain.network import Publish
from triune.engines.docker.client import DockerClient
from triune.engines.docker.inventory import name_of

_ANY = ("", "0.0.0.0", "::")  # noqa: S104 - read, not bound


class Ports:
    """Published ports of every container."""

    def __init__(self, client: DockerClient) -> None:
        self._client = client

    def published(self) -> Mapping[str, Sequence[str]]:
        """Published ports by instance name; only of those that run, since Docker opens ports at the start."""
        entries = self._client.read(lambda api: api.containers())
        return {
            name_of(entry): [str(publish) for publish in listed(entry.get("Ports") or ())]
            for entry in entries
            if entry.get("Names")
        }


def listed(ports: Sequence[Mapping[str, Any]]) -> list[Publish]:
    """The `Ports` of a list entry; the same port on IPv4 and IPv6 is one."""
    found = {
        Publish(
            host_port=int(port["PublicPort"]),
            guest_port=int(port["PrivatePort"]),
            host_ip=None if port.get("IP", "") in _ANY else str(port["IP"]),
            protocol=str(port.get("Type", "tcp")),
        ): None
        for port in ports
        if port.get("PublicPort")
    }
    return list(found)


def wanted(host: Mapping[str, Any]) -> list[Publish]:
    """The `PortBindings` of a HostConfig whose host port is fixed."""
    found: dict[Publish, None] = {}
    for inside, bindings in (host.get("PortBindings") or {}).items():
        number, _, protocol = str(inside).partition("/")
        for binding in bindings or ():
            if str(binding.get("HostPort") or "").isdigit():
                ip = str(binding.get("HostIp") or "")
                found[
                    Publish(
                        host_port=int(binding["HostPort"]),
                        guest_port=int(number),
                        host_ip=None if ip in _ANY else ip,
                        protocol=protocol or "tcp",
                    )
                ] = None
    return list(found)


def taken(described: Mapping[str, Any], running: Sequence[Mapping[str, Any]]) -> list[Publish]:
    """Which of the ports a stopped container wants are in use, by the list's `running` entries or by the host.

    Docker says so only in words, so each is tried.
    """
    used = [publish for entry in running for publish in listed(entry.get("Ports") or ())]
    return [
        publish
        for publish in wanted(described.get("HostConfig") or {})
        if any(_clash(publish, other) for other in used) or _in_use(publish)
    ]


def _clash(one: Publish, other: Publish) -> bool:
    same_address = one.host_ip is None or other.host_ip is None or one.host_ip == other.host_ip
    return same_address and (one.host_port, one.protocol) == (other.host_port, other.protocol)


def _in_use(publish: Publish) -> bool:
    kind = socket.SOCK_DGRAM if publish.protocol == "udp" else socket.SOCK_STREAM
    with socket.socket(socket.AF_INET, kind) as sock:
        # Docker's proxy does not share ports either, but connections in TIME_WAIT must not count.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0 if publish.protocol == "udp" else 1)
        try:
            sock.bind((publish.host_ip or "0.0.0.0", publish.host_port))  # noqa: S104 - every address, as asked
        except OSError as error:
            return error.errno == errno.EADDRINUSE
    return False


def port_taken(name: str, ports: Sequence[Publish]) -> Conflict:
    """The error for ports somebody else has."""
    words = ", ".join(f"{publish.host_port}/{publish.protocol}" for publish in ports)
    return Conflict(
        "port_taken",
        f"{name} cannot publish {words}: in use on this host already",
        hint=f"See by what with: ss -lntup 'sport = :{ports[0].host_port}'; then publish another port.",
        name=name,
        ports=[str(publish) for publish in ports],
    )
