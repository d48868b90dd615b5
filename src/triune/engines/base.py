"""What an engine is: a few required methods, and optional typed facets.

A facet that is None cannot be used on this host; `Probe.missing[facet]` says why, and that sentence is what the
command line, the API and the console show. Everything here is synchronous and safe to call from several threads.

Rules for every engine:

- Live state is read from the technology each time; nothing is cached that the technology can change behind us
  (a cache keyed by something the technology updates, like a configuration's mtime, is fine).
- Names it cannot find raise `NotFound("instance_not_found", …)`; a daemon that is down raises
  `Unreachable("engine_unreachable", …)` within two seconds; both with a hint.
- `create` and `delete` are safe to repeat. `delete` of something half-made removes every part of it and succeeds
  when nothing is there: it is also the undo of `create`.
- Instances are ordinary ones of the technology under the same name, and carry a mark (libvirt metadata, a file
  beside the LXC configuration, Docker labels) from which `origin`, `image` and `created` are read back.
- Anything with a line break or control character is refused before it reaches native configuration.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol, runtime_checkable

from triune.domain.files import FileStat
from triune.domain.image import Form, FormKind, OciForm
from triune.domain.instance import Instance, InstanceDetail, InstanceSpec, Stats, VolumeMount
from triune.domain.limits import Limits
from triune.domain.network import Network, Nic
from triune.domain.operation import Progress
from triune.domain.pool import PoolPlace, Volume
from triune.domain.snapshot import Snapshot
from triune.engines.archiving import Archiving
from triune.engines.auditing import Auditing
from triune.engines.importing import Importing

FACETS = (
    *("commands", "pausing", "renaming", "logs", "console", "bridging", "oci", "ports"),
    *("limiting", "snapshots", "cloning", "templates", "attaching", "files", "archiving", "importing"),
    "auditing",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """What this engine can do on this host.

    `available` False comes with `reason` and `hint`. `missing` maps facet names to one sentence each.
    `facts` are for people and JSON (versions, paths, `accelerated`).
    """

    available: bool
    version: str | None = None
    reason: str = ""
    hint: str = ""
    missing: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchPlan:
    """All that `create` needs: the spec, the image's form for this engine, and what the host reserved for it.

    `spec.command` is only for OCI forms, whose main process it is; a system refuses it with
    Unsupported("command_unsupported"): the launch runs it inside, once the system is up. `pool` None is the engine's
    own place.
    """

    spec: InstanceSpec
    form: Form
    image: str
    created: datetime
    nics: tuple[Nic, ...] = ()
    machine_id: str = ""
    user_data: str | None = None
    pool: PoolPlace | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineEvent:
    """A native event in our words: `action` is created, started, stopped, paused, resumed, deleted, renamed,
    changed, oom (it ran out of memory, and the kernel killed something in it), or `engine-up` / `engine-down` (then
    `name` is empty)."""

    engine: str
    action: str
    name: str
    data: Mapping[str, str] = field(default_factory=dict)


EventSink = Callable[[EngineEvent], None]


class Watch(Protocol):
    """A running event source."""

    def close(self) -> None:
        """Stop it and free its thread."""


class Engine(Protocol):
    """One technology that runs instances."""

    name: str
    title: str
    form_kind: FormKind

    commands: Commands | None
    pausing: Pausing | None
    renaming: Renaming | None
    logs: Logs | None
    console: Console | None
    bridging: Bridging | None
    oci: OciStore | None
    ports: NativePorts | None
    limiting: Limiting | None
    snapshots: Snapshots | None
    cloning: Cloning | None
    templates: Templates | None
    attaching: Attaching | None
    files: Files | None
    archiving: Archiving | None
    importing: Importing | None
    auditing: Auditing | None

    def probe(self) -> Probe:
        """Say what works here. Never raises."""

    def list(self) -> Sequence[Instance]:
        """All instances of this technology on the host, managed and adopted."""

    def row(self, name: str) -> Instance:
        """One instance as in the list, without asking for the others. Raises NotFound."""

    def get(self, name: str) -> InstanceDetail:
        """One instance with everything known of it."""

    def check(self, plan: LaunchPlan) -> None:
        """Raise Invalid or Unsupported if `create` would refuse this plan; changes nothing."""

    def create(self, plan: LaunchPlan, progress: Progress) -> None:
        """Make it, stopped. Leaves nothing behind when it raises."""

    def start(self, name: str, progress: Progress) -> None:
        """Start it; returns when it is running. Starting a running one does nothing."""

    def stop(self, name: str, *, timeout: float, force: bool, progress: Progress) -> None:
        """Ask it to shut down; after `timeout` seconds kill it if `force`, else raise Failed("stop_timeout").

        `timeout` 0 with `force` kills at once. Stopping a stopped one does nothing.
        """

    def wait_ready(self, name: str, timeout: float, progress: Progress) -> None:
        """Return once it can do its work (guest agent answers; init is up; container runs, or is healthy).

        Raises Failed("not_ready") after `timeout` seconds, and at once when it has stopped meanwhile.
        """

    def delete(self, name: str) -> None:
        """Remove it with everything that belongs to it alone. Running: kill it first. Gone: succeed."""

    def stats(self) -> Mapping[str, Stats]:
        """Counters of every running instance, by name."""

    def watch(self, sink: EventSink) -> Watch:
        """Deliver native events to `sink` until closed; reconnects by itself, telling engine-down and engine-up."""


class Pausing(Protocol):
    """Freeze and thaw. What is as asked already stays so; what is stopped raises Conflict("instance_not_running")."""

    def pause(self, name: str) -> None:
        """Freeze all its processes."""

    def resume(self, name: str) -> None:
        """Let them go on."""


class Renaming(Protocol):
    """Change the name; `live` says whether a running instance can be renamed."""

    live: bool

    def rename(self, name: str, new: str) -> None:
        """Rename it, its mark and its own files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terminal:
    """A terminal's kind and size; `term` is for TERM."""

    term: str = "xterm-256color"
    columns: int = 80
    rows: int = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A command to run inside. `terminal` None means plain pipes. An empty `argv` is the login shell."""

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    user: str | None = None
    cwd: str | None = None
    terminal: Terminal | None = None


@runtime_checkable
class Session(Protocol):
    """A running command (or a console): one thread reads, another may write.

    `read` returns (stream, data), stream 1 for stdout and 2 for stderr (always 1 with a terminal), or None once
    all output has been read. It blocks. `close` ends the session from any thread: the command gets SIGHUP, then
    is killed; a blocked `read` returns None.
    """

    def read(self) -> tuple[int, bytes] | None: ...
    def write(self, data: bytes) -> None: ...
    def close_stdin(self) -> None: ...
    def resize(self, columns: int, rows: int) -> None: ...
    def wait(self) -> int:
        """The exit code, once `read` returned None; 128+n when killed by signal n, 126/127 as a shell says them."""

    def close(self) -> None: ...


class Commands(Protocol):
    """Run commands inside a running instance."""

    def open(self, name: str, command: Command) -> Session:
        """Start it. Raises Conflict("instance_not_running") with a hint."""


class Logs(Protocol):
    """What the instance wrote: a container's output, a system's journal, a VM's serial console."""

    def read(self, name: str, *, tail: int | None, follow: bool, stop: Callable[[], bool]) -> Iterator[bytes]:
        """Yield chunks, the last `tail` lines (None: all) first; with `follow` go on until `stop()` is true."""


class Console(Protocol):
    """The serial or main console of a running instance."""

    def open(self, name: str, terminal: Terminal) -> Session:
        """Attach to it; closing detaches and leaves the instance alone."""


class Bridging(Protocol):
    """An engine that must be told of a bridge before its instances can join it (Docker)."""

    def ensure(self, network: Network) -> None:
        """Make the bridge known. Repeating is cheap and mends what is wrong."""

    def forget(self, network: Network) -> None:
        """Undo `ensure`; succeeds when there is nothing to undo."""


class NativePorts(Protocol):
    """An engine that publishes ports by itself, from `InstanceSpec.publish` (Docker). The others' ports are the
    network service's work."""

    def published(self) -> Mapping[str, Sequence[str]]:
        """Published ports by instance name, each as `[IP:]HOST:GUEST[/udp]`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """For one registry."""

    username: str
    password: str


class OciStore(Protocol):
    """An engine with a store of OCI images (Docker)."""

    def load_tree(
        self, tar: Iterator[bytes], reference: str, *, command: Sequence[str], labels: Mapping[str, str]
    ) -> OciForm:
        """Make a one-layer image of a root tree's tar stream."""

    def load_archive(self, archive: Iterator[bytes], reference: str) -> OciForm:
        """Load a docker-save or OCI archive holding one image, and tag it."""

    def pull(self, reference: str, credentials: Credentials | None, progress: Progress) -> OciForm:
        """Pull from a registry."""

    def inspect(self, reference: str) -> Mapping[str, object] | None:
        """`{id, size, created, command, digest}`, or None when it is not there."""

    def remove(self, reference: str) -> None:
        """Remove the tag, and the image when nothing else uses it. Gone: succeed.

        An id stands for the image without a tag: one that somebody has tagged stays.
        """


class Limiting(Protocol):
    """Limits of CPU, memory, processes and disk. Those of the network are the limits service's own work, on the host's
    end of each card.

    `keys` are the keys of `domain.limits.FIELDS` that can be enforced here, `live` those of them that act at once on a
    running instance. A key that is missing has its reason in `Probe.missing["limiting.KEY"]`. `volatile` are those that
    the technology can't keep for the next start: the limits service remembers them and applies them after every start.
    At a launch all of `keys` come in `LaunchPlan.spec` (`cpus`, `memory`, `limits`).
    """

    keys: frozenset[str]
    live: frozenset[str]
    volatile: frozenset[str]

    def read(self, name: str) -> Limits:
        """What is in force (or will be, for a stopped one), read from the technology."""

    def apply(self, name: str, limits: Limits, changed: frozenset[str]) -> frozenset[str]:
        """Set the keys in `changed` to their values in `limits`, for now and for every later start; None lifts one.

        Returns the keys that act only after the next start. All or nothing: what it had is put back when it raises.
        Raises Conflict("limit_below_use") where the instance uses more than it would be allowed, Unsupported.
        """


class Snapshots(Protocol):
    """Points in time, kept by the technology beside the instance and listed from there.

    A renamed instance keeps its snapshots, and `Engine.delete` removes them with it.
    """

    @property
    def memory(self) -> bool:
        """Whether the running state can be kept here; `Probe.missing["snapshots.memory"]` says why not."""

    def create(self, name: str, snapshot: Snapshot, progress: Progress) -> Snapshot:
        """Take it as `snapshot` says (name, created, memory, expires, schedule, comment); returns it completed.

        Raises Conflict("snapshot_exists"). A running instance is held still for as short as possible. Leaves nothing
        behind when it raises.
        """

    def list(self, name: str) -> Sequence[Snapshot]:
        """All of an instance, the oldest first. Never called by the inventory."""

    def restore(self, name: str, snapshot: str, progress: Progress) -> None:
        """Put back exactly what was there. The instance is stopped, and stays so unless the snapshot has memory (then
        it runs). When it raises, the instance is as before; after a crash in its middle it is called again.
        Raises NotFound("snapshot_not_found")."""

    def delete(self, name: str, snapshot: str, progress: Progress) -> None:
        """Remove it; gone: succeed. Raises Conflict("snapshot_in_use") where others need it.

        It is also the undo of `create` after a crash: what is half-made goes, and an instance held still is let go.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class ClonePlan:
    """A copy of an instance under a new identity: name, machine-id, cards, SSH host keys. `snapshot` None: as it is
    now."""

    name: str
    new: str
    created: datetime
    machine_id: str
    nics: tuple[Nic, ...] = ()
    snapshot: str | None = None


class Cloning(Protocol):
    """Copy-on-write copies. `live`: also of running instances."""

    live: bool

    def clone(self, plan: ClonePlan, progress: Progress) -> None:
        """Make it, stopped. `delete(plan.new)` is its undo. Leaves nothing behind when it raises."""


class Templates(Protocol):
    """Booted, idle, saved copies of an image from which instances start warm."""

    def ready(self, plan: LaunchPlan) -> bool:
        """Whether a template fits this plan now (image, machine settings, versions)."""

    def why_not(self, plan: LaunchPlan) -> str:
        """Why this plan can't start warm at all, one sentence; "" when it can."""

    def make(self, plan: LaunchPlan, progress: Progress, *, aside: bool = False) -> None:
        """Boot the plan's image once and save it; does nothing when `ready`. `aside`: give way to all that runs."""

    def launch(self, plan: LaunchPlan, progress: Progress) -> None:
        """`create`, `start` and `wait_ready` in one, from the template. Leaves nothing behind when it raises:
        Failed("warm_failed") where a cold launch may follow."""

    def list(self) -> Sequence[Mapping[str, object]]:
        """`{image, size, created, ready, why}` of each on disk."""

    def remove(self, image: str) -> None:
        """Remove those of an image. Gone: succeed."""

    def sweep(self) -> None:
        """End and remove what an interrupted `make` left."""


class Attaching(Protocol):
    """Volumes of a pool in existing instances. `live`: also while it runs."""

    live: bool

    def attach(self, name: str, volume: Volume, mount: VolumeMount, progress: Progress) -> None:
        """Make the volume visible at `mount.target` (a disk: as a block device), now and after every start."""

    def detach(self, name: str, volume: Volume, progress: Progress) -> None:
        """Take it away. Raises Conflict("volume_busy"). Not attached: succeed."""


class Files(Protocol):
    """Files of an instance, as tar streams. Running or stopped where the technology can.

    Paths are absolute, as the instance sees them; links on the way are followed inside it. The streams hold what a
    guest says: who unpacks one elsewhere must not trust its names (host.untar).
    """

    def stat(self, name: str, path: str) -> FileStat:
        """What is there, a link itself. Raises NotFound("path_not_found")."""

    def read(self, name: str, path: str) -> Iterator[bytes]:
        """A tar stream of what is at `path`, its members below its last component, links as links; `/.` at the end of
        the path means its contents. Raises NotFound("path_not_found") at the first piece."""

    def write(self, name: str, path: str, tar: Iterator[bytes]) -> None:
        """Unpack a tar stream into the folder `path`, with the owners it names. Raises NotFound."""
