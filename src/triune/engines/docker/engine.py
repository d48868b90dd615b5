"""The docker engine: application containers of a Docker Engine on this host.

What its facets cannot do, and why, is in `probe().missing`. The Docker SDK is imported at the first request: it costs
more time than the rest of a short command.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from triune.domain.errors import Conflict, Invalid, NotFound
from triune.domain.image import FormKind, OciForm
from triune.domain.instance import Instance, InstanceDetail, Stats
from triune.domain.operation import Progress
from triune.engines.archiving import Archiving
from triune.engines.auditing import Auditing
from triune.engines.base import (
    Attaching,
    Bridging,
    Cloning,
    Commands,
    Console,
    EventSink,
    Files,
    LaunchPlan,
    Limiting,
    Logs,
    NativePorts,
    OciStore,
    Pausing,
    Probe,
    Renaming,
    Snapshots,
    Templates,
    Watch,
)
from triune.engines.docker import probing, spec
from triune.engines.docker.archiving import DockerArchiving
from triune.engines.docker.auditing import DockerAuditing
from triune.engines.docker.bridging import DockerBridging
from triune.engines.docker.client import DockerClient
from triune.engines.docker.cloning import DockerCloning
from triune.engines.docker.commands import ExecCommands
from triune.engines.docker.console import MainConsole
from triune.engines.docker.counters import Counters
from triune.engines.docker.detail import detail
from triune.engines.docker.files import DockerFiles
from triune.engines.docker.images import ImageStore
from triune.engines.docker.inventory import ENGINE, Inventory
from triune.engines.docker.kept import Shelf
from triune.engines.docker.lifecycle import Lifecycle, exists
from triune.engines.docker.limits import DockerLimiting
from triune.engines.docker.logs import ContainerLogs
from triune.engines.docker.ports import Ports
from triune.engines.docker.removal import Removal
from triune.engines.docker.snapshots import DockerSnapshots
from triune.engines.docker.watch import EventWatch
from triune.engines.importing import Importing

_ENDPOINT_MAC = (1, 44)
_MOST_STARTS = 256


class DockerEngine:
    """One Docker engine behind a unix socket."""

    def __init__(
        self,
        base_url: str = "unix:///var/run/docker.sock",
        *,
        state_dir: Path = Path("/var/lib/triune/instances/docker"),
        start: str = "",
    ) -> None:
        """`state_dir` holds the exact copies that snapshots consist of; it is made when there is one. `start`: see
        DockerClient."""
        self.name = ENGINE
        self.title = "application containers (Docker)"
        self.form_kind = FormKind.OCI
        self._client = DockerClient(base_url, start)
        self._inventory = Inventory(self._client)
        self._counters = Counters(self._client)
        self._lifecycle = Lifecycle(self._client)
        self._images = ImageStore(self._client)
        self._starts: dict[str, spec.ImageStart] = {}
        self._shelf = Shelf(self._client, state_dir / "snapshots")
        snapshots = DockerSnapshots(self._client, self._shelf)
        self._removal = Removal(self._client, self._lifecycle, snapshots, self._shelf)
        self.commands: Commands | None = ExecCommands(self._client)
        self.pausing: Pausing | None = self._lifecycle
        self.renaming: Renaming | None = self._removal
        self.logs: Logs | None = ContainerLogs(self._client)
        self.console: Console | None = MainConsole(self._client)
        self.bridging: Bridging | None = DockerBridging(self._client)
        self.oci: OciStore | None = self._images
        self.ports: NativePorts | None = Ports(self._client)
        self._limiting = DockerLimiting(self._client, self._inventory)
        self.limiting: Limiting | None = self._limiting
        self.snapshots: Snapshots | None = snapshots
        self.cloning: Cloning | None = DockerCloning(self._client, self._shelf, snapshots, self._removal)
        self.templates: Templates | None = None
        self.attaching: Attaching | None = None
        self.archiving: Archiving | None = DockerArchiving(self._client, self._lifecycle, self._images)
        self.files: Files | None = DockerFiles(self._client)
        self.importing: Importing | None = None
        self.auditing: Auditing | None = DockerAuditing(self._client)

    def probe(self) -> Probe:
        """Versions, storage driver, cgroups, runtimes, security options."""
        return probing.probe(self._client, {f"limiting.{key}": why for key, why in self._limiting.missing.items()})

    def list(self) -> Sequence[Instance]:
        """All containers, stopped ones too."""
        return self._inventory.rows()

    def row(self, name: str) -> Instance:
        """One container as in the list."""
        return self._inventory.row(name)

    def get(self, name: str) -> InstanceDetail:
        """One container with everything known of it."""
        return detail(self._client, self._inventory, self._counters, name)

    def check(self, plan: LaunchPlan) -> None:
        """Refuse what `create` would refuse before it asks Docker."""
        spec.create_body(plan, spec.ImageStart(), self._abilities(plan))

    def create(self, plan: LaunchPlan, progress: Progress) -> None:
        """Make the container, stopped. Raises Conflict("instance_exists"), NotFound("image_not_found")."""
        image = self._image_start(plan)
        body = spec.create_body(plan, image, self._abilities(plan))
        name = plan.spec.name
        progress.step("docker-create", f"creating the app container {name}")
        missing = NotFound(
            "image_not_found",
            f"Docker no longer has the image {plan.image}",
            hint=f"Get it again: triune image pull {plan.image}",
        )
        try:
            self._client.act(lambda api: api.create_container_from_config(body, name), missing=missing)
        except Conflict as error:
            raise exists(name) from error
        except Invalid as error:
            raise Invalid("docker_refused", error.message, hint=error.hint, name=name) from error
        self._shelf.drop_stale(name)

    def _image_start(self, plan: LaunchPlan) -> spec.ImageStart:
        """What its image runs by itself. The id is a digest of that, so it is asked for once."""
        if not isinstance(plan.form, OciForm):
            return spec.ImageStart()
        start = self._starts.get(plan.form.id)
        if start is None:
            found = self._images.inspect(plan.form.id)
            if found is None:
                return spec.ImageStart()
            labels = found["labels"]
            before = labels.get(spec.START) if isinstance(labels, dict) else None
            start = spec.ImageStart(_words(found["entrypoint"]), _words(found["command"]), before)
            if len(self._starts) >= _MOST_STARTS:
                self._starts.clear()
            self._starts[plan.form.id] = start
        return start

    def _abilities(self, plan: LaunchPlan) -> spec.Abilities:
        asked = plan.spec.disk is not None or "runtime" in plan.spec.settings
        info = self._client.read(lambda api: api.info()) if asked else {}
        return spec.Abilities(
            endpoint_mac=self._client.api_version >= _ENDPOINT_MAC,
            weight=self._limiting.by_shares,
            disk_limit=probing.disk_limit(info) if plan.spec.disk is not None else None,
            runtimes=frozenset(info.get("Runtimes") or ()) if asked else None,
        )

    def start(self, name: str, progress: Progress) -> None:
        """Start it; a paused one goes on. Raises Conflict("port_taken"), Failed("start_failed")."""
        self._lifecycle.start(name, progress)

    def stop(self, name: str, *, timeout: float, force: bool, progress: Progress) -> None:
        """Send its stop signal, and kill it after `timeout` seconds only if `force`."""
        self._lifecycle.stop(name, timeout=timeout, force=force, progress=progress)

    def wait_ready(self, name: str, timeout: float, progress: Progress) -> None:
        """Until it runs and is healthy, or its command has ended with 0."""
        self._lifecycle.wait_ready(name, timeout, progress)

    def delete(self, name: str) -> None:
        """Remove it, its anonymous volumes and its snapshots."""
        self._removal.delete(name)

    def stats(self) -> Mapping[str, Stats]:
        """Counters of every running container."""
        return self._counters.all()

    def watch(self, sink: EventSink) -> Watch:
        """Deliver container events until closed."""
        return EventWatch(self._client, self._inventory, sink)


def _words(value: object) -> tuple[str, ...]:
    return tuple(str(word) for word in value) if isinstance(value, list) else ()
