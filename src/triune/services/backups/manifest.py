"""What lies beside the data in each backup, as `manifest.json`: what it is of, and how to make it again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from triune.domain.errors import Failed
from triune.domain.instance import InstanceSpec, VolumeMount
from triune.domain.limits import Limits
from triune.domain.network import Publish
from triune.engines.archiving import PartKind
from triune.host.staging.pieces import PIECE

NAME = "manifest.json"
_FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredPart:
    """One part as it was stored. Of a disk: its `size`, and its pieces' `times` (ns); what has no piece is zeros.
    Of an image: its `digest`."""

    kind: PartKind
    name: str
    size: int | None = None
    digest: str = ""
    times: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The whole of it. `spec` is what was asked for at the launch, as `asdict(InstanceSpec)` gives it; `volumes` are
    pools' folders among the parts: `{part, name, pool, size, target}` each."""

    instance: str
    engine: str
    image: str
    state: str
    created: str
    consistency: str
    described: Mapping[str, object]
    spec: Mapping[str, Any]
    parts: tuple[StoredPart, ...]
    volumes: tuple[Mapping[str, Any], ...] = ()

    def text(self) -> str:
        """As JSON. Times of pieces are written as runs: [time, first, count]."""
        parts = [
            {
                "kind": part.kind.value,
                "name": part.name,
                "size": part.size,
                "digest": part.digest,
                **({"piece": PIECE, "runs": _runs(part.times)} if part.kind is PartKind.DISK else {}),
            }
            for part in self.parts
        ]
        own = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        return json.dumps({"format": _FORMAT, **own, "parts": parts}, default=str)

    def part(self, name: str) -> StoredPart | None:
        """A part by its name."""
        return next((part for part in self.parts if part.name == name), None)


def parse(text: bytes, backup: str) -> Manifest:
    """Read it back. Raises Failed("bad_manifest")."""
    try:
        found = json.loads(text)
        if found["format"] != _FORMAT:
            raise ValueError(f"it has format {found['format']!r}, and this Triune knows {_FORMAT}")
        parts = tuple(_part(part) for part in found["parts"])
        plain = {key: str(found[key]) for key in ("instance", "engine", "image", "state", "created", "consistency")}
        volumes = tuple(dict(one) for one in found.get("volumes") or ())
        if any(one["part"] not in {part.name for part in parts} or not one["name"] for one in volumes):
            raise ValueError("a volume has no part")
        return Manifest(
            described=dict(found["described"]), spec=dict(found["spec"]), parts=parts, volumes=volumes, **plain
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Failed(
            "bad_manifest",
            f"the description in the backup {backup} can't be read: {error}",
            hint="A newer Triune may have made it; single files can still be read: triune backup cat",
        ) from None


def _part(found: Mapping[str, Any]) -> StoredPart:
    kind = PartKind(found["kind"])
    times: dict[int, int] = {}
    size = None if found["size"] is None else int(found["size"])
    if kind is PartKind.DISK:
        if found["piece"] != PIECE or size is None or size < 0:
            raise ValueError("the pieces of a disk have a size that this Triune does not know")
        pieces = -(-size // PIECE)
        for time, first, count in found["runs"]:
            if not 0 <= first <= first + count <= pieces:
                raise ValueError("a piece lies outside of its disk")
            times.update(dict.fromkeys(range(first, first + count), int(time)))
    name = str(found["name"])
    if not name or "/" in name or name.startswith("."):
        raise ValueError("a part has a name that is none")
    return StoredPart(kind=kind, name=name, size=size, digest=str(found["digest"]), times=times)


def _runs(times: Mapping[int, int]) -> list[tuple[int, int, int]]:
    runs: list[tuple[int, int, int]] = []
    for index in sorted(times):
        time = times[index]
        if runs and runs[-1][0] == time and runs[-1][1] + runs[-1][2] == index:
            runs[-1] = (time, runs[-1][1], runs[-1][2] + 1)
        else:
            runs.append((time, index, 1))
    return runs


def spec_of(found: Mapping[str, Any], *, name: str, engine: str, image: str) -> InstanceSpec:
    """The spec in a manifest, under a new name. Unknown fields are left out. Raises Failed("bad_manifest")."""
    known = {entry.name for entry in fields(InstanceSpec)} - {"name", "engine", "image", "pool"}
    given = {key: value for key, value in found.items() if key in known}
    try:
        given["publish"] = tuple(Publish(**port) for port in given.get("publish") or ())
        given["volumes"] = tuple(VolumeMount(**volume) for volume in given.get("volumes") or ())
        given["command"] = tuple(str(word) for word in given.get("command") or ())
        limits = {entry.name for entry in fields(Limits)}
        given["limits"] = Limits(**{k: v for k, v in (given.get("limits") or {}).items() if k in limits})
        for key in ("env", "settings"):
            given[key] = {str(name): str(value) for name, value in (given.get(key) or {}).items()}
        return InstanceSpec(name=name, engine=engine, image=image, **given)
    except (TypeError, ValueError, AttributeError) as error:
        raise Failed(
            "bad_manifest", f"the configuration in the backup can't be read: {error}", hint="See: triune backup cat"
        ) from None


def summary(parts: Sequence[StoredPart]) -> list[dict[str, Any]]:
    """The parts for people and JSON."""
    return [{"name": part.name, "kind": part.kind.value, "size": part.size} for part in parts]
