"""Addresses and MACs of instances: reserved in the store before an instance exists, one owner each."""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

from triune.domain.errors import Conflict
from triune.services.networks.settings import divide
from triune.store import Delete, Entry, Put, Store

_NIC = "networks/nic/"
_ADDRESS = "networks/address/"
_MAC = "networks/mac/"
_ATTEMPTS = 64


@dataclass(frozen=True, slots=True)
class Reservation:
    """What one instance holds in one network. `registered` says whether names and DHCP know it."""

    instance: str
    network: str
    mac: str
    address: str
    registered: bool = False


def _value(reservation: Reservation) -> dict[str, Any]:
    return {
        "network": reservation.network,
        "mac": reservation.mac,
        "address": reservation.address,
        "registered": reservation.registered,
    }


def _from(entry: Entry) -> Reservation:
    return Reservation(entry.key.removeprefix(_NIC), **entry.value)


def _owned(reservation: Reservation) -> tuple[str, str]:
    return f"{_ADDRESS}{reservation.network}/{reservation.address}", f"{_MAC}{reservation.mac}"


class Addresses:
    """The reservations of all networks. Safe from several threads and processes: the store decides who was first."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def get(self, instance: str) -> Reservation | None:
        """What this instance holds."""
        entry = self._store.get(_NIC + instance)
        return _from(entry) if entry else None

    def all(self) -> list[Reservation]:
        """Every reservation, by instance name."""
        return [_from(entry) for entry in self._store.scan(_NIC)]

    def reserve(
        self, network: str, subnet: str, instance: str, foreign: Callable[[str], Collection[str]], mac: str = ""
    ) -> Reservation:
        """Reserve an address and a MAC (this one, if given), or return those it holds.

        `foreign(mac)` are addresses that others use whom the store does not know; a lease of that MAC is not
        another's. Raises Conflict("network_full"), Conflict("other_network") when it is in another network, and
        Conflict("mac_taken") where another instance has the MAC.
        """
        given = mac
        for _ in range(_ATTEMPTS):
            held = self.get(instance)
            if held is not None:
                return _same_network(held, network)
            mac = self._require_free(given) if given else self._free_mac(network, instance)
            address = self._free_address(network, subnet, instance, foreign(mac))
            wanted = Reservation(instance, network, mac, address)
            keys = _owned(wanted)
            owner = {"instance": instance}
            try:
                self._store.commit(
                    [Put(_NIC + instance, _value(wanted)), *(Put(key, owner) for key in keys)],
                    expect={_NIC + instance: 0, **dict.fromkeys(keys, 0)},
                )
            except Conflict as conflict:
                if conflict.code != "store_conflict":
                    raise
                continue
            return wanted
        raise Conflict(
            "network_busy",
            f"no address of network {network} could be reserved for {instance}: too many others ask at once",
            hint="Try again.",
        )

    def _require_free(self, mac: str) -> str:
        entry = self._store.get(_MAC + mac)
        if entry is None:
            return mac
        raise Conflict(
            "mac_taken",
            f"{entry.value['instance']} has the MAC address {mac}",
            hint="Let it have a new one: --new-macs, or remove the other instance first.",
        )

    def _free_mac(self, network: str, instance: str) -> str:
        for mac in _macs(network, instance):
            if self._store.get(_MAC + mac) is None:
                return mac
        raise AssertionError

    def _free_address(self, network: str, subnet: str, instance: str, foreign: Collection[str]) -> str:
        taken = {entry.key.rpartition("/")[2] for entry in self._store.scan(f"{_ADDRESS}{network}/")}
        for address in _addresses(subnet, instance):
            if address not in taken and address not in foreign:
                return address
        raise Conflict(
            "network_full",
            f"network {network} ({subnet}) has no free address left",
            hint="Remove instances, or make a larger network: triune network create NAME --subnet A.B.0.0/16",
        )

    def mark_registered(self, instance: str) -> None:
        """Note that names and DHCP are to know this instance."""
        entry = self._store.get(_NIC + instance)
        if entry is not None and not entry.value["registered"]:
            value = {**entry.value, "registered": True}
            self._store.commit([Put(entry.key, value)], expect={entry.key: entry.revision})

    def release(self, instance: str) -> Reservation | None:
        """Give everything of this instance back; returns what it held."""
        held = self.get(instance)
        if held is not None:
            self._store.commit([Delete(_NIC + instance), *(Delete(key) for key in _owned(held))])
        return held

    def rename(self, instance: str, new: str) -> Reservation | None:
        """Hand its address and MAC over to the new name. Raises Conflict("store_conflict") if that has its own."""
        held = self.get(instance)
        if held is None:
            return self.get(new)
        moved = Reservation(new, held.network, held.mac, held.address, held.registered)
        owner = {"instance": new}
        self._store.commit(
            [Delete(_NIC + instance), Put(_NIC + new, _value(moved)), *(Put(key, owner) for key in _owned(held))],
            expect={_NIC + new: 0},
        )
        return moved


def _same_network(held: Reservation, network: str) -> Reservation:
    if held.network != network:
        raise Conflict(
            "other_network",
            f"{held.instance} has an address in network {held.network}, not {network}",
            hint="Remove the instance first, or launch it under another name.",
        )
    return held


def _macs(network: str, instance: str) -> Iterator[str]:
    """Locally administered unicast addresses, the same for the same name each time."""
    salt = 0
    while True:
        digest = hashlib.sha256(f"{network}\0{instance}\0{salt}".encode()).digest()
        yield "02:" + ":".join(f"{byte:02x}" for byte in digest[:5])
        salt += 1


def _addresses(subnet: str, instance: str) -> Iterator[str]:
    """Every address for reservations, beginning where the name's hash says: a name tends to keep its address."""
    part = divide(subnet)
    start = int.from_bytes(hashlib.sha256(instance.encode()).digest()[:8], "big")
    for step in range(part.size):
        yield str(ipaddress.IPv4Address(int(part.first) + (start + step) % part.size))
