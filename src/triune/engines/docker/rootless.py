"""The engine `rootless`: application containers of a second Docker engine, one that is not root.

Its images come from the first one's store, so that there is one list of them; a copy is made at the first launch. Its
ports are published by us, as those of systems are, and its network is joined to our bridge from the host's side.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from triune.domain.errors import Conflict, NotFound, TriuneError, Unsupported
from triune.domain.image import OciForm
from triune.domain.instance import HOST_NETWORK, Instance, InstanceDetail, State, Stats
from triune.domain.isolation import Exposure, Isolation
from triune.domain.limits import NETWORK, Limits
from triune.domain.network import Network
from triune.domain.operation import Progress
from triune.engines.base import EventSink, LaunchPlan, Probe, Watch
from triune.engines.docker import containers
from triune.engines.docker.auditing import DockerAuditing
from triune.engines.docker.bridging import DockerBridging
from triune.engines.docker.client import DockerClient
from triune.engines.docker.containers import Described
from triune.engines.docker.counters import Counters, of_process
from triune.engines.docker.engine import DockerEngine
from triune.engines.docker.images import ImageStore
from triune.engines.docker.inventory import Inventory
from triune.engines.docker.limits import DockerLimiting
from triune.host import cgroup, cgroup_limits, made_groups, rootless

NAME = "rootless"
INHIBIT = "com.docker.network.bridge.inhibit_ipv4"
_COPY = "triune-copy"
_START = f"Start it: systemctl start triune-docker; or let setup do it: {rootless.SETUP}"
_NO_PAUSE = "a Docker engine without root can't freeze processes"


class RootlessEngine(DockerEngine):
    """A Docker engine that runs as a user of its own, in a user namespace."""

    def __init__(self, base_url: str, *, images_from: str, state_dir: Path) -> None:
        """`images_from` is the address of the engine whose images it runs."""
        super().__init__(base_url, state_dir=state_dir, start=_START)
        self.name = NAME
        self.title = "application containers (rootless Docker)"
        self._source = DockerClient(images_from)
        self._originals = ImageStore(self._source)
        self._counters = RootlessCounters(self._client)
        self.bridging = RootlessBridging(self._client)
        self._groups = RootlessLimiting(self._client, self._inventory)
        self._limiting = self._groups
        self.limiting = self._groups
        self.auditing = RootlessAuditing(self._client, self._source, self._groups)
        self.oci = None
        self.ports = None
        self.pausing = None
        self.snapshots = None
        self.cloning = None
        self.archiving = None

    def probe(self) -> Probe:
        """As of any Docker engine; one that is root is not taken."""
        found = super().probe()
        if not found.available:
            return found
        if not found.facts["rootless"]:
            return Probe(
                available=False,
                reason=f"the Docker engine on {self._client.socket_path} is root",
                hint=f"Let setup make one that is not: {rootless.SETUP}",
            )
        return replace(found, missing={**found.missing, **_missing()})

    def list(self) -> Sequence[Instance]:
        """All its containers."""
        return [self._limited(one) for one in super().list()]

    def row(self, name: str) -> Instance:
        """One of them as in the list."""
        return self._limited(super().row(name))

    def get(self, name: str) -> InstanceDetail:
        """One of them with everything known of it."""
        found = super().get(name)
        return replace(found, instance=self._limited(found.instance))

    def _limited(self, row: Instance) -> Instance:
        """A row with the limits that are in force: Docker knows of none."""
        limits = self._groups.in_force(row) if row.state is State.RUNNING else Limits()
        return replace(row, engine=self.name, cpus=limits.cpus, memory_bytes=limits.memory)

    def watch(self, sink: EventSink) -> Watch:
        """Deliver its events until closed."""
        return super().watch(lambda event: sink(replace(event, engine=self.name)))

    def check(self, plan: LaunchPlan) -> None:
        """Refuse what needs root too."""
        refuse(plan)
        super().check(plan)

    def create(self, plan: LaunchPlan, progress: Progress) -> None:
        """Copy the image where it is not there yet, and make the container, stopped."""
        refuse(plan)
        self._drop_copies()
        form = self._copied(plan, progress)
        # Ports and limits are for others to give.
        spec = replace(plan.spec, publish=(), cpus=None, memory=None, limits=Limits())
        super().create(replace(plan, form=form, spec=spec), progress)

    def delete(self, name: str) -> None:
        """Remove it, and copies of images that are gone."""
        super().delete(name)
        self._drop_copies()
        made_groups.sweep()

    def _copied(self, plan: LaunchPlan, progress: Progress) -> OciForm:
        if not isinstance(plan.form, OciForm):
            return OciForm(id="", reference="")  # refused by what follows
        reference = f"{_COPY}:{plan.form.id.removeprefix('sha256:')}"
        found = self._images.inspect(reference)
        if found is not None:
            return OciForm(id=str(found["id"]), reference=reference)
        progress.step("rootless-copy", f"copying {plan.image} into the rootless Docker engine")
        return self._images.load_archive(self._saved(plan, plan.form.id, progress), reference)

    def _saved(self, plan: LaunchPlan, image: str, progress: Progress) -> Iterator[bytes]:
        gone = NotFound(
            "image_not_found",
            f"Docker no longer has the image {plan.image}",
            hint=f"Get it again: triune image pull {plan.image}",
        )
        for piece in self._source.act(lambda api: api.get_image(image), missing=gone):
            progress.check()
            yield piece

    def _drop_copies(self) -> None:
        """Remove copies of images that the first engine has no longer, and that nobody uses."""
        try:
            copies = self._client.read(lambda api: api.images(name=_COPY))
            for tag in [str(tag) for one in copies for tag in one.get("RepoTags") or ()]:
                if self._originals.inspect(f"sha256:{tag.rpartition(':')[2]}") is None:
                    self._images.remove(tag)
        except Conflict:
            return
        except TriuneError:
            # An engine that is away: the next launch looks again.
            return


def refuse(plan: LaunchPlan) -> None:
    """Raise Unsupported for what only root could give."""
    spec = plan.spec
    if "pids-limit" in spec.settings:
        raise Unsupported(
            "limit_unsupported",
            "the rootless Docker engine takes no pids-limit of its own",
            hint=f"Set the limit that every instance has: --set pids={spec.settings['pids-limit']}",
        )
    if spec.network == HOST_NETWORK:
        raise Unsupported(
            "own_network_only",
            f"{spec.name} can't be on the host's network: the rootless Docker engine has a network of its own",
            hint="Publish ports instead (--publish), or launch it with --engine docker.",
        )
    for volume in spec.volumes:
        if volume.source.startswith("/") and not volume.read_only:
            raise Unsupported(
                "volume_unsupported",
                f"{spec.name} could not write to {volume.source}: its root is a plain user on the host",
                hint=f"Mount it read-only ({volume.source}:{volume.target}:ro), or launch it with --engine docker.",
            )


def _missing() -> Mapping[str, str]:
    return {
        "oci": "its images are Docker's own, copied at the first launch",
        "ports": "Triune publishes its ports itself",
        "pausing": _NO_PAUSE,
        "snapshots": "they are kept for the root engine's containers only",
        "snapshots.memory": "they are kept for the root engine's containers only",
        "cloning": "only the root engine's containers can be copied",
        "archiving": "backups read the root engine's layers only; keep its data elsewhere",
        **dict.fromkeys(
            (f"limiting.{key}" for key in sorted(NETWORK)),
            "its cards share one link to the host, so one alone can't be limited",
        ),
    }


class RootlessBridging(DockerBridging):
    """A Docker network in the engine's own namespace, whose bridge a veth pair joins to ours."""

    def ensure(self, network: Network) -> None:
        """Make the bridge known, and join it."""
        super().ensure(network)
        rootless.connect(network.bridge, rootless.daemon(Path(self._client.socket_path)))

    def forget(self, network: Network) -> None:
        """Part them, and remove the Docker network."""
        rootless.disconnect(network.bridge)
        super().forget(network)

    def _body(self, network: Network) -> dict[str, Any]:
        body = super()._body(network)
        # The gateway's address is the host's bridge: the one in the namespace has none.
        return {**body, "Options": {**body["Options"], INHIBIT: "true"}}


def held(found: Described) -> int | None:
    """Put a running container into a control group of its own, with the process that starts commands in it; its pid,
    None where it does not run (any more)."""
    pid = int(found["State"].get("Pid") or 0)
    if not pid or not found["State"].get("Running"):
        return None
    try:
        made_groups.hold(str(found["Id"]), made_groups.parent_of(pid), pid)
    except ProcessLookupError:
        return None
    return pid


class RootlessCounters(Counters):
    """Of the groups that we make; the engine's own statistics are zeros."""

    def _by_engine(self, container: str, memory_limit: int | None) -> Stats | None:
        del memory_limit
        try:
            pid = held(self._client.read(lambda api: api.inspect_container(container)))
        except NotFound:
            return None
        return of_process(pid, container) if pid else None


class RootlessLimiting(DockerLimiting):
    """All of them in the groups that we make, which end with the container: so all are `volatile`."""

    def __init__(self, client: DockerClient, inventory: Inventory) -> None:
        super().__init__(client, inventory)
        if cgroup_limits.versions(cgroup.hierarchies())["pids"] == 2:
            self.missing["pids"] = "with control groups v2 it would hold the process that ends it, too"
        self.keys -= self.missing.keys()
        self.live = self.volatile = self.keys

    def apply(self, name: str, limits: Limits, changed: frozenset[str]) -> frozenset[str]:
        """At once, where it runs."""
        held(containers.describe(self._client, name))
        return super().apply(name, limits, changed)

    def in_force(self, row: Instance) -> Limits:
        """Of a running one; none where it has ended meanwhile."""
        try:
            return self.read(row.name)
        except NotFound:
            return Limits()


class RootlessAuditing(DockerAuditing):
    """Of containers there; where an image came from, the first engine knows."""

    def __init__(self, client: DockerClient, source: DockerClient, limiting: RootlessLimiting) -> None:
        super().__init__(client)
        self._source = source
        self._limiting = limiting

    def isolation(self, name: str) -> Isolation:
        """As of any container, with the limit that is in force; a stopped one's is not the engine's to know."""
        found = super().isolation(name)
        limited = self._limiting.read(name).memory is not None if found.running else None
        return replace(found, memory_limited=limited)

    def _image(self, image: str) -> Mapping[str, Any]:
        gone = NotFound("image_not_found", "its image is gone", hint="Pull it again.")
        try:
            answer: Mapping[str, Any] = self._source.read(lambda api: api.inspect_image(image), missing=gone)
        except TriuneError:
            return super()._image(image)
        return answer

    def exposure(self) -> Exposure:
        """Its programs. Who may use its socket is a plain user of the host, so that is no door to root."""
        return replace(super().exposure(), doors=())
