"""Templates of simulated virtual machines: remembered by image, memory and CPUs; what starts warm is ready at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from triune.domain.errors import Failed, TriuneError
from triune.domain.operation import Progress
from triune.engines.base import LaunchPlan

if TYPE_CHECKING:
    from triune.engines.fake.engine import FakeEngine

_Key = tuple[str, int | None, float | None]
_SIZE = 1 << 20


class FakeTemplates:
    """The `templates` facet. `failures["NAME-restore"]` of the engine makes a warm start fail."""

    def __init__(self, engine: FakeEngine) -> None:
        self._engine = engine
        self._made: dict[_Key, datetime] = {}
        self._half: set[_Key] = set()

    def ready(self, plan: LaunchPlan) -> bool:
        """Whether it was made."""
        with self._engine.reading():
            return _key(plan) in self._made and not self.why_not(plan)

    def why_not(self, plan: LaunchPlan) -> str:
        """User data and volumes need a boot."""
        if plan.user_data is not None:
            return "user data is read at a first boot"
        return "its volumes share its memory with the host" if plan.spec.volumes else ""

    def make(self, plan: LaunchPlan, progress: Progress, *, aside: bool = False) -> None:
        """Remember it."""
        del aside
        if self.ready(plan):
            return
        self._half.add(_key(plan))
        progress.step("template-boot", f"booting {plan.image} once")
        progress.step("template-save", "saving the guest's memory")
        with self._engine.changing():
            self._made[_key(plan)] = datetime.now(UTC)
        self._half.discard(_key(plan))

    def launch(self, plan: LaunchPlan, progress: Progress) -> None:
        """Create and start in one."""
        name = plan.spec.name
        if not self.ready(plan):
            raise Failed("warm_failed", f"there is no template of {plan.image}", hint="It boots as usual.")
        self._engine.create(plan, progress)
        try:
            progress.step(f"{self._engine.name}-restore", "starting from the template")
            if error := self._engine.failures.get(f"{self._engine.name}-restore"):
                raise error
            self._engine.start(name, progress)
        except TriuneError as error:
            self._engine.delete(name)
            raise Failed(
                "warm_failed", f"{name!r} could not start warm: {error.message}", hint="It boots as usual."
            ) from error
        except BaseException:
            self._engine.delete(name)
            raise

    def list(self) -> Sequence[Mapping[str, object]]:
        """Those made."""
        with self._engine.reading():
            return [
                {"image": key[0], "size": _SIZE, "created": created, "ready": True, "why": ""}
                for key, created in self._made.items()
            ]

    def remove(self, image: str) -> None:
        """Forget those of an image."""
        with self._engine.changing():
            self._made = {key: created for key, created in self._made.items() if key[0] != image}

    def sweep(self) -> None:
        """Forget what was not completed."""
        self._half.clear()


def _key(plan: LaunchPlan) -> _Key:
    return plan.image, plan.spec.memory, plan.spec.cpus
