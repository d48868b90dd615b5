"""Published ports: who has which, and what stands in the way of another one."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping, Sequence

from triune.domain.errors import Conflict, Invalid, TriuneError
from triune.domain.network import Publish, parse_publish
from triune.engines.base import Engine
from triune.host import net
from triune.host.listeners import Listener, listeners, overlaps, owners
from triune.store import Delete, Put, Store

_PUBLISH = "networks/publish/"


def same(one: Publish, other: Publish) -> bool:
    """Whether two ports claim the same traffic of the host."""
    return one.protocol == other.protocol and one.host_port == other.host_port and overlaps(one.host_ip, other.host_ip)


class Ports:
    """Ports published by the service itself (kept in the store) and by engines that do it natively (read live)."""

    def __init__(self, store: Store, engines: Mapping[str, Engine]) -> None:
        self._store = store
        self._engines = engines

    def own(self) -> dict[str, tuple[str, tuple[Publish, ...]]]:
        """Instance to (address, ports), of those the service publishes."""
        return {
            entry.key.removeprefix(_PUBLISH): (
                entry.value["address"],
                tuple(parse_publish(text) for text in entry.value["ports"]),
            )
            for entry in self._store.scan(_PUBLISH)
        }

    def native(self) -> dict[str, tuple[Publish, ...]]:
        """Instance to ports, of engines that publish by themselves; one that is down has none to tell."""
        found: dict[str, tuple[Publish, ...]] = {}
        for engine in self._engines.values():
            if engine.ports is None:
                continue
            try:
                told = engine.ports.published()
            except TriuneError:
                continue
            for name, texts in told.items():
                found[name] = tuple(_parsed(texts))
        return found

    def all(self) -> dict[str, tuple[Publish, ...]]:
        """Every instance's published ports."""
        return self.native() | {name: ports for name, (_, ports) in self.own().items()}

    def check(self, instance: str, ports: Sequence[Publish], *, native: bool) -> None:
        """Raise Invalid("duplicate_port") or Conflict("port_taken") where `instance` cannot have these ports."""
        for number, port in enumerate(ports):
            if any(same(port, other) for other in ports[:number]):
                raise Invalid(
                    "duplicate_port",
                    f"port {port.host_port}/{port.protocol} is published twice for {instance}",
                    hint="Give each port of the host once.",
                )
        if not ports:
            return
        _refuse_foreign(instance, ports)
        known = self.all()
        self._refuse_instances(instance, ports, known)
        # An engine's own proxy holds its ports open: those the instance has already are no conflict.
        mine = known.get(instance, ()) if native else ()
        _refuse_processes(instance, [port for port in ports if not any(same(port, own) for own in mine)])

    def check_own(self, instance: str, ports: Sequence[Publish]) -> None:
        """The part of `check` that the store alone can answer: two launches may have passed `check` together."""
        self._refuse_instances(instance, ports, {name: held for name, (_, held) in self.own().items()})

    @staticmethod
    def _refuse_instances(instance: str, ports: Sequence[Publish], known: Mapping[str, Sequence[Publish]]) -> None:
        for name, held in known.items():
            for port in ports:
                if name != instance and any(same(port, other) for other in held):
                    raise _taken(instance, port, name)

    def put(self, instance: str, address: str, ports: Sequence[Publish]) -> None:
        """Keep them."""
        value = {"address": address, "ports": [str(port) for port in ports]}
        self._store.commit([Put(_PUBLISH + instance, value)])

    def delete(self, instance: str) -> bool:
        """Forget them; True when there were some."""
        if self._store.get(_PUBLISH + instance) is None:
            return False
        self._store.commit([Delete(_PUBLISH + instance)])
        return True

    def rename(self, instance: str, new: str) -> None:
        """Hand them over to the new name."""
        entry = self._store.get(_PUBLISH + instance)
        if entry is not None:
            self._store.commit([Delete(_PUBLISH + instance), Put(_PUBLISH + new, entry.value)])


def _parsed(texts: Sequence[str]) -> Iterator[Publish]:
    for text in texts:
        try:
            yield parse_publish(text)
        except Invalid:
            # Made by the engine's own tool in a shape we do not publish, such as an IPv6 address.
            continue


def _refuse_foreign(instance: str, ports: Sequence[Publish]) -> None:
    wanted = {port.host_ip for port in ports if port.host_ip and not ipaddress.IPv4Address(port.host_ip).is_loopback}
    if not wanted:
        return
    own = {str(one.ip) for found in net.addresses().values() for one in found}
    for address in sorted(wanted - own):
        raise Invalid(
            "address_not_here",
            f"no port of {address} can be published for {instance}: this host has no such address",
            hint=f"It has {', '.join(sorted(own))}; leave the address out to publish on all of them.",
        )


def _refuse_processes(instance: str, ports: Sequence[Publish]) -> None:
    held: list[tuple[Publish, Listener]] = [
        (port, listener)
        for listener in listeners()
        for port in ports
        if listener.port == port.host_port
        and listener.protocol == port.protocol
        and overlaps(listener.address, port.host_ip)
    ]
    if held:
        port, listener = held[0]
        who = owners([listener]).get(listener.inode, "another program on this host")
        raise _taken(instance, port, who)


def _taken(instance: str, port: Publish, who: str) -> Conflict:
    where = f"{port.host_ip}:" if port.host_ip else ""
    return Conflict(
        "port_taken",
        f"port {where}{port.host_port}/{port.protocol} cannot be published for {instance}: {who} has it",
        hint="Choose another port of the host, or stop what uses this one.",
        holder=who,
    )
