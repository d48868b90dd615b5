"""The `attaching` facet in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from triune.domain.errors import Conflict
from triune.domain.instance import VolumeMount
from triune.domain.operation import Progress
from triune.domain.pool import Volume

if TYPE_CHECKING:
    from triune.engines.fake.engine import FakeEngine


class FakeAttaching:
    """Volumes by name and target. The setting `volumes=busy` lets none go while it runs."""

    live = True

    def __init__(self, engine: FakeEngine) -> None:
        self._engine = engine

    def attach(self, name: str, volume: Volume, mount: VolumeMount, progress: Progress) -> None:
        """Note it."""
        with self._engine.changing():
            one = self._engine.find(name)
            progress.step(f"{self._engine.name}-attach", f"attach {volume.name}")
            if mount.target and mount.target in one.volumes.values():
                raise Conflict("target_taken", f"{mount.target} is taken", hint="Choose another place.")
            one.volumes[volume.name] = mount.target
            one.sources[volume.name] = mount.source

    def detach(self, name: str, volume: Volume, progress: Progress) -> None:
        """Forget it."""
        with self._engine.changing():
            one = self._engine.find(name)
            progress.step(f"{self._engine.name}-detach", f"detach {volume.name}")
            if one.settings.get("volumes") == "busy" and one.state != "stopped":
                raise Conflict("volume_busy", f"{name} uses {volume.name}", hint="Stop it first.")
            one.volumes.pop(volume.name, None)
            one.sources.pop(volume.name, None)
