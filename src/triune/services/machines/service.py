"""Making an instance of a machine's description: an operation that can be cancelled, and is undone after a crash."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from triune.domain.errors import Conflict, Failed, Invalid, Unsupported
from triune.domain.instance import InstanceSpec
from triune.domain.machine import Machine, MachineDisk
from triune.domain.network import Nic
from triune.domain.operation import Operation
from triune.domain.units import format_duration
from triune.engines.base import Engine
from triune.engines.importing import Importing, MachinePlan, Signs
from triune.services.instances import policy
from triune.services.instances.inventory import INTENT, Inventory
from triune.services.limits import InstanceLimits
from triune.services.machines import injecting, transfer
from triune.services.networks import Networks
from triune.services.operations import Operations, Task
from triune.store import Put, Store

_MAC = re.compile(r"[0-9a-f]{2}(?::[0-9a-f]{2}){5}", re.ASCII)
_PROMPT = re.compile(rb"(?:^|[\r\n])[^\r\n]{0,120}login: ?\x1b?[^\r\n]{0,20}$")
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[()][0-9A-B]")  # what steers a terminal
_LOOK = 0.5
_SETTLE = 8.0  # seconds for the agent, once another sign of life was seen
_SHOWN = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskSource:
    """Where the content of a disk is read: an NBD export on a unix socket of this host.

    `path` is a file of this host with the same content, which QEMU reads by itself (and quicker): `format` is vmdk, for
    a sparse disk in one file, or raw. It is compared with the export afterwards. With a `length`, it is that part of
    the file from `offset` on.
    """

    socket: Path
    export: str
    path: Path | None = None
    format: str = ""
    offset: int = 0
    length: int = 0

    @property
    def plain(self) -> transfer.Plain | None:
        """The file, where there is one."""
        if self.path is None:
            return None
        return transfer.Plain(path=self.path, format=self.format, offset=self.offset, length=self.length)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportRequest:
    """A machine, and where its disks are read, by their slots.

    `inject`: put drivers for virtio into the copy.
    `verify`: read all once more on both sides and compare the sums. `timeout` in seconds is for coming up. `source`
    says in a few words where it comes from.
    """

    name: str
    machine: Machine
    disks: Mapping[str, DiskSource]
    engine: str = ""
    inject: bool = False
    verify: bool = True
    start: bool = True
    timeout: float = 180.0
    source: str = ""


class Machines:
    """Imports of machines."""

    def __init__(
        self,
        engines: Mapping[str, Engine],
        inventory: Inventory,
        networks: Networks,
        limits: InstanceLimits,
        operations: Operations,
        store: Store,
        work: Path,
    ) -> None:
        """`work` is a folder for what puts drivers into machines."""
        self.work = work
        self._engines = engines
        self._inventory = inventory
        self._networks = networks
        self._limits = limits
        self._operations = operations
        self._store = store
        operations.handlers["drivers"] = injecting.forget

    def import_machine(self, request: ImportRequest) -> Operation:
        """Make it, start it, and see whether it comes up. Raises Invalid, Conflict, Unsupported at once."""
        engine, importing = self._engine(request.engine)
        spec = self._spec(request, engine)
        policy.check(spec)
        self._inventory.require_free(request.name)
        machine = self._checked(request)
        if request.inject:
            injecting.require(machine.guest)
        importing.check(_plan(spec, machine, tuple(None for _ in machine.cards)))

        def work(task: Task) -> dict[str, Any]:
            return _Import(self, replace(request, machine=machine), engine, importing, task).run(spec)

        resource = f"instances/{request.name}"
        data = {"engine": engine.name, "source": request.source}
        return self._operations.submit("import", resource, work, locks=[resource], data=data)

    def _engine(self, name: str) -> tuple[Engine, Importing]:
        """The engine of that name, or the first that can."""
        if name and name not in self._engines:
            raise Invalid(
                "unknown_engine", f"there is no engine {name!r}", hint=f"Engines are {', '.join(self._engines)}."
            )
        for engine in [self._engines[name]] if name else list(self._engines.values()):
            if engine.importing is None:
                continue
            probe = engine.probe()
            if probe.available:
                return engine, engine.importing
            raise Unsupported("engine_unavailable", f"{engine.title} can't be used: {probe.reason}", hint=probe.hint)
        why = self._engines[name].probe().missing.get("importing", "") if name else "no engine of this host can"
        raise Unsupported("no_importing", f"a machine can't be imported: {why}", hint="See: triune doctor")

    def _spec(self, request: ImportRequest, engine: Engine) -> InstanceSpec:
        machine = request.machine
        network = next((card.network for card in machine.cards if card.network is not None), None)
        return InstanceSpec(
            name=request.name,
            image="",
            engine=engine.name,
            cpus=machine.cpus,
            memory=machine.memory,
            network=self._networks.default if network == "" else network,
        )

    def _checked(self, request: ImportRequest) -> Machine:
        """The machine with its networks' names, its cards' MACs in one way of writing. Raises Invalid, NotFound."""
        cards = []
        for card in request.machine.cards:
            mac = card.mac.lower()
            if mac and (not _MAC.fullmatch(mac) or int(mac[:2], 16) & 1 or mac == "00:00:00:00:00:00"):
                raise Invalid(
                    "bad_mac", f"{card.mac[:40]!r} is no MAC address of a card", hint="Give a new one: --new-macs"
                )
            network = self._networks.default if card.network == "" else card.network
            if network is not None:
                self._networks.get(network)
            cards.append(replace(card, mac=mac, network=network))
        slots = [disk.slot for disk in request.machine.disks]
        if len(set(slots)) != len(slots) or set(slots) != set(request.disks):
            raise Invalid(
                "disks_unclear", "each disk needs one slot and one source", hint="Give each disk a slot of its own."
            )
        for source in request.disks.values():
            transfer.require_socket(source.socket)
            if source.plain is not None:
                transfer.require_plain(source.plain)
        return replace(request.machine, cards=tuple(cards))

    # What an import works with

    def cards(self, machine: Machine, name: str, task: Task) -> tuple[Nic | None, ...]:
        """The first card gets the address and the name of the instance, the others an address by DHCP."""
        nics: list[Nic | None] = []
        held = False
        for card in machine.cards:
            if card.network is None:
                nics.append(None)
            elif held:
                network = self._networks.get(card.network)
                nics.append(Nic(network=network, mac=card.mac or _new_mac(), address=""))
            else:
                task.step("network", "reserving an address and a name")
                nic = self._networks.reserve(card.network, name, card.mac)
                self._networks.register(name, nic)
                nics.append(nic)
                held = True
        return tuple(nics)

    def release(self, name: str) -> None:
        """Give back what the network holds for a name that turned out to be somebody else's."""
        self._networks.release(name)

    def record(self, spec: InstanceSpec, created: datetime) -> None:
        """Remember what was asked for."""
        value = {"engine": spec.engine, "created": created.isoformat(), "spec": asdict(spec)}
        self._store.commit([Put(INTENT + spec.name, value)])

    def start(self, engine: Engine, name: str, task: Task) -> None:
        """Start it, with what limits are kept here."""
        engine.start(name, task)
        self._limits.enforce_started(engine, name)

    def leases(self, nics: tuple[Nic | None, ...]) -> set[str]:
        """The addresses that its cards have got by DHCP."""
        found = (self._networks.leased(nic.network.name, nic.mac) for nic in nics if nic is not None)
        return {address for address in found if address}


class _Import:
    """One import, inside its operation."""

    def __init__(
        self, machines: Machines, request: ImportRequest, engine: Engine, importing: Importing, task: Task
    ) -> None:
        self._machines = machines
        self._request = request
        self._engine = engine
        self._importing = importing
        self._task = task
        self._disks: list[dict[str, Any]] = []
        self._written: list[tuple[str, Path]] = []
        self._injected: injecting.Injected | None = None

    def run(self, spec: InstanceSpec) -> dict[str, Any]:
        """The work; returns JSON-safe facts."""
        task, request, engine = self._task, self._request, self._engine
        task.intend("instance", engine=engine.name, name=spec.name)
        nics = self._machines.cards(request.machine, spec.name, task)
        plan = _plan(spec, request.machine, nics)
        notes = list(self._importing.check(plan))
        for note in notes:
            task.step("lacking", note)  # before anything is copied, so that it can be cancelled and mended
        try:
            self._importing.create(plan, self._write, task)
        except Conflict as error:
            if error.code == "instance_exists":
                # Another tool was quicker: undoing must not remove what is not ours.
                task.withdraw("instance")
                self._machines.release(spec.name)
            raise
        self._machines.record(spec, plan.created)
        before = self._machines.leases(nics)
        if request.start:
            task.step("start", f"starting {spec.name}")
            self._machines.start(engine, spec.name, task)
        task.keep()
        came = self._came_up(plan, before) if request.start else {"up": None, "sign": "", "sentence": "not started"}
        row = engine.get(spec.name).instance
        return {
            "name": spec.name,
            "engine": engine.name,
            "addresses": [nic.address for nic in nics if nic is not None and nic.address],
            "disks": self._disks,
            "notes": notes,
            "drivers": None if self._injected is None else asdict(self._injected),
            "accelerated": row.accelerated,
            **came,
        }

    def _write(self, disk: MachineDisk, path: Path) -> None:
        source = self._request.disks[disk.slot]
        export = transfer.Export(socket=source.socket, name=source.export)
        begun = time.monotonic()
        self._task.step("convert", f"copying {disk.slot}")
        tick = self._ticking(f"copying {disk.slot}")
        if source.plain is None:
            transfer.convert(export, path, tick)
        else:
            transfer.convert_file(source.plain, path, tick)
        took = time.monotonic() - begun
        facts: dict[str, Any] = {"slot": disk.slot, "file": disk.file, "bus": disk.bus, "seconds": round(took, 3)}
        if self._request.verify:
            self._task.step("verify", f"comparing {disk.slot} with its source")
            size, before = transfer.digest(export, self._ticking(f"reading {disk.slot} again"))
            with transfer.served(path, "qcow2") as copy:
                after = transfer.digest(copy, self._ticking(f"reading the copy of {disk.slot}"))
            if (size, before) != after:
                raise Failed(
                    "content_differs",
                    f"the copy of {disk.slot} is not what its source says: {after[1][:16]} instead of {before[:16]}",
                    hint="The source may have changed meanwhile, or the medium is failing; nothing was kept.",
                )
            facts |= {"size": size, "hash": before, "algorithm": transfer.ALGORITHM, "equal": True}
        self._written.append((disk.slot, path))
        if self._request.inject and len(self._written) == len(self._request.machine.disks):
            self._inject()
        facts["stored"] = path.stat().st_blocks * 512
        self._disks.append(facts)

    def _inject(self) -> None:
        """All disks are there, and were compared; nothing has started yet."""
        task, text = self._task, f"putting drivers into {self._request.name}"
        task.step("drivers", text)
        folder = self._machines.work / secrets.token_hex(4)
        task.intend("drivers", folder=str(folder))
        self._injected = injecting.inject(
            self._request.machine, self._written, folder, lambda words: task.report(None, f"{text}: {words}")
        )

    def _ticking(self, text: str) -> transfer.Tick:
        begun = time.monotonic()

        def tick(fraction: float | None) -> None:
            left = ""
            if fraction and (spent := time.monotonic() - begun) > 5:
                left = f", {format_duration(spent / fraction - spent)} left"
            self._task.report(fraction, text + left)

        return tick

    # Coming up

    def _came_up(self, plan: MachinePlan, before: set[str]) -> dict[str, Any]:
        """Wait for a sign of life: the agent, an address by DHCP, a login prompt. None is no failure: it is told."""
        name, patience = plan.spec.name, self._request.timeout
        self._task.step("ready", f"waiting until {name} comes up")
        begun = time.monotonic()
        best, seen = "", 0.0
        while True:
            signs = self._importing.signs(name)
            found = self._machines.leases(plan.nics) - before
            sign = _sign(signs, bool(found))
            now = time.monotonic() - begun
            if sign and not best:
                seen = now
            best = sign or best
            if not signs.running or best == "agent" or now >= patience or (best and now - seen > _SETTLE):
                return _told(name, signs, best, found, now)
            self._task.report(None, f"waiting until {name} comes up ({format_duration(now)})")
            time.sleep(_LOOK)


def _sign(signs: Signs, leased: bool) -> str:
    if signs.agent:
        return "agent"
    if _PROMPT.search(signs.said.rstrip(b" \r\n\0")):
        return "login"
    return "address" if leased else ""


def _told(name: str, signs: Signs, sign: str, leased: set[str], took: float) -> dict[str, Any]:
    said = [line for line in map(_plain, _lines(signs.said)) if line]
    after = format_duration(took)
    words = {
        "agent": f"{name} came up: its guest agent answers after {after}",
        "login": f"{name} came up: its serial console asks for a login after {after}",
        "address": f"{name} came up: it asked for its address {', '.join(sorted(leased))} within {after}",
        "": f"{name} runs, and gave no sign of life within {after}: no agent, no address by DHCP, no login prompt",
    }
    if not signs.running:
        sentence = f"{name} stopped by itself after {after}"
    elif not sign and said:
        sentence = f"{words['']}; its serial console said: {said[-1][:200]}"
    else:
        sentence = words[sign]
    up = bool(sign) and signs.running
    return {"up": up, "sign": sign if up else "", "sentence": sentence, "said": [] if up else said[-_SHOWN:]}


def _plain(line: str) -> str:
    return "".join(char for char in _CONTROL.sub("", line) if char.isprintable()).strip()


def _lines(said: bytes) -> list[str]:
    return [line for line in said.decode(errors="replace").splitlines() if line.strip()]


def _plan(spec: InstanceSpec, machine: Machine, nics: tuple[Nic | None, ...]) -> MachinePlan:
    return MachinePlan(spec=spec, machine=machine, created=datetime.now(UTC), nics=nics)


def _new_mac() -> str:
    return "02:" + ":".join(f"{byte:02x}" for byte in secrets.token_bytes(5))
