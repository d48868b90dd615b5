"""Clones: copies of instances under an identity of their own."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from triune.domain.errors import Conflict, NotFound
from triune.domain.instance import HOST_NETWORK, InstanceSpec, State
from triune.domain.names import instance_name, snapshot_name
from triune.domain.network import Nic
from triune.domain.operation import Operation
from triune.engines.base import ClonePlan, Cloning, Engine
from triune.services.instances import Instances, require_facet
from triune.services.instances.inventory import INTENT
from triune.services.limits import InstanceLimits
from triune.services.networks import Networks
from triune.services.operations import Operations, Task
from triune.store import Put, Store


@dataclass(frozen=True, slots=True, kw_only=True)
class CloneRequest:
    """What to copy. `snapshot` None: as it is now. `start` also waits until it is ready, `timeout` seconds at most."""

    name: str
    new: str
    snapshot: str | None = None
    start: bool = False
    timeout: float = 180.0


class Cloner:
    """Makes clones: own name, machine-id, cards and SSH host keys; published ports stay with the original."""

    def __init__(
        self,
        instances: Instances,
        networks: Networks,
        operations: Operations,
        store: Store,
        limits: InstanceLimits,
    ) -> None:
        self._instances = instances
        self._networks = networks
        self._operations = operations
        self._store = store
        self._limits = limits

    def clone(self, request: CloneRequest) -> Operation:
        """Copy it. Raises NotFound, Conflict, Invalid, Unsupported at once."""
        engine = self._instances.inventory.engine_of(request.name)
        facet = require_facet(engine, "cloning", engine.cloning)
        instance_name(request.new)
        self._instances.inventory.require_free(request.new)
        self._require_source(engine, facet, request)
        locks = [f"instances/{request.name}", f"instances/{request.new}"]
        return self._operations.submit(
            "clone",
            f"instances/{request.new}",
            lambda task: self._run(engine, facet, request, task),
            locks=locks,
            data={"engine": engine.name, "source": request.name, "snapshot": request.snapshot},
        )

    def _require_source(self, engine: Engine, facet: Cloning, request: CloneRequest) -> None:
        if request.snapshot is not None:
            snapshot_name(request.snapshot)
            snapshots = require_facet(engine, "snapshots", engine.snapshots)
            if all(one.name != request.snapshot for one in snapshots.list(request.name)):
                raise NotFound(
                    "snapshot_not_found",
                    f"{request.name} has no snapshot {request.snapshot!r}",
                    hint=f"See all: triune snapshot list {request.name}",
                )
        elif not facet.live and engine.row(request.name).state is not State.STOPPED:
            raise Conflict(
                "instance_running",
                f"{request.name} is running, and {engine.title} copies only what is stopped",
                hint=f"Stop it first (triune stop {request.name}), or copy a snapshot of it: --snapshot SNAP",
            )

    def _run(self, engine: Engine, facet: Cloning, request: CloneRequest, task: Task) -> dict[str, Any]:
        self._instances.inventory.require_free(request.new)
        self._require_source(engine, facet, request)
        intent = self._instances.intent(request.name)
        task.intend("instance", engine=engine.name, name=request.new)
        nics = self._nics(engine, request, intent, task)
        plan = ClonePlan(
            name=request.name,
            new=request.new,
            created=datetime.now(UTC),
            machine_id=secrets.token_hex(16),
            nics=nics,
            snapshot=request.snapshot,
        )
        task.step("clone", f"copying {request.name} to {request.new}")
        self._clone(facet, plan, task)
        self._limits.launched(engine, request.new, self._limits.read(engine, request.name))
        self._record(engine, plan, intent)
        if request.start:
            task.step("start", f"starting {request.new}")
            engine.start(request.new, task)
        task.keep()
        if request.start:
            task.step("ready", f"waiting until {request.new} is ready")
            engine.wait_ready(request.new, request.timeout, task)
        return {"name": request.new, "engine": engine.name, "addresses": [nic.address for nic in nics]}

    def _clone(self, facet: Cloning, plan: ClonePlan, task: Task) -> None:
        try:
            facet.clone(plan, task)
        except Conflict as error:
            if error.code == "instance_exists":
                # Another tool was quicker: undoing must not remove what is not ours.
                task.withdraw("instance")
                self._networks.release(plan.new)
            raise

    def _nics(
        self, engine: Engine, request: CloneRequest, intent: Mapping[str, Any] | None, task: Task
    ) -> tuple[Nic, ...]:
        network = self._network(engine, request.name, intent)
        if network is None:
            return ()
        task.step("network", "reserving an address and a name")
        nic = self._networks.reserve(network, request.new)
        self._networks.register(request.new, nic)
        return (nic,)

    def _network(self, engine: Engine, name: str, intent: Mapping[str, Any] | None) -> str | None:
        """Where the original is, as far as that network is ours."""
        if intent is not None:
            network: str | None = intent["spec"]["network"]
            return self._networks.default if network == "" else None if network == HOST_NETWORK else network
        ours = {network.name for network in self._networks.list()}
        cards = [str(card.get("network")) for card in engine.get(name).network]
        return next((network for network in cards if network in ours), None)

    def _record(self, engine: Engine, plan: ClonePlan, intent: Mapping[str, Any] | None) -> None:
        if intent is not None:
            spec = {**intent["spec"], "name": plan.new, "publish": []}
        else:
            network = plan.nics[0].network.name if plan.nics else None
            image = engine.row(plan.name).image or ""
            spec = asdict(InstanceSpec(name=plan.new, image=image, engine=engine.name, network=network))
        value = {"engine": engine.name, "created": plan.created.isoformat(), "spec": spec, "cloned": plan.name}
        self._store.commit([Put(INTENT + plan.new, value)])
