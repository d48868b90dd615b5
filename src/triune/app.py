"""The wiring: settings in, services out. Nothing below imports this."""

from __future__ import annotations

import logging
import os
import platform
import tomllib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from triune.domain.errors import Invalid, NotFound, TriuneError
from triune.domain.instance import State
from triune.engines.base import Engine, Watch
from triune.engines.registry import EngineSettings, engines, usual
from triune.services.audit import Audits
from triune.services.backups import Backups, BackupSettings
from triune.services.images import Images
from triune.services.instances import Instances, TemplateSettings, Warming
from triune.services.limits import HostShaper, InstanceLimits, Shaper
from triune.services.machines import Machines
from triune.services.networks import Networks, NetworkSettings
from triune.services.operations import Events, Operations
from triune.services.schedules import Schedules
from triune.services.snapshots import Cloner, Snapshots, scheduled
from triune.services.storage import Storage, Use
from triune.store import SqliteStore, Store

log = logging.getLogger(__name__)

CONFIG = Path("/etc/triune/triune.toml")
_EXPIRY = 60.0  # seconds between looks for snapshots whose time has come


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The daemon's configuration: `/etc/triune/triune.toml` (or the file that TRIUNE_CONFIG names).

    TRIUNE_DATA, TRIUNE_SOCKET and TRIUNE_GROUP in the environment win over the file. `data` holds images, disks and the
    database; `socket` is the API; `group` may use it. The tables `engines`, `network`, `backup` and `templates` set the
    fields of EngineSettings, NetworkSettings, BackupSettings and TemplateSettings.
    """

    data: Path = Path("/var/lib/triune")
    socket: Path = Path("/run/triune/triune.sock")
    group: str = "triune"
    engines: EngineSettings = field(default_factory=lambda: EngineSettings(state_dir=Path("/var/lib/triune/instances")))
    network: NetworkSettings = field(default_factory=NetworkSettings)
    backup: BackupSettings = field(default_factory=BackupSettings)
    templates: TemplateSettings = field(default_factory=TemplateSettings)

    @classmethod
    def load(cls, path: Path | None = None) -> Settings:
        """Read the file, then the environment. Raises Invalid on an unknown key or a bad value."""
        path = path or Path(os.environ.get("TRIUNE_CONFIG", CONFIG))
        table: dict[str, Any] = {}
        if path.exists():
            try:
                table = tomllib.loads(path.read_text())
            except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
                raise Invalid("bad_config", f"{path} is not valid TOML: {error}", hint=f"Edit {path}.") from None
        for name in ("data", "socket", "group"):
            if value := os.environ.get(f"TRIUNE_{name.upper()}"):
                table[name] = value
        sections = (_section(table, name, path) for name in ("engines", "network", "backup", "templates"))
        engine_table, network_table, backup_table, template_table = sections
        # Beside the configuration: whoever keeps one keeps the other.
        backup_table.setdefault("password_file", str(path.parent / "backup.key"))
        backup_table.setdefault("environment_file", str(path.parent / "backup.env"))
        own = _typed(cls, table, path)
        own.setdefault("data", cls.__dataclass_fields__["data"].default)
        engine_table.setdefault("enabled", list(usual()))
        engine_table.setdefault("state_dir", str(own["data"] / "instances"))
        if fake := os.environ.get("TRIUNE_FAKE_ENGINES"):
            engine_table["fake"] = fake.split(",")
        return cls(
            engines=EngineSettings(**_typed(EngineSettings, engine_table, path)),
            network=NetworkSettings(**_typed(NetworkSettings, network_table, path)),
            backup=BackupSettings(**_typed(BackupSettings, backup_table, path)),
            templates=TemplateSettings(**_typed(TemplateSettings, template_table, path)),
            **own,
        )


def _section(table: dict[str, Any], name: str, path: Path) -> dict[str, Any]:
    found = table.pop(name, {})
    if not isinstance(found, dict):
        raise Invalid("bad_config", f"{name} in {path} is not a table", hint=f"Write it as [{name}].")
    return found


def _typed(kind: Any, table: dict[str, Any], path: Path) -> dict[str, Any]:
    known = {field.name: str(field.type) for field in fields(kind)}
    for key in table:
        if key not in known:
            raise Invalid(
                "bad_config", f"{path} has an unknown key {key!r}", hint=f"Known keys: {', '.join(sorted(known))}."
            )
    return {key: _value(known[key], value, f"{key} in {path}") for key, value in table.items()}


def _value(kind: str, value: Any, what: str) -> Any:
    """A value of TOML as a field of this type."""
    if kind.startswith("tuple[str") and isinstance(value, list) and all(isinstance(item, str) for item in value):
        return tuple(value)
    if kind == "Path" and isinstance(value, str):
        return Path(value)
    if isinstance(value, _PLAIN.get(kind, ())) and isinstance(value, bool) == (kind == "bool"):
        return value
    raise Invalid("bad_config", f"{what} is not {_WORDS.get(kind, 'a list of texts')}", hint="Mend it there.")


_PLAIN: Mapping[str, tuple[type, ...]] = {"str": (str,), "int": (int,), "float": (int, float), "bool": (bool,)}
_WORDS: Mapping[str, str] = {
    "Path": "a path",
    "str": "a text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
}


class Triune:
    """Everything the API serves, wired together."""

    def __init__(
        self,
        settings: Settings,
        *,
        make_networks: Callable[[Store, Mapping[str, Engine], NetworkSettings], Networks] = Networks,
        make_shaper: Callable[[], Shaper] = HostShaper,
    ) -> None:
        """`make_networks` and `make_shaper` let tests leave the host's network alone."""
        self.settings = settings
        self.store = SqliteStore(settings.data / "triune.db")
        self.events = Events(self.store)
        self.operations = Operations(self.store, self.events)
        self.engines: dict[str, Engine] = engines(settings.engines)
        self.images = Images(settings.data / "images", self.engines, self._image_users)
        self.networks = make_networks(self.store, self.engines, settings.network)
        self.storage = Storage(settings.data, self.store, self.operations, self._uses, self._runs)
        self.limits = InstanceLimits(self.engines, self.operations, self.store, make_shaper())
        self.warming = Warming(self.engines, self.images, self.operations, settings.templates)
        self.instances = Instances(
            self.engines,
            self.images,
            self.networks,
            self.storage,
            self.operations,
            self.events,
            self.store,
            self.limits,
            self.warming,
            self._measured,
        )
        inventory = self.instances.inventory
        self.snapshots = Snapshots(self.engines, inventory, self.operations, self.events, self.store)
        self.cloner = Cloner(self.instances, self.networks, self.operations, self.store, self.limits)
        self.machines = Machines(
            self.engines,
            inventory,
            self.networks,
            self.limits,
            self.operations,
            self.store,
            settings.data / "drivers",
        )
        self.backups = Backups(
            settings.backup,
            settings.data,
            self.instances,
            self.engines,
            self.networks,
            self.storage,
            self.limits,
            self.operations,
            self.store,
        )
        self.audits = Audits(
            self.engines,
            self.instances,
            self.images,
            self.operations,
            folder=settings.data / "audits",
            socket=settings.socket,
        )
        self.schedules = Schedules(self.store, self.operations, self.events)
        self.schedules.actions["backup"] = self.backups.scheduled
        self.schedules.actions["snapshot"] = scheduled(self.snapshots)
        self.schedules.chore(_EXPIRY, self.snapshots.expire)
        self.instances.followers += [self.snapshots, self.schedules]
        self._watches: list[Watch] = []

    def start(self) -> None:
        """Mend what a crash left, bring the network up, listen to the engines."""
        for removed in self.images.sweep():
            log.info("removed a leftover of an interrupted build or download: %s", removed)
        self.storage.start()
        self.networks.start()
        for operation in self.operations.recover():
            log.warning("operation %s (%s %s) was interrupted", operation.id, operation.kind, operation.resource)
        self.instances.forget_vanished()
        self.limits.enforce_all()
        self._watches = [engine.watch(self.instances.heard) for engine in self.engines.values()]
        self.schedules.start()
        self.events.publish("daemon.started", "daemon")

    def close(self) -> None:
        """Stop listening and finish what runs; instances and network go on without us."""
        self.schedules.close()
        for watch in self._watches:
            watch.close()
        self.operations.close()
        self.networks.close()
        self.instances.close()
        self.store.close()

    def _uses(self) -> list[Use]:
        """What instances were launched with, of pools and named volumes."""
        found = []
        for name, intent in self.instances.intents().items():
            volumes = [volume["source"] for volume in intent["spec"].get("volumes") or ()]
            named = tuple(source for source in volumes if "/" not in source)
            found.append(Use(instance=name, pool=intent["spec"].get("pool"), volumes=named))
        return found

    def _runs(self, name: str) -> bool:
        """Whether an instance may be using its disks now; one whose engine is away may."""
        try:
            return self.instances.get(name).instance.state is not State.STOPPED
        except NotFound:
            return False
        except TriuneError:
            return True

    def _measured(self, wanted: Collection[str]) -> Mapping[str, Any]:
        """What benchmarks found on this host. They are files that anybody may have put there: none fails a launch."""
        from triune.services.benchmarks.measured import measured
        from triune.services.benchmarks.results import FOLDER

        try:
            return measured(self.settings.data / FOLDER, platform.node(), wanted)
        except Exception:
            log.exception("results of benchmarks can't be used; published figures are")
            return {}

    def _image_users(self) -> dict[str, list[str]]:
        users: dict[str, list[str]] = {}
        for instance in self.instances.list().instances:
            if instance.image:
                users.setdefault(instance.image, []).append(instance.name)
        return users
