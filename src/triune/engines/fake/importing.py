"""The simulated engine's imports: what the disks are made of is written, and thrown away."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from triune.domain.operation import Progress
from triune.domain.units import format_size
from triune.engines.fake.state import FakeInstance
from triune.engines.importing import MachinePlan, Signs, Write

if TYPE_CHECKING:
    from triune.engines.fake.engine import FakeEngine


class FakeImporting:
    """The facet: its machines log their disks, and their agent answers at once."""

    def __init__(self, engine: FakeEngine) -> None:
        self._engine = engine

    def check(self, plan: MachinePlan) -> Sequence[str]:
        """Nothing is refused; a TPM is never there."""
        return ["it has a TPM, and none can be simulated: it runs without one"] if plan.machine.tpm else []

    def create(self, plan: MachinePlan, write: Write, progress: Progress) -> None:
        """An instance with a line of its log for each disk."""
        nic = plan.nics[0] if plan.nics else None
        lines = []
        with tempfile.TemporaryDirectory() as folder:
            for number, disk in enumerate(plan.machine.disks):
                path = Path(folder) / str(number)
                write(disk, path)
                lines.append(f"{disk.slot} on {disk.bus}: {format_size(path.stat().st_size)}")
        made = FakeInstance(
            name=plan.spec.name,
            image=plan.spec.image,
            created=plan.created.isoformat(),
            cpus=plan.machine.cpus,
            memory=plan.machine.memory,
            network=nic.network.name if nic else None,
            mac=nic.mac if nic else None,
            address=nic.address if nic else None,
            log=lines,
        )
        self._engine.add(made, "created", progress)

    def signs(self, name: str) -> Signs:
        """It runs, and its agent answers."""
        with self._engine.reading():
            running = self._engine.find(name).state == "running"
        return Signs(running=running, agent=running)
