"""Making a backup: two passes over living data, or one over a point in time."""

from __future__ import annotations

import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from triune.domain.errors import Failed
from triune.domain.instance import Instance, InstanceSpec
from triune.engines.archiving import Archive, Archiving, Part, PartKind
from triune.engines.base import Engine
from triune.host.nbd import data_ranges
from triune.host.staging.pieces import touched
from triune.services.backups import manifest as manifests
from triune.services.backups import stored
from triune.services.backups.manifest import Manifest, StoredPart
from triune.services.backups.repository import Repository, Tick, View, Written
from triune.services.backups.stored import Stored
from triune.services.backups.volumes import Included
from triune.services.operations import Task

_MILLISECOND = 10**6
_SHOWN = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What is backed up: `spec` is what was asked for at its launch, None for what Triune did not make."""

    engine: Engine
    archiving: Archiving
    instance: Instance
    spec: dict[str, Any] | None
    volumes: Included = field(default_factory=Included)


class Backup:
    """One backup, inside its operation."""

    def __init__(self, subject: Subject, repository: Repository, task: Task, scratch: Path) -> None:
        self._subject = subject
        self._name = subject.instance.name
        self._repository = repository
        self._task = task
        self._scratch = scratch

    def run(self, known: Sequence[Stored]) -> dict[str, Any]:
        """Make it; `known` is what the repository has. Returns JSON-safe facts of it."""
        began = time.monotonic()
        parent = newest(known, self._name, self._subject.engine.name)
        described = dict(self._subject.archiving.describe(self._name))
        self._task.step("open", f"opening the data of {self._name}")
        archive = self._subject.archiving.open(self._name, parent.short if parent else None, self._task)
        passing = None
        try:
            images = self._store_images(archive.parts, known)
            parts, disks = self._disks([*archive.parts, *self._subject.volumes.parts], parent)
            if not archive.still:
                self._task.step("read", f"reading {self._name}")
                passing = self._pass(archive, described, parts, disks, parent.short if parent else None, final=False)
                self._task.step("hold", f"holding {self._name} still")
                archive.hold()
            self._task.step("store", f"storing {self._name}")
            base = passing.id if passing else parent.short if parent else None
            written = self._pass(archive, described, parts, disks, base, final=True)
            archive.release()
            if written.unreadable:
                raise _incomplete(self._name, written)
            archive.keep(written.id)
            self._task.keep()
        finally:
            archive.close()
        if passing:
            self._repository.forget([passing.id])
        return {
            "backup": written.id,
            "instance": self._name,
            "repository": self._repository.place.address,
            "size": written.total,
            "added": written.added + images + (passing.added if passing else 0),
            "files": written.files,
            "consistency": archive.consistency,
            "parts": manifests.summary(parts),
            "left_out": list(self._subject.volumes.left_out),
            "seconds": round(time.monotonic() - began, 3),
        }

    def _pass(
        self,
        archive: Archive,
        described: dict[str, object],
        parts: Sequence[StoredPart],
        disks: dict[str, dict[str, object]],
        parent: str | None,
        *,
        final: bool,
    ) -> Written:
        subject = self._subject
        manifest = Manifest(
            instance=self._name,
            engine=subject.engine.name,
            image=subject.instance.image or "",
            state=subject.instance.state.value,
            created=datetime.now(UTC).isoformat(),
            consistency=archive.consistency,
            described=described,
            spec=subject.spec or _spec(described, subject.instance),
            parts=tuple(parts),
            volumes=subject.volumes.told,
        )
        read = (*archive.parts, *subject.volumes.parts)
        trees = {part.name: part.path for part in read if part.kind is PartKind.TREE and part.path}
        tags = [
            stored.TAG if final else stored.PASSING,
            f"instance:{self._name}",
            f"engine:{subject.engine.name}",
            f"operation:{self._task.operation.id}",
        ]
        if final:
            tags += [f"consistency:{archive.consistency}"]
            tags += [f"image:{part.digest}" for part in parts if part.kind is PartKind.IMAGE]
        view = View(name=self._name, files={manifests.NAME: manifest.text()}, trees=trees, disks=disks)
        return self._repository.backup(view, tags, parent, self._tick("reading" if not final else "storing"))

    def _tick(self, doing: str) -> Tick:
        return lambda fraction: self._task.report(fraction, f"{doing} {self._name}")

    def _disks(
        self, parts: Sequence[Part], parent: Stored | None
    ) -> tuple[list[StoredPart], dict[str, dict[str, object]]]:
        """The parts as the manifest tells them, and the disks as the view shows them."""
        before: Manifest | None = None
        if parent and any(part.changed is not None and part.base == parent.short for part in parts):
            text = self._repository.read(parent.id, f"/{manifests.NAME}")
            before = manifests.parse(text, parent.short)
        told: list[StoredPart] = []
        views: dict[str, dict[str, object]] = {}
        for part in parts:
            times: dict[int, int] = {}
            if part.kind is PartKind.DISK:
                earlier = before.part(part.name) if before else None
                times = piece_times(part, earlier if parent and part.base == parent.short else None)
                views[part.name] = {
                    "path": str(part.path) if part.path and not part.socket else None,
                    "socket": str(part.socket) if part.socket else None,
                    "export": part.export,
                    "size": part.size,
                    "pieces": sorted(times.items()),
                }
            told.append(StoredPart(kind=part.kind, name=part.name, size=part.size, digest=part.digest, times=times))
        return told, views

    def _store_images(self, parts: Sequence[Part], known: Sequence[Stored]) -> int:
        """Store the images that the repository lacks; returns how many bytes that added."""
        there = {one.labels.get("image") for one in known if stored.IMAGE_TAG in one.tags}
        added = 0
        for part in parts:
            if part.kind is not PartKind.IMAGE or part.digest in there or part.write is None:
                continue
            self._task.step("image", f"storing the image of {self._name}")
            self._scratch.mkdir(parents=True, exist_ok=True, mode=0o700)
            folder = Path(tempfile.mkdtemp(prefix="image-", dir=self._scratch))
            try:
                part.write(folder, self._task)
                tags = [stored.IMAGE_TAG, f"image:{part.digest}", f"operation:{self._task.operation.id}"]
                tick = self._tick("storing the image of")
                written = self._repository.backup(View(trees={part.name: folder}), tags, None, tick)
            finally:
                shutil.rmtree(folder, ignore_errors=True)
            if written.unreadable:
                raise _incomplete(part.digest, written)
            added += written.added
        return added


def piece_times(
    part: Part,
    earlier: StoredPart | None,
    *,
    ranges: Callable[..., list[tuple[int, int]]] = data_ranges,
) -> dict[int, int]:
    """When each piece of a disk last changed (ns): from the backup before where it is known what changed since."""
    size = part.size or 0
    now = int(time.time() * 1000) * _MILLISECOND
    if earlier is not None and part.changed is not None and earlier.size == size:
        now = max(now, max(earlier.times.values(), default=0) + _MILLISECOND)
        return {**earlier.times, **dict.fromkeys(touched(part.changed, size), now)}
    return dict.fromkeys(touched(ranges(part.path, part.socket, part.export), size), now)


def newest(known: Sequence[Stored], instance: str, engine: str) -> Stored | None:
    """The newest complete backup of an instance, made on this host."""
    host = platform.node()
    ours = [one for one in known if stored.TAG in one.tags and one.instance == instance]
    return next((one for one in reversed(ours) if one.engine == engine and one.host == host), None)


def _spec(described: dict[str, object], instance: Instance) -> dict[str, Any]:
    """For what Triune did not make: what its engine can say of it."""
    found = described.get("spec")
    own = found if isinstance(found, dict) else {}
    plain = InstanceSpec(name=instance.name, image=instance.image or "", engine=instance.engine)
    return {**asdict(plain), "cpus": instance.cpus, "memory": instance.memory_bytes, **own}


def _incomplete(name: str, written: Written) -> Failed:
    shown = "; ".join(written.unreadable[:_SHOWN])
    return Failed(
        "backup_incomplete",
        f"{len(written.unreadable)} files of {name} could not be read: {shown}",
        hint="The incomplete backup was not kept. See whether the instance is still there, and repeat.",
        unreadable=list(written.unreadable[:100]),
    )
