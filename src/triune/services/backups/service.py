"""Backups: made, listed, checked, restored and let go of, whatever engine runs the instance."""

from __future__ import annotations

import logging
import posixpath
import secrets
import shlex
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from triune.domain.errors import Conflict, Invalid, NotFound, TriuneError, Unsupported
from triune.domain.instance import State
from triune.domain.names import instance_name, single_line
from triune.domain.operation import Operation
from triune.engines.archiving import Archiving, PartKind
from triune.engines.base import Engine
from triune.services.backups import key, stored
from triune.services.backups import manifest as manifests
from triune.services.backups.create import Backup, Subject
from triune.services.backups.every import Round
from triune.services.backups.manifest import Manifest
from triune.services.backups.repository import Repository, is_missing
from triune.services.backups.request import (
    BackupSettings,
    CreateRequest,
    Keep,
    Place,
    RestoreRequest,
    is_id,
    parse_keep,
    place,
)
from triune.services.backups.restore import Restore, Restoring, damaged, dig_holes, forget_folder, spec_for
from triune.services.backups.stored import Stored
from triune.services.backups.verify import verify
from triune.services.backups.volumes import included
from triune.services.instances import Instances, require_facet
from triune.services.limits import InstanceLimits
from triune.services.networks import Networks
from triune.services.operations import Operations, Task
from triune.services.schedules import Schedule
from triune.services.storage import Storage
from triune.store import Delete, Put, Store

log = logging.getLogger(__name__)

SIZES = "backups/size/"
_CHUNK = 1 << 18
_PATIENCE = 0.5
_EXTRACT = ".triune-extract-"


class Backups:
    """All backups. `data` is the daemon's data folder."""

    def __init__(
        self,
        settings: BackupSettings,
        data: Path,
        instances: Instances,
        engines: Mapping[str, Engine],
        networks: Networks,
        storage: Storage,
        limits: InstanceLimits,
        operations: Operations,
        store: Store,
    ) -> None:
        self._settings = settings
        self._folder = data / "backup"
        self._instances = instances
        self._engines = engines
        self._networks = networks
        self._storage = storage
        self._limits = limits
        self._operations = operations
        self._store = store
        self._making = threading.Lock()
        self._turns = threading.Semaphore(max(1, settings.at_once))
        operations.handlers["backup"] = self._abandon
        operations.handlers["restore"] = self._discard
        operations.handlers["extract"] = _forget_extract

    def place(self, address: str, password_file: str) -> Place:
        """The repository that a request means. Raises Invalid."""
        return place(address, password_file, self._settings)

    # Reading

    def list(self, where: Place) -> Sequence[Mapping[str, Any]]:
        """`{id, instance, engine, time, consistency, host, size, added}` of each; sizes where this host made it."""
        sizes = {entry.key.removeprefix(SIZES): entry.value for entry in self._store.scan(SIZES)}
        return [
            {
                "id": one.short,
                "instance": one.instance,
                "engine": one.engine,
                "time": one.time,
                "consistency": one.labels.get("consistency", ""),
                "host": one.host,
                "size": sizes.get(one.short, {}).get("size"),
                "added": sizes.get(one.short, {}).get("added"),
            }
            for one in self._repository(where).snapshots()
            if stored.TAG in one.tags
        ]

    def locate(self, where: Place, backup: str, path: str) -> tuple[Stored, str]:
        """Find a file of a backup. `path` is absolute, as inside the instance. Raises NotFound, Unsupported."""
        repository = self._repository(where)
        found = _find(repository.snapshots(), backup)
        return found, self._locate(repository, found, path, folders=False)

    @contextmanager
    def content(self, where: Place, found: Stored, inside: str) -> Iterator[Iterator[bytes]]:
        """A file that `locate` found, in chunks."""
        with self._repository(where).dump(found.id, inside) as file:

            def chunks() -> Iterator[bytes]:
                while chunk := file.read(_CHUNK):
                    yield chunk

            yield chunks()

    # Changing

    def create(self, request: CreateRequest) -> Operation:
        """Back up one instance. Raises NotFound, Unsupported at once."""
        name = request.instance
        engine, archiving = self._facet(self._instances.inventory.engine_of(name))

        def work(task: Task) -> dict[str, Any]:
            with self._turn(task):
                return self._create(request, engine, archiving, task)

        data = {"repository": request.place.address, "engine": engine.name}
        return self._operations.submit("backup", f"instances/{name}", work, locks=[f"instances/{name}"], data=data)

    def _create(self, request: CreateRequest, engine: Engine, archiving: Archiving, task: Task) -> dict[str, Any]:
        name, where = request.instance, request.place
        task.step("repository", f"opening {where.address}")
        made_key = key.ensure(where.password_file) if where.made else False
        repository = self._repository(where)
        with self._making:
            made = repository.ensure()
        known = [] if made else repository.snapshots()
        instance = engine.get(name).instance
        task.intend(
            "backup",
            engine=engine.name,
            name=name,
            running=instance.state is State.RUNNING,
            repository=where.address,
            password_file=str(where.password_file),
            operation=task.operation.id,
        )
        intent = self._instances.intent(name)
        spec = self._spec_now(engine, name, intent["spec"]) if intent else None
        subject = Subject(
            engine=engine,
            archiving=archiving,
            instance=instance,
            spec=spec,
            volumes=included(spec or {}, self._storage),
        )
        result = Backup(subject, repository, task, self._folder).run(known)
        size = {"size": result["size"], "added": result["added"]}
        self._store.commit([Put(SIZES + result["backup"], size)], durable=False)
        if request.keep is not None:
            known = repository.snapshots()
            gone = repository.expired(f"instance:{name}", request.keep.words())
            self._remove(repository, known, gone, task)
        key_file = str(where.password_file)
        return {**result, "made_repository": made, "made_key": key_file if made_key else None, "key": key_file}

    def _spec_now(self, engine: Engine, name: str, asked: Mapping[str, Any]) -> dict[str, Any]:
        """What was asked for at the launch, with the limits set since."""
        now = self._limits.read(engine, name)
        rest = asdict(replace(now, cpus=None, memory=None))
        return {**asked, "cpus": now.cpus, "memory": now.memory, "limits": rest}

    def create_all(self, where: Place, keep: Keep | None = None) -> Operation:
        """Back up every instance that Triune made, one after the other, each by an operation of its own."""

        def one(name: str) -> Operation:
            return self.create(CreateRequest(instance=name, place=where, keep=keep))

        def work(task: Task) -> dict[str, Any]:
            task.step("select", "looking for instances")
            return Round(self._operations, one).run(self._instances.inventory.managed(), task)

        return self._submit("backup-all", where, work, locks=[f"backup-all/{where.address}"])

    def check_schedule(
        self, name: str, *, keep: Mapping[str, int], repository: str = "", password_file: str = ""
    ) -> None:
        """Raise at once what every run of such a schedule would raise; `name` "": every instance."""
        if name:
            self._facet(self._instances.inventory.engine_of(name))
        self.place(repository, password_file)
        parse_keep(keep)

    def scheduled(self, schedule: Schedule) -> Operation:
        """A run of a schedule: a backup, after which older ones go that its rule does not keep."""
        options = schedule.options
        where = self.place(str(options.get("repository", "")), str(options.get("password_file", "")))
        keep = parse_keep(schedule.keep)
        if not schedule.subject:
            return self.create_all(where, keep)
        return self.create(CreateRequest(instance=schedule.subject, place=where, keep=keep))

    def restore(self, request: RestoreRequest) -> Operation:
        """A backup as a new instance. Raises Invalid, Conflict at once; what is wrong with the backup later."""
        instance_name(request.name)
        self._instances.inventory.require_free(request.name)

        def work(task: Task) -> dict[str, Any]:
            with self._turn(task):
                return self._restore(request, task)

        resource = f"instances/{request.name}"
        data = {"repository": request.place.address, "backup": request.backup}
        return self._operations.submit("backup-restore", resource, work, locks=[resource], data=data)

    def _restore(self, request: RestoreRequest, task: Task) -> dict[str, Any]:
        task.step("repository", f"opening {request.place.address}")
        repository = self._repository(request.place)
        known = repository.snapshots()
        found = _find(known, request.backup)
        manifest = _manifest(repository, found)
        engine = self._engines.get(manifest.engine)
        if engine is None:
            raise Unsupported(
                "unknown_engine",
                f"the backup {found.short} needs the engine {manifest.engine}, which this host does not have",
                hint="See: triune doctor",
            )
        self._instances.inventory.require_free(request.name)
        engine, archiving = self._facet(engine)
        spec = spec_for(manifest, request, self._networks)
        if spec.networked:
            self._networks.check_ports(spec.name, spec.publish, native=engine.ports is not None)
        parts = Restoring(
            engine=engine,
            archiving=archiving,
            repository=repository,
            networks=self._networks,
            storage=self._storage,
            limits=self._limits,
            store=self._store,
        )
        return Restore(parts, request, task).run(found, manifest, spec, known)

    def verify(self, where: Place) -> Operation:
        """Read and check every byte of the repository; the result says what is damaged."""

        def work(task: Task) -> dict[str, Any]:
            task.step("verify", f"reading everything in {where.address}")
            return verify(self._repository(where), lambda fraction: task.report(fraction, "checking"))

        return self._submit("backup-verify", where, work)

    def prune(self, where: Place, keep: Keep, instance: str | None, *, dry_run: bool) -> Operation:
        """Let go of backups that the rule does not keep, of one instance or all, and free their space."""
        words = keep.words()

        def work(task: Task) -> dict[str, Any]:
            task.step("select", "choosing what may go")
            repository = self._repository(where)
            known = repository.snapshots()
            names = dict.fromkeys(one.instance for one in known if stored.TAG in one.tags)
            gone: list[str] = []
            for name in names:
                if instance in (None, name):
                    gone += repository.expired(f"instance:{name}", words)
            if not dry_run:
                self._remove(repository, known, gone, task)
            return {"removed": [_told(one) for one in known if one.id in gone], "dry_run": dry_run}

        return self._submit("backup-prune", where, work)

    def remove(self, where: Place, backup: str) -> Operation:
        """Remove one backup and free what only it needed."""

        def work(task: Task) -> dict[str, Any]:
            task.step("select", f"looking for {backup}")
            repository = self._repository(where)
            known = repository.snapshots()
            found = _find(known, backup, newest=False)
            self._remove(repository, known, [found.id], task)
            return {"removed": [_told(found)]}

        return self._submit("backup-remove", where, work)

    def extract(self, where: Place, backup: str, paths: Sequence[str], target: str) -> Operation:
        """Put files and folders of a backup into a folder of this host, each under its last name. Nothing that is there
        is replaced."""
        folder = Path(single_line(target, "the target"))
        if not folder.is_absolute() or not folder.is_dir():
            raise NotFound(
                "folder_not_found",
                f"there is no folder {target!r} on the host",
                hint=f"Make it: mkdir -p {shlex.quote(target)}",
            )

        def work(task: Task) -> dict[str, Any]:
            task.step("extract", f"extracting from {backup}")
            repository = self._repository(where)
            found = _find(repository.snapshots(), backup)
            scratch = folder / f"{_EXTRACT}{secrets.token_hex(8)}"
            task.intend("extract", folder=str(scratch))
            scratch.mkdir(mode=0o700)
            try:
                return {"extracted": [self._extract(repository, found, path, scratch, task) for path in paths]}
            finally:
                shutil.rmtree(scratch, ignore_errors=True)

        return self._submit("backup-extract", where, work)

    def _extract(self, repository: Repository, found: Stored, path: str, scratch: Path, task: Task) -> str:
        inside = self._locate(repository, found, path, folders=True)
        name = posixpath.basename(path.rstrip("/")) or found.instance
        target = scratch.parent / name
        if target.is_symlink() or target.exists():
            raise Conflict("file_exists", f"there is a {target} already", hint="Extract into another folder.")
        lost = repository.restore(found.id, inside, scratch, lambda: task.report(None, f"extracting {path}"))
        if lost:
            raise damaged(found, lost)
        dig_holes(scratch / inside.strip("/"), task.check)
        (scratch / inside.strip("/")).rename(target)
        return str(target)

    # Parts

    def _submit(
        self, kind: str, where: Place, work: Callable[[Task], dict[str, Any]], *, locks: Sequence[str] = ()
    ) -> Operation:
        data = {"repository": where.address}
        return self._operations.submit(kind, f"backups/{where.address}", work, locks=locks, data=data)

    def _repository(self, where: Place) -> Repository:
        missing = is_missing()
        if missing:
            raise Unsupported("tool_missing", missing, hint="Run: triune setup")
        if not where.password_file.is_file():
            raise NotFound(
                "key_not_found",
                f"there is no key {where.password_file} to open {where.address} with",
                hint="Name the file with the repository's key: --password-file FILE",
            )
        variables = key.environment(self._settings.environment_file)
        return Repository(where, cache=self._folder / "cache", stage=self._folder / "stage", variables=variables)

    @contextmanager
    def _turn(self, task: Task) -> Iterator[None]:
        """Wait until few enough others read and write."""
        if not self._turns.acquire(blocking=False):
            task.step("wait", "waiting for other backups")
            while not self._turns.acquire(timeout=_PATIENCE):
                task.check()
        try:
            yield
        finally:
            self._turns.release()

    @staticmethod
    def _facet(engine: Engine) -> tuple[Engine, Archiving]:
        return engine, require_facet(engine, "archiving", engine.archiving)

    def _locate(self, repository: Repository, found: Stored, path: str, *, folders: bool) -> str:
        """Where in the repository a path inside an instance is. Raises NotFound, Invalid, Unsupported."""
        if not path.startswith("/") or ".." in path.split("/") or "\0" in path:
            raise Invalid("bad_path", f"{path!r} is not an absolute path", hint="Write it like /etc/hostname.")
        manifest = _manifest(repository, found)
        tried = candidates(manifest, posixpath.normpath(path))
        if not tried:
            raise Unsupported(
                "files_in_disk",
                f"{found.instance} was backed up as a disk, whose file system only a system can read",
                hint=f"Restore it under another name and read the file there: "
                f"triune backup restore {found.short} --name NEW --start",
            )
        wanted = ("file", "dir", "symlink") if folders else ("file",)
        here = next((inside for inside in tried if repository.kind(found.id, inside) in wanted), None)
        if here is not None:
            return here
        raise NotFound(
            "path_not_found",
            f"the backup {found.short} of {found.instance} has no {'' if folders else 'file '}{path}",
            hint="Symbolic links are not followed: name the file they lead to. Of a container, only what differs from "
            "its image is in its backup, and its volumes.",
        )

    def _remove(self, repository: Repository, known: Sequence[Stored], gone: Sequence[str], task: Task) -> None:
        """Forget backups, what unfinished ones left, and images that no backup stands on; then free the space."""
        left = [one for one in known if stored.TAG in one.tags and one.id not in gone]
        used = {one.labels.get("image") for one in left}
        live = {f"operation:{one.id}" for one in self._operations.list(running=True)}
        swept = [
            one.id
            for one in known
            if not live & set(one.tags)
            if stored.PASSING in one.tags or (stored.IMAGE_TAG in one.tags and one.labels.get("image") not in used)
        ]
        task.step("forget", f"removing {len(gone)} backups")
        task.shield()
        repository.forget([*gone, *swept])
        self._store.commit([Delete(SIZES + identity[: stored.SHORT]) for identity in gone], durable=False)
        task.step("prune", "freeing space")
        repository.prune(lambda fraction: task.report(fraction, "freeing space"))

    def _abandon(self, data: Mapping[str, Any]) -> None:
        """After a failure or a crash: let the instance go on, and forget what was stored so far."""
        archiving = self._engines[data["engine"]].archiving
        if archiving is not None:
            archiving.abandon(data["name"], running=bool(data["running"]))
        where = Place(address=data["repository"], password_file=Path(data["password_file"]))
        if where.folder is None or not where.folder.is_dir():
            return  # a pruning sweeps it: a restart must not wait for a host that is away
        try:
            repository = self._repository(where)
            tag = f"operation:{data['operation']}"
            repository.forget([one.id for one in repository.snapshots() if tag in one.tags])
        except TriuneError as error:
            log.warning("what the backup of %s left in %s stays until it is pruned: %s", data["name"], where, error)

    def _discard(self, data: Mapping[str, Any]) -> None:
        archiving = self._engines[data["engine"]].archiving
        if archiving is not None:
            archiving.discard(data["name"])
        forget_folder(data)
        self._instances.forget(data["name"])


def candidates(manifest: Manifest, path: str) -> list[str]:
    """Where a path inside an instance may be in its backup: on the mount that has it, or in its root.

    `described["mounts"]` says where parts other than the root are seen inside: {PART: PATH}.
    """
    trees = [part.name for part in manifest.parts if part.kind is PartKind.TREE]
    told = manifest.described.get("mounts")
    mounts = {str(part): str(at).rstrip("/") for part, at in told.items()} if isinstance(told, dict) else {}
    mounts |= {str(one["part"]): str(one["target"]).rstrip("/") for one in manifest.volumes}
    found = [
        (at, f"/{part}{path[len(at) :]}".rstrip("/"))
        for part, at in mounts.items()
        if part in trees and (path == at or path.startswith(f"{at}/"))
    ]
    if found:
        return [max(found)[1]]
    return [f"/{part}{path}".rstrip("/") for part in trees if part not in mounts]


def _manifest(repository: Repository, found: Stored) -> Manifest:
    return manifests.parse(repository.read(found.id, f"/{manifests.NAME}"), found.short)


def _find(known: Sequence[Stored], backup: str, *, newest: bool = True) -> Stored:
    """A backup by the beginning of its id, or (`newest`) an instance's newest. Raises NotFound, Conflict."""
    shown = [one for one in known if stored.TAG in one.tags]
    found = [one for one in shown if is_id(backup) and one.id.startswith(backup)]
    if not found and newest:
        found = [one for one in shown if one.instance == backup][-1:]
    if not found:
        raise NotFound(
            "backup_not_found",
            f"the repository has no backup {single_line(backup, 'the backup')!r}",
            hint="See what there is: triune backup list",
        )
    if len(found) > 1:
        raise Conflict("backup_ambiguous", f"several backups begin with {backup}", hint="Write more of its id.")
    return found[0]


def _told(one: Stored) -> dict[str, Any]:
    return {"backup": one.short, "instance": one.instance, "time": one.time.isoformat()}


def _forget_extract(data: Mapping[str, Any]) -> None:
    folder = Path(str(data["folder"]))
    if folder.name.startswith(_EXTRACT):
        shutil.rmtree(folder, ignore_errors=True)
