"""What the fake engine remembers of its instances, in memory and optionally in a JSON file."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from triune.domain.limits import Value

if TYPE_CHECKING:
    from triune.engines.archiving import RestorePlan
    from triune.engines.base import LaunchPlan


@dataclass(slots=True, kw_only=True)
class FakeInstance:
    """One instance. `state` is running, stopped or paused; `half` marks one whose creation did not finish.

    `base` is the instance/snapshot that a clone stands on.
    """

    name: str
    image: str | None = None
    created: str | None = None
    managed: bool = True
    state: str = "stopped"
    half: bool = False
    started: float | None = None
    cpus: float | None = None
    memory: int | None = None
    network: str | None = None
    mac: str | None = None
    address: str | None = None
    ports: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    volumes: dict[str, str] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    settings: dict[str, str] = field(default_factory=dict)
    limits: dict[str, Value] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)
    restarts: int = 0
    snapshots: dict[str, dict[str, Any]] = field(default_factory=dict)
    base: str = ""

    @classmethod
    def planned(cls, plan: LaunchPlan | RestorePlan, **more: Any) -> FakeInstance:
        """What a launch and a restore have in common."""
        spec = plan.spec
        nic = plan.nics[0] if plan.nics else None
        return cls(
            name=spec.name,
            image=plan.image,
            created=plan.created.isoformat(),
            cpus=spec.cpus,
            memory=spec.memory,
            network=nic.network.name if nic else None,
            mac=nic.mac if nic else None,
            address=nic.address if nic else None,
            command=[*spec.command],
            **more,
        )


def load(path: Path | None) -> dict[str, FakeInstance]:
    """Read them; no file is none."""
    if path is None or not path.exists():
        return {}
    return {item["name"]: FakeInstance(**item) for item in json.loads(path.read_text())}


def save(path: Path | None, instances: dict[str, FakeInstance]) -> None:
    """Write them in one step."""
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    new.write_text(json.dumps([asdict(instance) for instance in instances.values()]))
    os.replace(new, path)  # noqa: PTH105 - the usual name for the atomic step
