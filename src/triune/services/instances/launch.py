"""Launching: from a spec to a running instance, undoable at every step."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from time import monotonic
from typing import TYPE_CHECKING, Any

from triune.domain.errors import Conflict, Failed, Invalid, Unsupported
from triune.domain.image import FormKind
from triune.domain.instance import HOST_NETWORK, InstanceSpec, WaitFor
from triune.domain.network import Nic
from triune.domain.units import format_size
from triune.engines.base import Command, Engine, LaunchPlan, Probe
from triune.services.images import Images
from triune.services.instances import policy, profiles
from triune.services.instances.inventory import INTENT, Inventory, nearest
from triune.services.instances.warming import Warming
from triune.services.limits import InstanceLimits
from triune.services.networks import Networks
from triune.services.operations import Task
from triune.services.storage import Storage
from triune.store import Put, Store

if TYPE_CHECKING:
    from triune.services.advice.choosing import Figures

AUTO = "auto"
_PROBE_LASTS_S = 60.0
_LISTING_LASTS_S = 2.0
_LEAST_ROOM = 16 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchRequest:
    """A spec and how to carry it out. `spec.engine` may be "auto". `timeout` in seconds is for becoming ready.

    `cold`: boot it, even where a template is ready. `profile` is a named set of settings (see profiles).
    `checked` is when its name was found free, by the monotonic clock.
    `chosen` says why the engine was taken; "" where the request named it.
    """

    spec: InstanceSpec
    wait: WaitFor = WaitFor.READY
    user_data: str | None = None
    timeout: float = 180.0
    start: bool = True
    cold: bool = False
    profile: str = ""
    checked: float = 0.0
    chosen: str = ""


class Launcher:
    """Checks requests, and carries them out inside an operation."""

    def __init__(
        self,
        engines: Mapping[str, Engine],
        inventory: Inventory,
        images: Images,
        networks: Networks,
        storage: Storage,
        store: Store,
        limits: InstanceLimits,
        warming: Warming,
        measured: Figures | None,
    ) -> None:
        self._engines = engines
        self._inventory = inventory
        self._images = images
        self._networks = networks
        self._storage = storage
        self._store = store
        self._limits = limits
        self._warming = warming
        self._measured = measured
        self._probed: dict[str, float] = {}

    def checked(self, request: LaunchRequest) -> LaunchRequest:
        """Refuse what can be refused at once; returns the request with the engine chosen."""
        spec = request.spec
        policy.check(spec)
        self._require_room(spec.name)
        checked = monotonic()
        for problem in self._inventory.require_free(spec.name):
            self._probed.pop(problem.engine, None)
        engine, chosen = self._engine(request)
        _require_shareable(engine, spec)
        spec = profiles.applied(request.profile, spec, engine)
        self._limits.require(engine, spec.limits, spec.limits.by_key(), networked=spec.networked)
        self._storage.volumes.mounts(spec.volumes, spec.name)
        if spec.pool is not None:
            self._storage.pools.place(spec.pool)
        if spec.network == "":
            spec = replace(spec, network=self._networks.default)
        if spec.network is not None and spec.networked:
            self._networks.get(spec.network)
            self._networks.check_ports(spec.name, spec.publish, native=engine.ports is not None)
        elif spec.publish:
            raise _unpublishable(spec)
        return replace(request, spec=replace(spec, engine=engine.name), checked=checked, chosen=chosen)

    def run(self, request: LaunchRequest, task: Task) -> dict[str, Any]:
        """The work of the operation; returns the instance as JSON-safe facts."""
        spec = request.spec
        engine = self._engines[spec.engine]
        task.step("image", f"preparing {spec.image}")
        form, image = self._images.form(spec.image, engine.form_kind, task)
        self._require_still_free(request)
        task.intend("instance", engine=engine.name, name=spec.name)
        nics = self._nics(spec, task)
        plan = LaunchPlan(
            spec=self._resolved(spec if _is_main(engine) else replace(spec, command=())),
            form=form,
            image=image,
            created=datetime.now(UTC),
            nics=nics,
            machine_id=secrets.token_hex(16),
            user_data=request.user_data,
            pool=None if spec.pool is None else self._storage.pools.place(spec.pool),
        )
        engine.check(plan)
        task.step("create", f"creating {spec.name}")
        warm = self._create(engine, plan, request, task)
        self._record(spec, plan.created)
        self._limits.launched(engine, spec.name, replace(spec.limits, cpus=spec.cpus, memory=spec.memory))
        if request.start:
            if not warm:
                task.step("start", f"starting {spec.name}")
                engine.start(spec.name, task)
            self._limits.enforce(engine, spec.name)
        task.keep()
        if request.start:
            self._settle(request, engine, task, ready=warm)
            if not warm and not request.cold:
                self._warming.launched(engine, plan)
        return {
            "name": spec.name,
            "engine": engine.name,
            "addresses": [nic.address for nic in nics],
            "warm": warm,
            "chosen": request.chosen,
        }

    def _require_still_free(self, request: LaunchRequest) -> None:
        """Under the name's lock. What was listed a moment ago is not listed again, unless we had the name since."""
        name = request.spec.name
        if self._store.get(INTENT + name) is not None or monotonic() - request.checked > _LISTING_LASTS_S:
            self._inventory.require_free(name)

    def _resolved(self, spec: InstanceSpec) -> InstanceSpec:
        """Named volumes as folders and disks; what is recorded keeps the names."""
        return replace(spec, volumes=self._storage.volumes.mounts(spec.volumes, spec.name))

    def _create(self, engine: Engine, plan: LaunchPlan, request: LaunchRequest, task: Task) -> bool:
        """Make it; True when it runs already, from a template."""
        try:
            if request.start and not request.cold and self._warming.launch(engine, plan, task):
                return True
            engine.create(plan, task)
        except Conflict as error:
            if error.code == "instance_exists":
                # Another tool was quicker: undoing must not remove what is not ours.
                task.withdraw("instance")
                self._networks.release(plan.spec.name)
            raise
        return False

    def _engine(self, request: LaunchRequest) -> tuple[Engine, str]:
        """The engine, and why where the request leaves the choice to us."""
        spec = request.spec
        if spec.engine not in (AUTO, ""):
            if spec.engine not in self._engines:
                near = nearest(spec.engine, self._engines)
                known = ", ".join(self._engines)
                raise Invalid(
                    "unknown_engine",
                    f"there is no engine {spec.engine!r}",
                    hint=f"Did you mean {near!r}?" if near else f"Engines are {known}.",
                )
            engine = self._engines[spec.engine]
            self._require_available(engine)
            self._images.require(spec.image, engine.form_kind)
            return engine, ""
        kinds = self._images.kinds(spec.image)
        able = [
            engine for engine in self._engines.values() if engine.form_kind in kinds and self._available(engine) is None
        ]
        # Where none can share the host's network, the first says so.
        able = [engine for engine in able if _shareable(engine, spec)] or able
        if able:
            # Only here: the rules are megabytes of memory that most daemons never need.
            from triune.services.advice.choosing import choose

            return choose(spec, able, user_data=request.user_data is not None, measured=self._measured)
        raise Unsupported(
            "no_engine",
            f"no engine of this host can run {spec.image}",
            hint="See what is missing: triune doctor",
        )

    def _require_room(self, name: str) -> None:
        """On a full disk nothing new begins: what is left is needed to stop and remove instances."""
        room = self._store.room()
        if room is not None and room < _LEAST_ROOM:
            raise Failed(
                "no_space",
                f"only {format_size(room)} are left on the disk of Triune's data, too little to launch {name}",
                hint="Make room (triune rm, triune image rm); see: df -h",
            )

    def _available(self, engine: Engine) -> Probe | None:
        """None when it is, or was within a minute and has answered since; else what is wrong."""
        now = monotonic()
        if now - self._probed.get(engine.name, -_PROBE_LASTS_S) < _PROBE_LASTS_S:
            return None
        probe = engine.probe()
        if not probe.available:
            return probe
        self._probed[engine.name] = now
        return None

    def _require_available(self, engine: Engine) -> None:
        probe = self._available(engine)
        if probe is not None:
            raise Unsupported("engine_unavailable", f"{engine.title} can't be used: {probe.reason}", hint=probe.hint)

    def _nics(self, spec: InstanceSpec, task: Task) -> tuple[Nic, ...]:
        if spec.network is None or not spec.networked:
            return ()
        task.step("network", "reserving an address and a name")
        nic = self._networks.reserve(spec.network, spec.name)
        self._networks.register(spec.name, nic)
        if spec.publish and self._engines[spec.engine].ports is None:
            self._networks.publish(spec.name, nic.address, spec.publish)
        return (nic,)

    def _record(self, spec: InstanceSpec, created: datetime) -> None:
        value = {"engine": spec.engine, "created": created.isoformat(), "spec": asdict(spec)}
        self._store.commit([Put(INTENT + spec.name, value)])

    def _settle(self, request: LaunchRequest, engine: Engine, task: Task, *, ready: bool) -> None:
        spec = request.spec
        later = bool(spec.command) and not _is_main(engine)
        if not ready and (request.wait is WaitFor.READY or later):
            task.step("ready", f"waiting until {spec.name} is ready")
            engine.wait_ready(spec.name, request.timeout, task)
        if later:
            task.step("command", f"starting {spec.command[0]}")
            start_command(engine, spec)


def stored_in(spec: InstanceSpec) -> dict[str, Any]:
    """What a running operation says it uses, so that nobody removes it meanwhile."""
    named = [volume.source for volume in spec.volumes if "/" not in volume.source]
    return {**({"volumes": named} if named else {}), **({"pool": spec.pool} if spec.pool else {})}


def _is_main(engine: Engine) -> bool:
    """Whether a command is the instance's main process, as an OCI image's is. A system runs it once it is up."""
    return engine.form_kind is FormKind.OCI


def _shareable(engine: Engine, spec: InstanceSpec) -> bool:
    """Whether it can do without a network of its own: an init would set up the host's interfaces as its own."""
    return spec.network != HOST_NETWORK or _is_main(engine)


def _require_shareable(engine: Engine, spec: InstanceSpec) -> None:
    if not _shareable(engine, spec):
        raise Unsupported(
            "own_network_only",
            f"{spec.name} would be a whole system in {engine.name}, which needs a network of its own",
            hint="Publish ports instead (--publish), or launch an app container.",
        )


def _unpublishable(spec: InstanceSpec) -> Invalid:
    if spec.network == HOST_NETWORK:
        return Invalid(
            "publish_on_host",
            f"{spec.name} is on the host's own network, where its ports are the host's",
            hint="Leave --publish out, or leave --network out.",
        )
    return Invalid(
        "publish_without_network",
        f"{spec.name} has no network to publish ports of",
        hint="Leave --network out, or leave --publish out.",
    )


def start_command(engine: Engine, spec: InstanceSpec) -> None:
    """Start the launch command in a system as the transient systemd unit `triune-command`."""
    if engine.commands is None:
        raise Unsupported(
            "no_commands",
            f"{engine.title} can't run a command here: {engine.probe().missing.get('commands', '')}",
            hint="See: triune doctor",
        )
    unit: Sequence[str] = ("systemd-run", "--quiet", "--unit=triune-command", "--property=Restart=on-failure")
    variables = [f"--setenv={key}={value}" for key, value in spec.env.items()]
    session = engine.commands.open(spec.name, Command(argv=(*unit, *variables, "--", *spec.command)))
    said = b""
    while (chunk := session.read()) is not None:
        said = (said + chunk[1])[-1000:]
    status = session.wait()
    if status != 0:
        raise Failed(
            "command_failed",
            f"{spec.command[0]} could not be started in {spec.name}: {said.decode(errors='replace').strip()}",
            hint=f"Look inside: triune shell {spec.name}",
            status=status,
        )
