"""Making an instance of a backup."""

from __future__ import annotations

import os
import shutil
import stat
import tarfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from triune.domain.errors import Conflict, Failed, TriuneError
from triune.domain.instance import InstanceSpec
from triune.domain.network import Nic
from triune.domain.pool import PoolPlace
from triune.engines.archiving import Archiving, PartKind, RestorePlan
from triune.engines.base import Engine
from triune.host.run import run
from triune.host.staging.pieces import PIECE, index_of, path_of
from triune.services.backups import stored
from triune.services.backups.manifest import Manifest, StoredPart, spec_of
from triune.services.backups.repository import Repository
from triune.services.backups.request import RestoreRequest
from triune.services.backups.stored import Stored
from triune.services.backups.volumes import Volumes, renamed
from triune.services.instances import policy
from triune.services.instances.inventory import INTENT
from triune.services.limits import InstanceLimits
from triune.services.networks import Networks
from triune.services.operations import Task
from triune.services.storage import Storage
from triune.store import Put, Store

FOLDER = ".triune-restore-"
_LARGE = 4 << 20
_SHOWN = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Restoring:
    """What a restore works with."""

    engine: Engine
    archiving: Archiving
    repository: Repository
    networks: Networks
    storage: Storage
    limits: InstanceLimits
    store: Store


def spec_for(manifest: Manifest, request: RestoreRequest, networks: Networks) -> InstanceSpec:
    """What to make: the spec of the backup under the new name, on a network of this host. Raises Invalid."""
    spec = spec_of(manifest.spec, name=request.name, engine=manifest.engine, image=manifest.image)
    if not request.publish:
        spec = replace(spec, publish=())
    if spec.networked and spec.network not in {network.name for network in networks.list()}:
        spec = replace(spec, network=networks.default)
    policy.check(spec)
    return spec


class Restore:
    """One restore, inside its operation."""

    def __init__(self, parts: Restoring, request: RestoreRequest, task: Task) -> None:
        self._with = parts
        self._request = request
        self._task = task
        self._lost: list[str] = []

    def run(self, backup: Stored, manifest: Manifest, spec: InstanceSpec, known: list[Stored]) -> dict[str, Any]:
        """Make the instance; returns JSON-safe facts."""
        task, engine = self._task, self._with.engine
        plan = RestorePlan(
            spec=spec,
            image=manifest.image,
            created=datetime.now(UTC),
            described=manifest.described,
            pool=self._pool(manifest),
            # It is the old one: a new identity is what clones are for.
            machine_id=str(manifest.described.get("machine_id") or ""),
        )
        folder = self._with.archiving.place(plan) / f"{FOLDER}{task.operation.id}"
        task.intend("restore", engine=engine.name, name=spec.name, folder=str(folder))
        folder.mkdir(mode=0o700)
        try:
            parts = {part.name: path for part in manifest.parts if (path := self._fetch(backup, part, folder, known))}
            spec = self._volumes(manifest, spec, parts)
            resolved = replace(spec, volumes=self._with.storage.volumes.mounts(spec.volumes, spec.name))
            policy.check(resolved)
            plan = replace(plan, spec=resolved, nics=self._nics(spec), parts=parts)
            task.step("create", f"creating {spec.name}")
            self._create(plan)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        self._limit(spec)
        spec = replace(spec, pool=plan.pool.name if plan.pool else None)
        value = {"engine": engine.name, "created": plan.created.isoformat(), "spec": asdict(spec)}
        self._with.store.commit([Put(INTENT + spec.name, value)])
        if self._request.start:
            task.step("start", f"starting {spec.name}")
            engine.start(spec.name, task)
            self._with.limits.enforce_started(engine, spec.name)
        task.keep()
        return {
            "name": spec.name,
            "engine": engine.name,
            "backup": backup.short,
            "addresses": [nic.address for nic in plan.nics],
            "lost": self._lost,
        }

    def _pool(self, manifest: Manifest) -> PoolPlace | None:
        """The pool its root was on, where this host has it."""
        name, pools = str(manifest.spec.get("pool") or ""), self._with.storage.pools
        return pools.place(name) if name in {record.name for record in pools.records()} else None

    def _volumes(self, manifest: Manifest, spec: InstanceSpec, parts: dict[str, Path]) -> InstanceSpec:
        """Make the pools' volumes anew; returns the spec with their names."""
        volumes = Volumes(self._with.storage, self._with.store, self._task)
        names = volumes.names(manifest.volumes, spec.name)
        for one in manifest.volumes:
            volumes.make(one, names[str(one["name"])], parts.pop(str(one["part"])))
        return renamed(spec, names)

    def _create(self, plan: RestorePlan) -> None:
        try:
            self._with.archiving.restore(plan, self._task)
        except Conflict as error:
            if error.code == "instance_exists":
                # Another tool was quicker: undoing must not remove what is not ours.
                self._task.withdraw("restore")
                self._with.networks.release(plan.spec.name)
            raise

    def _limit(self, spec: InstanceSpec) -> None:
        """Those that its configuration did not bring along. What this host can't enforce is told, and no reason to
        fail."""
        engine, limiting = self._with.engine, self._with.engine.limiting
        wanted = replace(spec.limits, cpus=spec.cpus, memory=spec.memory)
        if limiting is not None:
            has = limiting.read(spec.name).by_key()
            asked = {key for key, value in wanted.by_key().items() if has.get(key) != value}
            try:
                limiting.apply(spec.name, wanted, frozenset(asked) & limiting.keys - limiting.volatile)
            except TriuneError as error:
                self._lost.append(f"limits: {error.message}")
        self._with.limits.launched(engine, spec.name, spec.limits)

    def _nics(self, spec: InstanceSpec) -> tuple[Nic, ...]:
        networks = self._with.networks
        if spec.network is None or not spec.networked:
            return ()
        self._task.step("network", "reserving an address and a name")
        nic = networks.reserve(spec.network, spec.name)
        networks.register(spec.name, nic)
        if spec.publish and self._with.engine.ports is None:
            networks.publish(spec.name, nic.address, spec.publish)
        return (nic,)

    def _fetch(self, backup: Stored, part: StoredPart, folder: Path, known: list[Stored]) -> Path | None:
        """One part, out of the repository; None for an image that is there already."""
        if part.kind is PartKind.DISK:
            return self._disk(backup, part, folder)
        if part.kind is PartKind.TREE:
            return self._tree(backup, part, folder)
        oci = self._with.engine.oci
        if oci is not None and oci.inspect(part.digest) is not None:
            return None
        image = next((one for one in known if one.labels.get("image") == part.digest), None)
        if image is None or stored.IMAGE_TAG not in image.tags:
            raise Failed(
                "image_lost",
                f"the repository no longer has the image {part.digest[:19]} that the backup {backup.short} stands on",
                hint="Get the image from elsewhere, then restore again.",
            )
        return self._tree(image, part, folder)

    def _tree(self, backup: Stored, part: StoredPart, folder: Path) -> Path:
        self._task.step("restore", f"restoring {part.name}")
        target = folder / part.name
        lost = self._with.repository.restore(backup.id, f"/{part.name}", folder, self._ticking(part))
        if lost and not self._request.damaged:
            raise damaged(backup, lost)
        self._lost += lost
        target.mkdir(mode=0o755, exist_ok=True)
        dig_holes(target, self._task.check)
        return target

    def _ticking(self, part: StoredPart) -> Callable[[], None]:
        return lambda: self._task.report(None, f"restoring {part.name}")

    def _disk(self, backup: Stored, part: StoredPart, folder: Path) -> Path:
        self._task.step("restore", f"restoring {part.name}")
        target = folder / part.name
        size, left = part.size or 0, set(part.times)
        target.touch(mode=0o600)
        os.truncate(target, size)
        if not left:
            return target
        with target.open("r+b") as disk:
            with suppress(tarfile.TarError, EOFError, Failed):  # what is missing is told below
                self._stream(backup, part, disk.fileno(), left)
            if left and not self._request.damaged:
                # The stream ended there: what comes after it has not been looked at.
                raise damaged(backup, [f"{part.name} at {min(left)} MiB"])
            self._rescue(backup, part, disk.fileno(), left, folder)
            os.fsync(disk.fileno())
        return target

    def _stream(self, backup: Stored, part: StoredPart, disk: int, left: set[int]) -> None:
        with (
            self._with.repository.dump(backup.id, f"/{part.name}") as file,
            tarfile.open(fileobj=file, mode="r|") as archive,
        ):
            self._pieces(archive, disk, part, left)

    def _pieces(self, archive: tarfile.TarFile, disk: int, part: StoredPart, left: set[int]) -> None:
        total = len(left)
        for member in archive:
            index = index_of(member.name.strip("/").removeprefix(f"{part.name}/"))
            if index is None or index not in left or not member.isreg():
                continue
            content = archive.extractfile(member)
            data = content.read() if content else b""
            if len(data) != min(PIECE, (part.size or 0) - index * PIECE):
                continue
            if data.count(0) != len(data):
                os.pwrite(disk, data, index * PIECE)
            left.discard(index)
            self._task.report(1 - len(left) / total, f"restoring {part.name}")

    def _rescue(self, backup: Stored, part: StoredPart, disk: int, left: set[int], folder: Path) -> None:
        """A stream ends at the first damaged piece: the rest of them is fetched folder by folder."""
        for name in sorted({path_of(index).partition("/")[0] for index in left}):
            inside = f"/{part.name}/{name}"
            target = folder / f".rescue-{part.name}"
            lost: set[str] = set(self._with.repository.restore(backup.id, inside, target, self._ticking(part)))
            for index in sorted(left):
                path = f"/{part.name}/{path_of(index)}"
                file = target / path.lstrip("/")
                if path.startswith(f"{inside}/") and path not in lost and file.is_file():
                    os.pwrite(disk, file.read_bytes(), index * PIECE)
                    left.discard(index)
            shutil.rmtree(target, ignore_errors=True)
        self._lost += [f"{part.name} at {index} MiB" for index in sorted(left)]


def damaged(backup: Stored, lost: list[str]) -> Failed:
    """The repository does not have all of a backup any more."""
    return Failed(
        "backup_damaged",
        f"the backup {backup.short} is damaged in the repository: {'; '.join(lost[:_SHOWN])}{_more(lost)}",
        hint=f"Restore the rest all the same: --skip-damaged. See what is damaged: triune backup verify; an older "
        f"backup of {backup.instance} may be whole.",
        lost=lost[:1000],
    )


def _more(lost: list[str]) -> str:
    return f" and {len(lost) - _SHOWN} more" if len(lost) > _SHOWN else ""


def dig_holes(tree: Path, check: Callable[[], None]) -> None:
    """Make large files sparse where they are zeros, as most were: older versions of the program write zeros.

    `tree` may be one file, or a symbolic link, which leads anywhere on this host and is left alone.
    """
    folder = stat.S_ISDIR(tree.lstat().st_mode)
    walk = os.walk(tree) if folder else [(str(tree.parent), [], [tree.name])]
    for parent, _, names in walk:
        for name in names:
            path = Path(parent) / name
            found = path.lstat()
            if not stat.S_ISREG(found.st_mode) or found.st_size < _LARGE or found.st_blocks * 512 < found.st_size:
                continue
            check()
            run(["fallocate", "--dig-holes", path], check=False, timeout=600)
            os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns), follow_symlinks=False)


def forget_folder(data: Mapping[str, Any]) -> None:
    """Remove what a restore left in its folder."""
    folder = Path(str(data["folder"]))
    if folder.name.startswith(FOLDER):
        shutil.rmtree(folder, ignore_errors=True)
