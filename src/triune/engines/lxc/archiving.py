"""The `archiving` facet: a container's whole root as a backup reads it, with ids as seen inside.

A root of layers is read through an overlay of its own, read only, over the image's tree and an id-mapped view of the
upper layer; a whole root is read where it is. Both are the living data, so a running container is frozen for the second
pass; the view is mounted anew for it, because an overlay keeps what it saw of layers that changed. A btrfs subvolume is
read from a snapshot, and a stopped container in one pass.

    FOLDER/archive/own     the upper layer (or an adopted root) with ids as seen inside
    FOLDER/archive/root    what the backup reads
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from triune.domain.errors import Failed, Invalid, TriuneError, Unsupported
from triune.domain.image import TreeForm
from triune.domain.instance import InstanceSpec, State
from triune.domain.names import instance_name
from triune.domain.operation import Progress
from triune.domain.pool import PoolDriver
from triune.domain.snapshot import Consistency
from triune.engines.archiving import Archive, Part, PartKind, RestorePlan, started_meanwhile
from triune.engines.base import LaunchPlan
from triune.engines.lxc import claims, holding, layers, places, restoring, roots, seed, spec
from triune.engines.lxc import mark as marks
from triune.engines.lxc import settings as settings_module
from triune.engines.lxc.client import Client
from triune.engines.lxc.lifecycle import Lifecycle
from triune.engines.lxc.mark import Mark
from triune.host import btrfs, copytree, idmap, overlay, subvolumes
from triune.host.idmap import IdRange

ROOT = "root"
_FORMAT = 1


class LxcArchiving:
    """Backups of containers."""

    def __init__(self, client: Client, lifecycle: Lifecycle, state_dir: Path) -> None:
        self._client = client
        self._lifecycle = lifecycle
        self._state_dir = state_dir

    def describe(self, name: str) -> Mapping[str, object]:
        """`{format, name, image, init, machine_id, cards, settings, disk}`, and `spec` of an adopted one."""
        folder = self._client.require(name)
        items = list(spec.parse((folder / "config").read_text(errors="replace")))
        described: dict[str, object] = {
            "format": _FORMAT,
            "name": name,
            "init": dict(items).get("lxc.init.cmd", "/sbin/init"),
        }
        mark = marks.read(folder)
        if mark is None:
            return described | {"spec": _adopted_spec(name, items)}
        return described | {
            "image": mark.image,
            "machine_id": mark.machine_id,
            "cards": [asdict(card) for card in mark.cards],
            "settings": dict(mark.settings),
            "disk": mark.disk,
        }

    def open(self, name: str, base: str | None, progress: Progress) -> Archive:
        """Give access to its root; every backup reads all of it anew."""
        del base
        folder = self._client.require(name)
        mark = marks.read(folder)
        if mark and mark.pool:
            places.require(mark.pool)
        if mark:
            restoring.settle(folder, mark)
        self._clear(folder)
        progress.step("lxc-archive", f"opening the root of {name}")
        try:
            return _Archive(self._client, folder, mark)
        except BaseException:
            self._clear(folder)
            raise

    def abandon(self, name: str, *, running: bool) -> None:
        """Let go of what a backup left."""
        folder = self._client.folder(name)
        if not (folder / "config").is_file():
            return
        holding.let_go(self._client, name)
        if running and self._client.state(name) is State.PAUSED:
            self._client.unfreeze(name)
        self._clear(folder)

    def _clear(self, folder: Path) -> None:
        layers.unmount_archive(folder)
        archive = folder / "archive"
        for tree in roots.folders(archive):
            roots.remove(tree)
        roots.remove(archive)
        if (mark := marks.read(folder)) is not None:
            roots.remove(mark.data(folder) / "archived")

    def place(self, plan: RestorePlan) -> Path:
        """A folder beside where containers' data is."""
        places.check(plan.pool, None, plan.spec.name)
        place = places.folder(plan.pool, self._client.path)
        place.mkdir(parents=True, exist_ok=True, mode=0o711)
        return place

    def restore(self, plan: RestorePlan, progress: Progress) -> None:
        """Make a stopped container with a whole root of its own. Steps: lxc-tree, lxc-mount, lxc-config."""
        name = instance_name(plan.spec.name)
        folder = self._client.folder(name)
        claims.require_free(folder)
        tree = plan.parts.get(ROOT)
        if tree is None or not tree.is_dir():
            raise Failed("no_root", f"the backup of {name} has no root tree", hint="Verify the repository.")
        launch = self._plan(plan, tree)
        self._lifecycle.check(launch)
        self._lifecycle.delete(name)
        try:
            with roots.telling(folder):
                claims.claim(folder)
                self._build(launch, plan, folder, progress)
        except BaseException:
            with suppress(TriuneError, OSError):
                self._lifecycle.delete(name)
            raise

    def discard(self, name: str) -> None:
        """Undo `restore`."""
        self._lifecycle.delete(name)

    def _plan(self, plan: RestorePlan, tree: Path) -> LaunchPlan:
        if plan.described.get("format", _FORMAT) != _FORMAT:
            raise Unsupported(
                "archive_format",
                f"the backup of {plan.spec.name} was made by a newer Triune",
                hint="Restore it there, or install that version here.",
            )
        limited = plan.pool is not None and plan.pool.driver is PoolDriver.BTRFS
        return LaunchPlan(
            spec=plan.spec if limited else replace(plan.spec, disk=None),
            form=TreeForm(path=tree, init=str(plan.described.get("init", "/sbin/init"))),
            image=plan.image,
            created=plan.created,
            nics=plan.nics,
            machine_id=plan.machine_id,
            pool=plan.pool,
        )

    def _build(self, launch: LaunchPlan, plan: RestorePlan, folder: Path, progress: Progress) -> None:
        given = settings_module.parse(launch.spec.settings)
        before = _described_mark(plan.described)
        with layers.locked(self._state_dir):
            mark = Mark(
                image=plan.image,
                created=plan.created,
                tree=Path("/"),
                lower=Path("/"),
                state_dir=self._state_dir,
                id_map=self._lifecycle.ids(given),
                settings=dict(launch.spec.settings),
                machine_id=plan.machine_id or before.machine_id,
                cards=tuple(spec.cards(plan.nics)),
                publish=tuple(str(port) for port in launch.spec.publish),
                volumes=tuple(spec.binds(launch.spec.volumes)),
                pool=plan.pool,
                whole=True,
                disk=launch.spec.disk,
            )
            marks.write(folder, mark)
        items = spec.config_items(launch, given, mark.id_map, claims.host_facts(folder))
        progress.step("lxc-tree", "putting its root in place")
        layers.make_folders(folder, mark)
        _take(plan.parts[ROOT], mark.own(folder), mark, progress)
        claims.write_hooks(folder)
        progress.step("lxc-mount", "mounting its root and giving it its addresses")
        layers.mount_root(folder, mark)
        old = str(plan.described.get("name", folder.name))
        if mark.machine_id != before.machine_id:
            seed.reseed(mark.writable(folder), folder.name, old, before, mark)
        else:
            seed.readdress(mark.writable(folder), folder.name, old, before, mark)
        marks.write(folder, replace(mark, seeded=True))
        progress.step("lxc-config", "writing its configuration")
        marks.write_file(folder / "config", spec.serialise(items).encode(), 0o644)


def _described_mark(described: Mapping[str, object]) -> Mark:
    """As much of the mark of then as a new identity must know. Raises Invalid on what `describe` never wrote."""
    cards: Any = described.get("cards", [])
    try:
        return Mark(
            image="",
            created=datetime.now(UTC),
            tree=Path("/"),
            lower=Path("/"),
            state_dir=Path("/"),
            id_map=None,
            machine_id=str(described.get("machine_id", "")),
            cards=tuple(marks.Card(**card) for card in cards),
        )
    except TypeError:
        raise Invalid("bad_backup", "the description in the backup is damaged", hint="Verify the repository.") from None


def _take(tree: Path, own: Path, mark: Mark, progress: Progress) -> None:
    """Move the restored tree where it belongs, or copy it into a subvolume of its own."""
    if mark.pool is not None and mark.pool.driver is PoolDriver.BTRFS:
        btrfs.create(own)
        copytree.copy_tree(tree, own, progress.check)
        roots.set_limit(own, mark.disk)
        return
    try:
        tree.rename(own)
    except OSError:
        copytree.copy_tree(tree, own, progress.check)


def _adopted_spec(name: str, items: list[tuple[str, str]]) -> dict[str, object]:
    """What InstanceSpec can say of a container made by hand."""
    limits = spec.limits(items)
    mapped = any(key == "lxc.idmap" for key, _ in items)
    asked = InstanceSpec(
        name=name,
        image="",
        engine="lxc",
        cpus=limits.cpus,
        memory=limits.memory_bytes,
        settings={} if mapped else {"privileged": "true"},
    )
    return asdict(asked)


class _Archive:
    """One container's root, open for reading."""

    def __init__(self, client: Client, folder: Path, mark: Mark | None) -> None:
        self._client = client
        self._folder = folder
        self._mark = mark
        self._hold: holding.Hold | None = None
        self._snapshot = mark is not None and mark.whole and btrfs.is_subvolume(mark.own(folder))
        self._stopped = not self._snapshot and client.state(folder.name) is State.STOPPED
        self.still = self._snapshot or self._stopped
        self.consistency: str = (Consistency.STOPPED if self._stopped else Consistency.CRASH).value
        self._path = self._open()
        self.parts: Sequence[Part] = (Part(kind=PartKind.TREE, name=ROOT, path=self._path),)

    def _open(self) -> Path:
        mark, folder = self._mark, self._folder
        if mark is None:
            return _adopted_view(folder)
        own = mark.own(folder)
        if self._snapshot:
            with holding.held(self._client, folder.name) as hold:
                if hold.consistency is not Consistency.STOPPED:
                    holding.write_out(own)
                archived = mark.data(folder) / "archived"
                subvolumes.snapshot(own, archived, read_only=True)
            self.consistency = hold.consistency.value
            return archived
        if mark.whole:
            return own
        _mount_view(folder, mark)
        return folder / "archive" / ROOT

    def hold(self) -> None:
        """Freeze it, and look at its layers anew."""
        if self.still or self._hold is not None:
            return
        self._hold = holding.Hold(self._client, self._folder.name)
        self.consistency = self._hold.consistency.value
        if self._mark is not None and not self._mark.whole:
            layers.unmount_archive(self._folder)
            _mount_view(self._folder, self._mark)

    def release(self) -> None:
        """Let it go on. Raises Conflict("instance_started") where it was stopped, and was not left alone."""
        if self._stopped and self._client.state(self._folder.name) is not State.STOPPED:
            raise started_meanwhile(self._folder.name)
        self._let_go()

    def _let_go(self) -> None:
        if self._hold is not None:
            self._hold.release()
            self._hold = None

    def keep(self, backup: str) -> None:
        """Nothing to remember: what has not changed is told by inode and time."""
        del backup

    def close(self) -> None:
        """Release, unmount, and remove the snapshot."""
        self._let_go()
        layers.unmount_archive(self._folder)
        with suppress(TriuneError, OSError):
            for tree in roots.folders(self._folder / "archive"):
                roots.remove(tree)
            roots.remove(self._folder / "archive")
            if self._mark is not None:
                roots.remove(self._mark.data(self._folder) / "archived")


def _mount_view(folder: Path, mark: Mark) -> None:
    """Mount the whole root of a container of layers, ids as seen inside."""
    view, own = folder / "archive" / ROOT, folder / "archive" / "own"
    for place in (view, own):
        place.mkdir(parents=True, exist_ok=True, mode=0o700)
    upper = mark.own(folder)
    try:
        if mark.id_map is not None:
            ids = IdRange(base=0, count=mark.id_map.count, inside=mark.id_map.base)
            idmap.bind(upper, own, ids, read_only=True, devices=False)
            upper = own
        overlay.mount_view((upper, mark.tree), view)
    except OSError as error:
        raise Failed(
            "archive_mount",
            f"the root of {folder.name} can't be opened for a backup: {error.strerror}",
            hint=f"See whether {mark.tree} is there, and: triune doctor",
        ) from None


def _adopted_view(folder: Path) -> Path:
    """The root of a container made by hand, where that is a folder; ids as seen inside."""
    items = list(spec.parse((folder / "config").read_text(errors="replace")))
    path = Path(dict(items).get("lxc.rootfs.path", "").removeprefix("dir:"))
    if not path.is_absolute() or not path.is_dir():
        raise Unsupported(
            "adopted_root",
            f"{folder.name} was made by hand and its root is not a folder, so it can't be read for a backup",
            hint="Copy it into a folder first: lxc-copy -B dir",
        )
    ranges = [value.split() for key, value in items if key == "lxc.idmap"]
    shifted = [int(fields[2]) for fields in ranges if fields[0] == "u" and fields[1] == "0"]
    counts = [int(fields[3]) for fields in ranges if fields[0] == "u" and fields[1] == "0"]
    if not shifted or dict(items).get("lxc.rootfs.options", "").find("idmap=") >= 0:
        return path
    own = folder / "archive" / "own"
    own.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        idmap.bind(path, own, IdRange(base=0, count=counts[0], inside=shifted[0]), read_only=True, devices=False)
    except OSError as error:
        raise Failed(
            "archive_mount",
            f"the root of {folder.name} can't be opened for a backup: {error.strerror}",
            hint="Run: triune doctor",
        ) from None
    return own
