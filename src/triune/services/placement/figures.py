"""What one instance of each engine costs its host: measured here, or published."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, fields, replace
from importlib import resources
from pathlib import Path
from typing import Any

from triune.domain.units import parse_size

SCHEMA = 1
MEASURED, EMULATED, PUBLISHED = "measured", "emulated", "published"
_KIND = "density"
_LARGEST = 1 << 20
_FILES = 32
_BENCHMARKS = ("memory.idle.50", "memory.idle.10", "memory.idle")


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """Of one engine. The `first` instance costs `memory_first` more than each further one, which shares its pages.

    Bytes; `cpu` in CPUs when idle; `threads`, `files`, `inotify` by instance. `origin` is measured, emulated or
    published; `memory_idle` is what counts where a workload says how much memory it takes itself.
    """

    engine: str
    memory_each: int
    memory_idle: int
    memory_first: int = 0
    disk_each: int = 0
    cpu: float = 0.0
    threads: float = 1
    files: float = 0
    inotify: float = 0
    origin: str = PUBLISHED
    source: str = ""

    def as_dict(self) -> dict[str, Any]:
        """JSON-safe."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """By engine, in order; `requests` a second by a workload's kind of I/O; `time` of the measurement, "" if none."""

    engines: Mapping[str, Figure]
    requests: Mapping[str, float]
    time: str = ""


def published() -> Figures:
    """Those that come with this version."""
    import yaml

    text = resources.files(__package__).joinpath("figures.yaml").read_text(encoding="utf-8")
    data = yaml.safe_load(text)
    engines = {
        name: Figure(
            engine=name,
            memory_each=parse_size(facts["typical"]),
            memory_idle=parse_size(facts["idle"]),
            threads=facts["threads"],
            files=facts["files"],
            inotify=facts["inotify"],
            source=data["source"],
        )
        for name, facts in data["engines"].items()
    }
    return Figures(engines=engines, requests={name: float(rate) for name, rate in data["iops"].items()})


def figures(
    folder: Path | None, benched: Mapping[str, Mapping[str, Mapping[str, Any]]] | None = None, *, planned: bool = False
) -> tuple[Figures, tuple[str, ...]]:
    """The best there are of each engine, and notes on what was not used.

    Its last of this host by --measure; else the memory that `triune bench` found (`benched`, as
    `benchmarks.measured.measured` tells it); else published. What was emulated here is none of a `planned` host.
    """
    base = published()
    engines = {name: _benched(figure, (benched or {}).get(name, {})) for name, figure in base.engines.items()}
    found, time, notes = _measured(folder, set(engines))
    for name, figure in found.items():
        if planned and figure.origin == EMULATED:
            notes.append(
                f"{name} was emulated when it was measured here: of a planned host, published figures are used"
            )
        else:
            engines[name] = figure
    return Figures(engines=engines, requests=base.requests, time=time), tuple(notes)


def _measured(folder: Path | None, names: Collection[str]) -> tuple[dict[str, Figure], str, list[str]]:
    """Each engine's last measurement, the time of the last of all, and notes."""
    known = {field.name for field in fields(Figure)}
    found: dict[str, Figure] = {}
    time, notes = "", []
    for path in sorted(folder.glob("measured-*.json"))[-_FILES:] if folder is not None else ():
        try:
            data = _load(path)
            rows = [
                Figure(**{key: value for key, value in row.items() if key in known})
                for row in data["engines"]
                if row["engine"] in names
            ]
            time = str(data["time"])
        except (OSError, ValueError, TypeError, KeyError) as error:
            notes.append(f"a measurement is not used: {error}")
            continue
        found.update((row.engine, row) for row in rows)
    return found, time, notes


def _benched(figure: Figure, there: Mapping[str, Mapping[str, Any]]) -> Figure:
    """With the memory of most idle instances that was measured; the rest stays as published."""
    best = next((there[name] for name in _BENCHMARKS if name in there), None)
    if best is None or best["unit"] != "MiB" or not best["median"] > 0:
        return figure
    memory = int(best["median"] * 2**20)
    return replace(
        figure, memory_each=memory, memory_idle=memory, memory_first=0, origin=MEASURED, source=str(best["source"])
    )


def _load(path: Path) -> Mapping[str, Any]:
    with path.open("rb") as file:
        raw = file.read(_LARGEST + 1)
    data = json.loads(raw) if len(raw) <= _LARGEST else None
    if not isinstance(data, dict) or data.get("kind") != _KIND:
        raise ValueError(f"{path.name} is no result of triune density --measure")
    if data.get("schema") != SCHEMA:
        raise ValueError(f"{path.name} is of schema {data.get('schema')}, and this version reads {SCHEMA}")
    return data


def keep(folder: Path, found: Mapping[str, Figure], time: str, host: Mapping[str, Any], count: int) -> Path:
    """Write a measurement with the facts of the host; returns its file. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    stamp = "".join(char for char in time if char.isdigit())[:14]
    path = folder / f"measured-{stamp}.json"
    data = {
        "schema": SCHEMA,
        "kind": _KIND,
        "time": time,
        "host": dict(host),
        "instances_of_each": count,
        "engines": [figure.as_dict() for figure in found.values()],
    }
    temporary = path.with_suffix(".new")
    temporary.write_text(json.dumps(data, indent=2) + "\n")
    temporary.replace(path)
    return path
