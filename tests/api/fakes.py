"""A network service that leaves the host alone."""

from __future__ import annotations

import builtins
from collections.abc import Mapping, Sequence

from triune.domain.errors import Conflict, NotFound, TriuneError
from triune.domain.names import instance_name
from triune.domain.network import Network, Nic, Publish
from triune.engines.base import Engine
from triune.host.firewall import Blocker
from triune.services.networks import NetworkSettings
from triune.store import Store


class FakeShaper:
    """Remembers what each card's interface was told last."""

    def __init__(self) -> None:
        self.shaped: dict[str, tuple[int | None, int | None]] = {}
        self.reason = ""
        self.failure: TriuneError | None = None

    def why_not(self) -> str:
        return self.reason

    def shape(self, interface: str, inbound: int | None, outbound: int | None) -> None:
        if self.failure is not None and (inbound, outbound) != (None, None):
            raise self.failure
        self.shaped[interface] = (inbound, outbound)

    def sweep(self) -> None:
        """Nothing is ever left."""


class FakeNetworks:
    """Networks on paper."""

    default = "triune0"

    def __init__(self, store: Store, engines: Mapping[str, Engine], settings: NetworkSettings) -> None:
        del store, engines, settings
        self._networks: dict[str, Network] = {}
        self._nics: dict[str, Nic] = {}
        self._ports: dict[str, tuple[Publish, ...]] = {}
        self._add("triune0", "10.87.0.0/16")

    def _add(self, name: str, subnet: str) -> Network:
        gateway = subnet.rpartition(".")[0] + ".1"
        self._networks[name] = Network(
            name=name, bridge=name, subnet=subnet, gateway=gateway, domain=f"{name}.internal"
        )
        return self._networks[name]

    def start(self) -> None: ...

    def close(self) -> None: ...

    def engine_up(self) -> None: ...

    def list(self) -> builtins.list[Network]:
        return [*self._networks.values()]

    def get(self, name: str) -> Network:
        if name not in self._networks:
            raise NotFound("network_not_found", f"there is no network {name}", hint="See: triune network list")
        return self._networks[name]

    def members(self, name: str) -> builtins.list[str]:
        return [instance for instance, nic in self._nics.items() if nic.network.name == name]

    def create(self, name: str, subnet: str | None = None) -> Network:
        instance_name(name)
        if name in self._networks:
            raise Conflict("network_exists", f"there is a network {name} already", hint="Choose another name.")
        return self._add(name, subnet or f"10.{90 + len(self._networks)}.0.0/16")

    def delete(self, name: str, *, force: bool = False) -> None:
        self.get(name)
        if self.members(name) and not force:
            raise Conflict("network_in_use", f"network {name} is used", hint="Remove them first.")
        del self._networks[name]

    def reserve(self, network: str, instance: str, mac: str = "") -> Nic:
        number = len(self._nics) + 10
        nic = Nic(
            network=self.get(network), mac=mac or f"02:00:00:00:{number >> 8:02x}:{number & 255:02x}",
            address=f"10.87.{number >> 8}.{number & 255}",
        )  # fmt: skip
        return self._nics.setdefault(instance, nic)

    def leased(self, network: str, mac: str) -> str:
        del network, mac
        return ""

    def register(self, instance: str, nic: Nic) -> None:
        del instance, nic

    def release(self, instance: str) -> None:
        self._nics.pop(instance, None)
        self._ports.pop(instance, None)

    def rename(self, instance: str, new: str) -> None:
        for table in (self._nics, self._ports):
            if instance in table:
                table[new] = table.pop(instance)  # type: ignore[index, assignment]

    def check_ports(self, instance: str, ports: Sequence[Publish], *, native: bool) -> None:
        del instance, native
        for taken in self._ports.values():
            if set(taken) & set(ports):
                raise Conflict("port_taken", "the port is taken", hint="Publish another one.")

    def publish(self, instance: str, address: str, ports: Sequence[Publish]) -> None:
        del address
        self._ports[instance] = tuple(ports)

    def published(self) -> Mapping[str, Sequence[Publish]]:
        return self._ports

    def problems(self) -> builtins.list[TriuneError]:
        return []

    def blockers(self) -> builtins.list[Blocker]:
        return []
