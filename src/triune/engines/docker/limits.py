"""The `limiting` facet: Docker's own update of a container, and its control group for what that leaves out.

Docker can't change limits of disk traffic after a container's creation, so they are `volatile`: written to the control
group, after every start anew. The same goes for the weight in control groups v2, which Docker takes only in v1's units
and converts in ways that differ between versions of runc.
"""

from __future__ import annotations

from pathlib import Path

from triune.domain.errors import Conflict, Invalid, TriuneError
from triune.domain.limits import Limits, Value
from triune.engines.docker import containers
from triune.engines.docker.client import DockerClient
from triune.engines.docker.containers import Described
from triune.engines.docker.counters import group_of
from triune.engines.docker.inventory import Inventory
from triune.engines.docker.layers import layer
from triune.engines.docker.limit_config import limits_of, update_body
from triune.host import blockdev, cgroup, cgroup_limits
from triune.host.cgroup import Group


class DockerLimiting:
    """Limits of containers, new ones and those of other tools."""

    def __init__(self, client: DockerClient, inventory: Inventory) -> None:
        self._client = client
        self._inventory = inventory
        mounted = cgroup.hierarchies()
        self.by_shares = cgroup_limits.versions(mounted)["cpu"] == 1
        self.missing = cgroup_limits.missing(mounted)
        self.keys = frozenset(cgroup_limits.CONTROLLERS) - self.missing.keys()
        self.live = self.keys
        self.volatile = (cgroup_limits.DISK | (frozenset() if self.by_shares else {"cpu.weight"})) & self.keys

    def read(self, name: str) -> Limits:
        """Of its configuration; what Docker does not keep, of its control group while it runs."""
        return self._read(containers.describe(self._client, name))

    def _read(self, found: Described) -> Limits:
        limits = limits_of(found.get("HostConfig") or {}, weight=self.by_shares)
        group = _group(found)
        if group is None:
            return limits
        there: Limits = cgroup_limits.read_group(group, _disk(self._client, found))
        values: dict[str, Value | None] = {key: there.get(key) for key in self.volatile}
        return limits.changed(values)

    def apply(self, name: str, limits: Limits, changed: frozenset[str]) -> frozenset[str]:
        """At once; nothing waits for a restart."""
        found = containers.describe(self._client, name)
        cgroup_limits.require_keys(limits, changed, self.missing)
        before, group = self._read(found), _group(found)
        own = changed & self.volatile
        if group is not None:
            cgroup_limits.require_room(group, name, limits, changed)
        self._update(found, limits, changed - own, name)
        try:
            if own and group is not None:
                cgroup_limits.apply(group, limits, own, _disk(self._client, found))
        except TriuneError:
            self._update(found, before, changed - own, name)
            raise
        return frozenset()

    def _update(self, found: Described, limits: Limits, changed: frozenset[str], name: str) -> None:
        if not changed:
            return
        container = str(found["Id"])
        body = update_body(limits, changed, found.get("HostConfig") or {})
        missing = containers.not_found(name)
        try:
            self._client.act(
                lambda api: api._result(
                    api._post_json(api._url("/containers/{0}/update", container), data=body), json=True
                ),
                missing=missing,
            )
        except Invalid as error:
            raise Invalid("docker_refused", f"{name}: {error.message}", hint=error.hint) from error
        except Conflict as error:
            raise Conflict("instance_changing", f"{name}: {error.message}", hint="Try again.") from error
        self._inventory.note(containers.describe(self._client, name))


def _group(found: Described) -> Group | None:
    """The control group of a running container; None where it is not of this host."""
    pid = int(found["State"].get("Pid") or 0)
    if not pid or not found["State"].get("Running"):
        return None
    try:
        return group_of(pid, str(found["Id"]))
    except OSError:
        return None


def _disk(client: DockerClient, found: Described) -> str | None:
    """The disk that its own layer lies on."""
    upper = layer(client, found) or Path(str(found.get("ResolvConfPath") or ""))
    return blockdev.disk_of(upper) if upper.is_absolute() else None
