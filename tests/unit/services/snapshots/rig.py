"""Snapshots and clones over the fake engine, without a host: what the tests of this folder share."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tests.api.fakes import FakeNetworks, FakeShaper
from tests.patience import PATIENCE

from triune.domain.errors import TriuneError, from_dict
from triune.domain.image import OciForm
from triune.domain.instance import InstanceSpec
from triune.domain.operation import Operation, Silent
from triune.engines.base import Engine, LaunchPlan
from triune.engines.fake.engine import FakeEngine
from triune.services.images import Images
from triune.services.instances import Instances, TemplateSettings, Warming
from triune.services.limits import InstanceLimits
from triune.services.networks import NetworkSettings
from triune.services.operations import Events, Operations
from triune.services.snapshots import Cloner, Snapshots
from triune.services.storage import Storage
from triune.store import SqliteStore

START = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)


class Rig:
    """One fake engine and the services over it; `now` is what they think the time is."""

    def __init__(self, folder: Path, *, missing: dict[str, str] | None = None) -> None:
        self.now = START
        self.store = SqliteStore(folder / "triune.db")
        self.events = Events(self.store)
        self.operations = Operations(self.store, self.events)
        self.engine = FakeEngine(path=folder / "fake.json", missing=missing)
        engines: dict[str, Engine] = {"fake": self.engine}
        self.networks: Any = FakeNetworks(self.store, engines, NetworkSettings())
        images = Images(folder / "images", engines, dict)
        limits = InstanceLimits(engines, self.operations, self.store, FakeShaper())
        storage = Storage(folder, self.store, self.operations, list, lambda _: False)
        warming = Warming(engines, images, self.operations, TemplateSettings())
        self.instances = Instances(
            engines, images, self.networks, storage, self.operations, self.events, self.store, limits, warming
        )
        inventory = self.instances.inventory
        self.snapshots = Snapshots(engines, inventory, self.operations, self.events, self.store, clock=lambda: self.now)
        self.cloner = Cloner(self.instances, self.networks, self.operations, self.store, limits)
        self.instances.followers.append(self.snapshots)

    def make(self, name: str, **settings: str) -> None:
        """An instance, stopped."""
        spec = InstanceSpec(name=name, image="tdoc/1", engine="fake", network=None, settings=settings)
        form = OciForm(id="sha256:0", reference="tdoc/1")
        self.engine.create(LaunchPlan(spec=spec, form=form, image="tdoc/1", created=START), Silent())

    def start(self, name: str) -> None:
        self.engine.start(name, Silent())

    def log(self, name: str) -> list[str]:
        """What it wrote: the fake's content."""
        return list(self.engine.find(name).log)

    def state(self, name: str) -> str:
        return self.engine.find(name).state

    def names(self, name: str) -> list[str]:
        """Of its snapshots."""
        return [one.name for one in self.snapshots.list(name)]

    def done(self, operation: Operation) -> Any:
        """Wait for it; its result, or its error raised."""
        ended = self.operations.wait(operation.id, PATIENCE)
        assert ended.state.ended
        if ended.error:
            raise from_dict(dict(ended.error))
        return ended.result

    def later(self, **delta: float) -> None:
        self.now += timedelta(**delta)

    def recover(self) -> None:
        """What a restart of the daemon does."""
        self.operations.recover()

    def close(self) -> None:
        self.operations.close()
        self.instances.close()
        self.store.close()


def broken(what: str) -> TriuneError:
    """An error of an engine."""
    from triune.domain.errors import Failed

    return Failed("broken", f"{what} failed because a test said so", hint="Unset it.")
