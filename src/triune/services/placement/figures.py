"""What one instance of each engine costs its host: measured here, or published."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from importlib import resources
from pathlib import Path
from typing import Any

from triune.domain.units import parse_size

SCHEMA = 1
MEASURED, EMULATED, PUBLISHED = "measured", "emulated", "published"
_KIND = "density"
_LARGEST = 1 << 20
_FILES = 32


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


def figures(folder: Path | None) -> tuple[Figures, tuple[str, ...]]:
    """Published ones, and over them each engine's last measured on this host; and notes on what was not used."""
    base = published()
    known = {field.name for field in fields(Figure)}
    engines, time, notes = dict(base.engines), "", []
    for path in sorted(folder.glob("measured-*.json"))[-_FILES:] if folder is not None else ():
        try:
            data = _load(path)
            rows = [
                Figure(**{key: value for key, value in row.items() if key in known})
                for row in data["engines"]
                if row["engine"] in engines
            ]
            time = str(data["time"])
        except (OSError, ValueError, TypeError, KeyError) as error:
            notes.append(f"a measurement is not used: {error}")
            continue
        engines.update((row.engine, row) for row in rows)
    return Figures(engines=engines, requests=base.requests, time=time), tuple(notes)


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
