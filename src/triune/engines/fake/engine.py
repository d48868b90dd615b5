"""An engine in memory, for the tests of the API, the console and of faults. It isolates nothing: never for work.

It can carry any engine's name, so that a daemon under test shows what looks like virtual machines and containers.
Settings it knows steer it: `stop=ignored` (a guest that does not shut down), `ready=never`, `ready=ended`,
`start=fails`, and `log=` with the lines it writes at its start, separated by `|`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from triune.domain.errors import Conflict, Failed, Invalid, NotFound, TriuneError, Unreachable, Unsupported
from triune.domain.image import DiskForm, FormKind, OciForm, TreeForm
from triune.domain.instance import Instance, InstanceDetail, Origin, State, Stats
from triune.domain.names import instance_name, single_line
from triune.domain.network import Network
from triune.domain.operation import Progress
from triune.engines.archiving import Archiving
from triune.engines.auditing import Auditing
from triune.engines.base import (
    Attaching,
    Bridging,
    Cloning,
    Command,
    Commands,
    Console,
    EngineEvent,
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
    Session,
    Snapshots,
    Templates,
    Terminal,
    Watch,
)
from triune.engines.fake import limiting, state, templates
from triune.engines.fake.archiving import FakeArchiving
from triune.engines.fake.attaching import FakeAttaching
from triune.engines.fake.auditing import FakeAuditing
from triune.engines.fake.files import FakeFiles
from triune.engines.fake.importing import FakeImporting
from triune.engines.fake.oci import FakeImages
from triune.engines.fake.session import EchoConsole, open_session
from triune.engines.fake.snapshots import FakeCloning, FakeSnapshots
from triune.engines.fake.state import FakeInstance
from triune.engines.importing import Importing

_FORMS: Mapping[str, tuple[FormKind, type]] = {
    "kvm": (FormKind.DISK, DiskForm),
    "lxc": (FormKind.TREE, TreeForm),
}
_SETTINGS = ("audit", "log", "ready", "start", "stop", "volumes")
_LOOK = 0.05


class FakeEngine:
    """All facets, unless `missing` names them with a reason.

    `latency` seconds pass before each answer; `failures` are raised at the step of that name (NAME-disk, NAME-create,
    NAME-start, NAME-stop, NAME-delete); `path` keeps the instances over restarts.
    """

    def __init__(
        self,
        name: str = "fake",
        *,
        path: Path | None = None,
        latency: float = 0.0,
        failures: Mapping[str, TriuneError] | None = None,
        missing: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.title = f"simulated {name}"
        self.form_kind, self._form = _FORMS.get(name, (FormKind.OCI, OciForm))
        self.latency = latency
        self.failures = dict(failures or {})
        self._missing = dict(missing or {})
        if self.form_kind is not FormKind.OCI:
            for facet in ("bridging", "oci", "ports"):
                self._missing.setdefault(facet, f"{name} has no {facet} of its own")
        if name in ("lxc", "docker"):
            self._missing.setdefault("importing", "a container has no firmware and no disks of its own")
            self._missing.setdefault("templates", "a container starts in a moment: nothing has to be kept warm")
        self._path = path
        self._lock = threading.RLock()
        self._instances = state.load(path)
        self._sinks: list[EventSink] = []
        self._down = False
        self.networks: set[str] = set()
        absent = self._missing
        self.commands: Commands | None = None if "commands" in absent else _Commands(self)
        self.pausing: Pausing | None = None if "pausing" in absent else _Pausing(self)
        self.renaming: Renaming | None = None if "renaming" in absent else _Renaming(self)
        self.logs: Logs | None = None if "logs" in absent else _Logs(self)
        self.console: Console | None = None if "console" in absent else _Console(self)
        self.bridging: Bridging | None = None if "bridging" in absent else _Bridging(self)
        self.oci: OciStore | None = None if "oci" in absent else FakeImages(self._alive)
        self.ports: NativePorts | None = None if "ports" in absent else _Ports(self)
        self.limiting: Limiting | None = None if "limiting" in absent else limiting.FakeLimiting(self)
        self.snapshots: Snapshots | None = None
        if "snapshots" not in absent:
            self.snapshots = FakeSnapshots(self, memory="snapshots.memory" not in absent)
        self.cloning: Cloning | None = None if "cloning" in absent else FakeCloning(self)
        self.templates: Templates | None = None if "templates" in absent else templates.FakeTemplates(self)
        self.attaching: Attaching | None = None if "attaching" in absent else FakeAttaching(self)
        self.archiving: Archiving | None = None if "archiving" in absent else FakeArchiving(self)
        self.files: Files | None = None if "files" in absent else FakeFiles(self)
        self.importing: Importing | None = None if "importing" in absent else FakeImporting(self)
        self.auditing: Auditing | None = None if "auditing" in absent else FakeAuditing(self)

    # What tests use to make trouble.

    def go_down(self) -> None:
        """Answer nothing from now on."""
        self._down = True
        self._tell("engine-down", "")

    def come_up(self) -> None:
        """Answer again."""
        self._down = False
        self._tell("engine-up", "")

    def adopt(self, name: str, *, image: str | None = None) -> None:
        """Make an instance as another tool would have."""
        with self.changing():
            self._instances[name] = FakeInstance(name=name, image=image, managed=False)
        self._tell("created", name)

    def leave_half_made(self, name: str) -> None:
        """Make what a crash in the middle of `create` would leave."""
        with self.changing():
            self._instances[name] = FakeInstance(name=name, half=True)

    # Engine.

    def probe(self) -> Probe:
        """Always there, unless `go_down` was called."""
        if self._down:
            return Probe(available=False, reason=f"{self.title} is down", hint="Call come_up().")
        return Probe(available=True, version="1.0", missing=self._missing, facts={"simulated": True})

    def list(self) -> Sequence[Instance]:
        """All of them."""
        with self.reading():
            return [self._row(one) for one in self._instances.values() if not one.half]

    def row(self, name: str) -> Instance:
        """One of them as in the list."""
        with self.reading():
            return self._row(self.find(name))

    def get(self, name: str) -> InstanceDetail:
        """One of them."""
        with self.reading():
            one = self.find(name)
            running = one.state != "stopped"
            card = {
                "network": one.network,
                "interface": f"fake{one.mac.replace(':', '')[-10:]}" if one.mac else None,
                "mac": one.mac,
                "addresses": [one.address] if one.address else [],
                "published": one.ports,
            }
            return InstanceDetail(
                instance=self._row(one),
                restarts=one.restarts,
                uptime_s=time.time() - one.started if running and one.started else None,
                memory_used_bytes=limiting.MEMORY if running else None,
                disk_used_bytes=0,
                kernel="simulated",
                isolation={"kernel": "shared", "boundary": "none: simulated", "privileged": False},
                network=(card,) if one.network else (),
                devices=tuple(
                    {"type": "mount", "source": source, "target": one.volumes[name]}
                    for name, source in one.sources.items()
                ),
                settings=dict(one.settings),
                command=tuple(one.command),
            )

    def check(self, plan: LaunchPlan) -> None:
        """The same refusals as real engines."""
        spec = plan.spec
        instance_name(spec.name)
        if not isinstance(plan.form, self._form):
            raise Unsupported(
                "form_missing", f"{plan.image} has no form for {self.name}", hint="Choose another engine or image."
            )
        for key, value in {**spec.env, **spec.settings}.items():
            single_line(key, "a name")
            single_line(value, f"the value of {key}")
        for word in (part for volume in spec.volumes for part in (volume.source, volume.target)):
            single_line(word, "a value")
        for key in spec.settings:
            if key not in _SETTINGS:
                raise Invalid("unknown_setting", f"no setting {key!r}", hint=f"There are: {', '.join(_SETTINGS)}.")

    def create(self, plan: LaunchPlan, progress: Progress) -> None:
        """In two steps, so that a failure of the second has something to undo."""
        self._alive()
        self.check(plan)
        spec = plan.spec
        made = FakeInstance.planned(
            plan,
            ports=[str(publish) for publish in spec.publish],
            volumes={volume.volume: volume.target for volume in spec.volumes if volume.volume},
            sources={volume.volume: volume.source for volume in spec.volumes if volume.volume},
            settings=dict(spec.settings),
        )
        limiting.remember(made, replace(spec.limits, cpus=spec.cpus, memory=spec.memory))
        self.add(made, "create", progress)

    def start(self, name: str, progress: Progress) -> None:
        """It writes its log lines and runs."""
        with self.changing():
            one = self.find(name)
            if one.state == "running":
                return
            self.pass_step("start", progress, name)
            if one.settings.get("start") == "fails":
                raise Failed("start_failed", f"{name} could not be started: it was told not to", hint="Unset start.")
            self._claim_ports(one)
            one.state, one.started = "running", time.time()
            limiting.forget_volatile(one)
            one.log += one.settings.get("log", f"{name} started").split("|")
            if one.settings.get("ready") == "ended":
                one.state = "stopped"
        self._tell("started", name)

    def stop(self, name: str, *, timeout: float, force: bool, progress: Progress) -> None:
        """At once, unless its setting says that it ignores shutdown."""
        with self.reading():
            one = self.find(name)
        if one.state == "stopped":
            return
        self.pass_step("stop", progress, name)
        if one.settings.get("stop") == "ignored":
            self._wait(timeout, progress)
            if not force:
                raise Failed(
                    "stop_timeout", f"{name} did not stop within {timeout:g} s and still runs", hint="Use --force."
                )
        self._set(name, "stopped", "stopped")

    def wait_ready(self, name: str, timeout: float, progress: Progress) -> None:
        """At once, unless its setting says never."""
        with self.reading():
            one = self.find(name)
        if one.settings.get("ready") == "never" and one.state == "running":
            self._wait(timeout, progress)
        elif one.state == "running":
            return
        raise Failed("not_ready", f"{name} is not ready", hint=f"See: triune logs {name}", log=one.log[-20:])

    def delete(self, name: str) -> None:
        """Forget it, half-made or not."""
        single_line(name, "the name")
        with self.changing():
            self._fail("delete")
            gone = self._instances.pop(name, None)
        if gone is not None:
            self._tell("deleted", name)

    def stats(self) -> Mapping[str, Stats]:
        """Made-up counters that grow with time."""
        with self.reading():
            running = [one for one in self._instances.values() if one.state != "stopped"]
            return {
                one.name: Stats(
                    cpu_time_s=(time.time() - (one.started or time.time())) / 100,
                    memory_bytes=limiting.MEMORY,
                    memory_limit_bytes=one.memory,
                    pids=1,
                )
                for one in running
            }

    def watch(self, sink: EventSink) -> Watch:
        """Events are delivered by the thread that causes them."""
        with self._lock:
            self._sinks.append(sink)
        return _Watch(lambda: self._sinks.remove(sink) if sink in self._sinks else None)

    # What the facets use.

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Hold the lock; raises Unreachable while down."""
        self._alive()
        with self._lock:
            yield

    @contextmanager
    def changing(self) -> Iterator[None]:
        """The same, and save afterwards."""
        with self.reading():
            yield
            state.save(self._path, self._instances)

    def find(self, name: str) -> FakeInstance:
        """Raises NotFound; a half-made one does not count."""
        one = self._instances.get(single_line(name, "the name"))
        if one is None or one.half:
            raise NotFound("instance_not_found", f"there is no {name!r}", hint="See: triune list", name=name)
        return one

    def running(self, name: str) -> FakeInstance:
        """Raises Conflict("instance_not_running", "instance_paused")."""
        with self.reading():
            one = self.find(name)
            if one.state == "paused":
                raise Conflict("instance_paused", f"{name} is paused", hint=f"Use: triune resume {name}")
            if one.state != "running":
                raise Conflict("instance_not_running", f"{name} is not running", hint=f"Use: triune start {name}")
            return one

    def add(self, made: FakeInstance, step: str, progress: Progress) -> None:
        """Make it in two steps. Raises Conflict("instance_exists")."""
        with self.changing():
            if made.name in self._instances:
                raise Conflict("instance_exists", f"there is a {made.name!r} already", hint="Choose another name.")
            self.pass_step("disk", progress, made.name)
            self._instances[made.name] = FakeInstance(name=made.name, half=True)
        try:
            self.pass_step(step, progress, made.name)
        except BaseException:
            with self.changing():
                self._instances.pop(made.name, None)
            raise
        with self.changing():
            self._instances[made.name] = made
        self._tell("created", made.name)

    def clones_of(self, name: str, snapshot: str) -> Sequence[str]:
        """Who stands on this snapshot."""
        return [one.name for one in self._instances.values() if one.base == f"{name}/{snapshot}"]

    def move(self, name: str, wanted: str, action: str) -> None:
        """Pause or resume."""
        with self.changing():
            one = self.find(name)
            if one.state == wanted:
                return
            if one.state == "stopped":
                raise Conflict("instance_not_running", f"{name} is not running", hint=f"Use: triune start {name}")
        self._set(name, wanted, action)

    def rename(self, name: str, new: str) -> None:
        """Keeps everything else."""
        instance_name(new)
        with self.changing():
            one = self.find(name)
            if new == name:
                return
            if new in self._instances:
                raise Conflict("instance_exists", f"there is a {new!r} already", hint="Choose another name.")
            del self._instances[name]
            one.name = new
            for other in self._instances.values():
                if other.base.startswith(f"{name}/"):
                    other.base = new + other.base.removeprefix(name)
            self._instances[new] = one
        self._tell("renamed", new, old=name)

    def _set(self, name: str, wanted: str, action: str) -> None:
        with self.changing():
            one = self.find(name)
            one.state = wanted
            if wanted == "stopped":
                one.started = None
        self._tell(action, name)

    def _claim_ports(self, one: FakeInstance) -> None:
        for other in self._instances.values():
            if other is not one and other.state != "stopped" and set(other.ports) & set(one.ports):
                raise Conflict(
                    "port_taken", f"{one.name} wants a port that {other.name} has", hint="Publish another port."
                )

    def _alive(self) -> None:
        if self.latency:
            time.sleep(self.latency)
        if self._down:
            raise Unreachable("engine_unreachable", f"{self.title} does not answer", hint="Call come_up().")

    def pass_step(self, step: str, progress: Progress, name: str) -> None:
        """Tell a step, and fail there if `failures` says so."""
        progress.step(f"{self.name}-{step}", f"{step} {name}")
        self._fail(step)

    def _fail(self, step: str) -> None:
        error = self.failures.get(f"{self.name}-{step}")
        if error is not None:
            raise error

    def _wait(self, seconds: float, progress: Progress) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            progress.check()
            time.sleep(min(_LOOK, left))

    def _tell(self, action: str, name: str, **data: str) -> None:
        for sink in tuple(self._sinks):
            sink(EngineEvent(engine=self.name, action=action, name=name, data=data))

    def _row(self, one: FakeInstance) -> Instance:
        running = one.state != "stopped"
        return Instance(
            name=one.name,
            engine=self.name,
            state=State(one.state),
            origin=Origin.MANAGED if one.managed else Origin.ADOPTED,
            image=one.image,
            addresses=(one.address,) if one.address and running else (),
            created=datetime.fromisoformat(one.created) if one.created else datetime.now(UTC),
            cpus=one.cpus,
            memory_bytes=one.memory,
            accelerated=False if self.form_kind is FormKind.DISK else None,
        )


class _Watch:
    def __init__(self, stop: Callable[[], None]) -> None:
        self.close = stop


class _Facet:
    def __init__(self, engine: FakeEngine) -> None:
        self._engine = engine


class _Commands(_Facet):
    def open(self, name: str, command: Command) -> Session:
        self._engine.running(name)
        for word in (*command.env, *command.env.values(), command.user or "", command.cwd or ""):
            single_line(word, "a value")
        return open_session(command)


class _Pausing(_Facet):
    def pause(self, name: str) -> None:
        self._engine.move(name, "paused", "paused")

    def resume(self, name: str) -> None:
        self._engine.move(name, "running", "resumed")


class _Renaming(_Facet):
    live = True

    def rename(self, name: str, new: str) -> None:
        self._engine.rename(name, new)


class _Logs(_Facet):
    def read(self, name: str, *, tail: int | None, follow: bool, stop: Callable[[], bool]) -> Iterator[bytes]:
        with self._engine.reading():
            one = self._engine.find(name)
        return self._lines(one, tail, follow, stop)

    def _lines(self, one: FakeInstance, tail: int | None, follow: bool, stop: Callable[[], bool]) -> Iterator[bytes]:
        seen = 0 if tail is None else max(len(one.log) - tail, 0)
        while True:
            fresh = one.log[seen:]
            seen += len(fresh)
            yield from (f"{line}\n".encode() for line in fresh)
            if not follow or stop():
                return
            time.sleep(_LOOK)


class _Console(_Facet):
    def open(self, name: str, terminal: Terminal) -> Session:
        del terminal
        self._engine.running(name)
        return EchoConsole(f"{name} console\r\n")


class _Bridging(_Facet):
    def ensure(self, network: Network) -> None:
        with self._engine.reading():
            self._engine.networks.add(network.name)

    def forget(self, network: Network) -> None:
        with self._engine.reading():
            self._engine.networks.discard(network.name)


class _Ports(_Facet):
    def published(self) -> Mapping[str, Sequence[str]]:
        return {
            row.name: [str(port) for card in self._engine.get(row.name).network for port in card["published"]]
            for row in self._engine.list()
            if row.state is not State.STOPPED
        }
