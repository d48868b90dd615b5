"""Makes a bridge of ours known to Docker, so that its containers join it and its firewall lets the bridge be.

Docker's addresses are the last quarter of the subnet, for containers that others start in this network; ours are
static ones from our own reservations.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Any

from triune.domain.errors import Conflict, Denied, NotFound, TriuneError
from triune.domain.names import single_line
from triune.domain.network import Network
from triune.engines.docker import spec
from triune.engines.docker.client import DockerClient

BRIDGE_NAME = "com.docker.network.bridge.name"


class DockerBridging:
    """The bridging facet: one Docker network of driver `bridge`, named as ours."""

    def __init__(self, client: DockerClient) -> None:
        self._client = client

    def ensure(self, network: Network) -> None:
        """Make the bridge known; one request when it is already.

        A Docker network of that name that differs is replaced when no running container is in it. Raises
        Conflict("network_in_use", "bridge_taken").
        """
        body = self._body(network)
        found = self._find(network.name)
        if found is not None and matches(found, body):
            return
        if found is not None:
            self._remove(found, network)
        try:
            self._create(body)
        except Conflict as error:
            # Another thread or process was quicker; 409 is Docker's answer to a name that exists.
            again = self._find(network.name)
            if again is None or not matches(again, body):
                raise _taken(network, error) from error
        except Denied as error:
            raise _taken(network, error) from error

    def forget(self, network: Network) -> None:
        """Remove the Docker network, not the bridge; succeeds when it is not there, or is not ours."""
        found = self._find(network.name)
        if found is not None and ((found.get("Options") or {}).get(BRIDGE_NAME) == network.bridge):
            self._remove(found, network)

    def _body(self, network: Network) -> dict[str, Any]:
        return network_body(network)

    def _find(self, name: str) -> dict[str, Any] | None:
        single_line(name, "the network's name")
        # The filter also finds names that only contain this one.
        found = self._client.read(lambda api: api.networks(names=[name]))
        exact = next((one for one in found if one.get("Name") == name), None)
        return dict(exact) if exact is not None else None

    def _remove(self, found: Mapping[str, Any], network: Network) -> None:
        try:
            self._client.act(lambda api: api.remove_network(found["Id"]))
        except NotFound:
            return
        except (Denied, Conflict) as error:
            raise Conflict(
                "network_in_use",
                f"Docker's network {network.name} has running containers in it",
                hint=f"See which with: docker network inspect {network.name}; stop them, then try again.",
            ) from error

    def _create(self, body: Mapping[str, Any]) -> None:
        import docker.types

        (pool,) = body["IPAM"]["Config"]
        ipam = docker.types.IPAMConfig(
            pool_configs=[
                docker.types.IPAMPool(subnet=pool["Subnet"], iprange=pool["IPRange"], gateway=pool["Gateway"])
            ]
        )
        self._client.act(
            lambda api: api.create_network(
                body["Name"],
                driver=body["Driver"],
                options=dict(body["Options"]),
                ipam=ipam,
                check_duplicate=True,
                labels=dict(body["Labels"]),
            )
        )


def network_body(network: Network) -> dict[str, Any]:
    """What Docker should know of the network, in the words of its API (NetworkCreate)."""
    subnet = ipaddress.IPv4Network(network.subnet)
    # A quarter of a smaller one has no room for addresses.
    pool = str(subnet) if subnet.prefixlen > 28 else str(list(subnet.subnets(prefixlen_diff=2))[-1])
    return {
        "Name": network.name,
        "Driver": "bridge",
        "IPAM": {"Config": [{"Subnet": str(subnet), "IPRange": pool, "Gateway": network.gateway}]},
        "Options": {BRIDGE_NAME: single_line(network.bridge, "the bridge's name")},
        "Labels": {spec.MANAGED: "1"},
    }


def matches(found: Mapping[str, Any], body: Mapping[str, Any]) -> bool:
    """Whether a Docker network is as `network_body` wants it."""
    pools = [
        {key: pool.get(key) for key in ("Subnet", "IPRange", "Gateway")}
        for pool in ((found.get("IPAM") or {}).get("Config") or ())
    ]
    options = found.get("Options") or {}
    return (
        found.get("Driver") == body["Driver"]
        and pools == body["IPAM"]["Config"]
        and all(options.get(key) == value for key, value in body["Options"].items())
    )


def _taken(network: Network, error: TriuneError) -> Conflict:
    return Conflict(
        "bridge_taken",
        f"Docker cannot take the bridge {network.bridge} with {network.subnet}: {error.message}",
        hint="Another Docker network uses that bridge or subnet: see docker network ls; choose another subnet.",
    )
