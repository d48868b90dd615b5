"""Making, starting, stopping, renaming and removing containers."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from triune.domain.errors import Conflict, Failed, Invalid, TriuneError, Unsupported
from triune.domain.image import TreeForm
from triune.domain.instance import State
from triune.domain.names import instance_name
from triune.domain.operation import Progress
from triune.engines.base import LaunchPlan
from triune.engines.lxc import claims, detail, layers, places, restoring, roots, seed, spec
from triune.engines.lxc import mark as marks
from triune.engines.lxc import settings as settings_module
from triune.engines.lxc.client import Client
from triune.engines.lxc.mark import Mark
from triune.engines.lxc.settings import Settings
from triune.host import cgroup, cgroup_limits, overlay, quotas
from triune.host.idmap import IdRange

_POLL_S = 0.03
_KILL_PATIENCE_S = 15.0
# Written beside `config` before a rename moves the folder, and put in its place after.
_RENAMED_CONFIG = "config.renamed"


class Lifecycle:
    """What changes containers. Calls for one name must not overlap: the caller locks names."""

    def __init__(self, client: Client, state_dir: Path) -> None:
        self._client = client
        self._state_dir = state_dir

    # making

    def check(self, plan: LaunchPlan) -> None:
        """Raise Invalid or Unsupported if `create` would refuse."""
        given = self._accept(plan)
        ids = None if given.privileged else claims.shared_range()
        spec.serialise(spec.config_items(plan, given, ids, claims.host_facts(self._client.folder(plan.spec.name))))

    def _accept(self, plan: LaunchPlan) -> Settings:
        """Everything that can be said without looking at id ranges; returns the parsed settings."""
        instance_name(plan.spec.name)
        if not isinstance(plan.form, TreeForm):
            raise Invalid("wrong_form", "a system container starts from a root tree", hint="Use an image with one.")
        if not plan.form.path.is_dir():
            raise Failed(
                "tree_missing", f"the tree {plan.form.path} of {plan.image} is not there", hint="Build it again."
            )
        self._client.binding()
        given = settings_module.parse(plan.spec.settings)
        if plan.spec.command:
            raise Unsupported(
                "command_unsupported",
                "a system container starts its image's init; a command can't take its place",
                hint="Leave out the command and run it afterwards with triune exec.",
            )
        places.check(plan.pool, plan.spec.disk, plan.spec.name)
        if plan.user_data is not None and not plan.form.cloud_init:
            raise Unsupported(
                "no_cloud_init",
                f"{plan.image} has no cloud-init to read user data",
                hint="Build an image with it: triune image build --package cloud-init",
            )
        if given.apparmor not in (None, "unconfined") and not detail.apparmor_enabled():
            raise Unsupported("no_apparmor", "this kernel has no AppArmor", hint="Leave out the setting apparmor.")
        _require_controllers(plan)
        _require_volumes(plan)
        return given

    def create(self, plan: LaunchPlan, progress: Progress) -> None:
        """Make it, stopped; undo everything when that fails."""
        given = self._accept(plan)
        name = plan.spec.name
        folder = self._client.folder(name)
        claims.require_free(folder)
        self.delete(name)
        progress.step("lxc-lower", "sharing the image's tree")
        claims.claim(folder)
        try:
            self._build(plan, given, folder, progress)
        except BaseException:
            with suppress(TriuneError, OSError):
                self.delete(name)
            raise

    def _build(self, plan: LaunchPlan, given: Settings, folder: Path, progress: Progress) -> None:
        with layers.locked(self._state_dir):
            mark = self._mark(plan, given)
            # The mark first: it is the claim on the id range and on the shared layer.
            marks.write(folder, mark)
            layers.mount_lower(mark)
        items = spec.config_items(plan, given, mark.id_map, claims.host_facts(folder))
        progress.step("lxc-upper", "making its own layer")
        layers.make_folders(folder, mark)
        roots.make(folder, mark, progress.check)
        claims.write_hooks(folder)
        progress.step("lxc-mount", "mounting its root and giving it an identity")
        layers.mount_root(folder, mark)
        assert isinstance(plan.form, TreeForm)  # noqa: S101 - `_accept` has refused other forms
        seed.seed(mark.writable(folder), plan.spec.name, mark, plan.user_data, plan.form)
        marks.write(folder, replace(mark, seeded=True))
        # Last, so that a container LXC sees is a complete one.
        progress.step("lxc-config", "writing its configuration")
        marks.write_file(folder / "config", spec.serialise(items).encode(), 0o644)

    def _mark(self, plan: LaunchPlan, given: Settings) -> Mark:
        assert isinstance(plan.form, TreeForm)  # noqa: S101 - `_accept` has refused other forms
        ids = self.ids(given)
        whole = places.whole(plan.pool)
        tree = plan.form.path
        return Mark(
            image=plan.image,
            created=plan.created,
            tree=tree,
            lower=roots.image_path(plan.pool, tree) if whole else layers.lower_path(self._state_dir, tree, ids),
            state_dir=self._state_dir,
            id_map=ids,
            settings=dict(plan.spec.settings),
            machine_id=plan.machine_id,
            cards=tuple(spec.cards(plan.nics)),
            publish=tuple(str(port) for port in plan.spec.publish),
            volumes=tuple(spec.binds(plan.spec.volumes)),
            pool=plan.pool,
            whole=whole,
            disk=plan.spec.disk,
        )

    def ids(self, given: Settings) -> IdRange | None:
        """The id range these settings ask for; the lock must be held until it is in a mark."""
        if given.privileged:
            return None
        return claims.own_range(self._client.path) if given.isolated else claims.shared_range()

    # running

    def start(self, name: str) -> None:
        """Start it; nothing to do when it runs."""
        folder = self._client.require(name)
        self._settle(folder)
        if name in self._client.active():
            return
        if (mark := marks.read(folder)) is not None:
            layers.mount_root(folder, mark)
            if mark.disk is not None:
                quotas.tidy(mark.own(folder))
        self._client.start(name)
        if name not in self._client.active():
            raise Failed("start_failed", f"{name} ended as soon as it had started", hint=f"See why: triune logs {name}")

    def stop(self, name: str, timeout: float, force: bool, progress: Progress) -> None:
        """Shut it down, as `Engine.stop` says."""
        self._client.require(name)
        if name not in self._client.active():
            return
        if timeout > 0 or not force:
            if self._client.state(name) is State.PAUSED:
                self._client.unfreeze(name)
            if self._shut_down_within(name, timeout, progress):
                return
        if not force:
            raise Failed(
                "stop_timeout",
                f"{name} did not shut down within {timeout:g} s",
                hint=f"Kill it: triune stop {name} --force",
            )
        self.kill(name)

    def _shut_down_within(self, name: str, timeout: float, progress: Progress) -> bool:
        """Ask, and ask again after 1, 2, 4, … seconds: an init that is only starting loses the signal."""
        deadline = time.monotonic() + timeout
        patience = 1.0
        while True:
            self._client.ask_shutdown(name)
            left = deadline - time.monotonic()
            if self._stopped_within(name, min(patience, left), progress):
                return True
            if left <= patience:
                return False
            patience *= 2

    def kill(self, name: str) -> None:
        """Kill all its processes and wait until LXC has let go of it. Stopped: nothing to do."""
        if name not in self._client.active():
            return
        self._client.kill(name)
        if not self._stopped_within(name, _KILL_PATIENCE_S, None):
            raise Failed("kill_failed", f"{name} could not be killed", hint=f"See its processes: lxc-info -n {name}")

    def _stopped_within(self, name: str, timeout: float, progress: Progress | None) -> bool:
        deadline = time.monotonic() + timeout
        while name in self._client.active():
            if progress:
                progress.check()
            if time.monotonic() >= deadline:
                return False
            time.sleep(_POLL_S)
        return True

    # renaming

    def rename(self, name: str, new: str) -> None:
        """Rename a stopped container. A crash leaves it under one name or the other, whole."""
        instance_name(new)
        folder = self._client.require(name)
        self._settle(folder)
        target = self._client.folder(new)
        if target.exists():
            raise Conflict("instance_exists", f"there is {new!r} already", hint="Choose another name.")
        if name in self._client.active():
            raise Conflict(
                "instance_running", f"{name} is running and keeps its name", hint=f"Stop it: triune stop {name}"
            )
        mark = marks.read(folder)
        if mark:
            layers.unmount_root(folder)
            _require_no_data(mark, target)
        elif overlay.is_mounted(folder / "rootfs"):
            raise Unsupported(
                "rename_mounted",
                f"{name} keeps its root in a file system of its own, mounted at {folder / 'rootfs'}",
                hint="Unmount it first, and give its configuration the new path after.",
            )
        # Not by lxc-copy --rename: that copies the whole root to another folder and destroys the first.
        text = spec.renamed((folder / "config").read_text(), folder, target)
        marks.write_file(folder / _RENAMED_CONFIG, text.encode(), 0o644)
        if mark and mark.pool:
            mark.data(folder).rename(mark.data(target))
        folder.rename(target)
        self._settle(target)
        if mark:
            layers.mount_root(target, mark)
            seed.rename(mark.writable(target), name, new, mark)

    def _settle(self, folder: Path) -> None:
        """Finish or forget a rename or a restore that was cut off."""
        pending = folder / _RENAMED_CONFIG
        try:
            items = dict(spec.parse(pending.read_text()))
        except FileNotFoundError:
            items = {}
        if items and items.get("lxc.uts.name") == folder.name:
            pending.rename(folder / "config")
        elif items:
            _take_data_back(folder, items.get("lxc.uts.name", folder.name))
            pending.unlink()
        if (mark := marks.read(folder)) is not None:
            restoring.settle(folder, mark)

    # removing

    def delete(self, name: str) -> None:
        """Remove it and everything of it, however far it had come. Gone: succeed."""
        folder = self._client.folder(name)
        if "/" in name or name in ("", ".", "..") or not folder.is_dir():
            return
        mark = marks.read(folder)
        if mark is None and (folder / "config").exists():
            self._destroy_adopted(name)
            return
        if mark is None:
            _remove_claim(folder)
            return
        self.kill(name)
        layers.unmount_root(folder)
        layers.unmount_archive(folder)
        overlay.unmount(folder / roots.SHIFTED)
        (folder / "config").unlink(missing_ok=True)
        roots.remove_data(folder, mark)
        for entry in list(os.scandir(folder)):
            if entry.is_dir(follow_symlinks=False):
                roots.remove(Path(entry.path))
            elif entry.name != marks.FILE:
                Path(entry.path).unlink(missing_ok=True)
        layers.release_lower(self._client.path, mark, folder)
        roots.release_image(self._client.path, mark, folder)
        # The mark last: as long as it is there, a second call goes on where this one was cut off.
        (folder / marks.FILE).unlink()
        folder.rmdir()

    def _destroy_adopted(self, name: str) -> None:
        self.kill(name)
        self._client.tool("lxc-destroy", name, check=True)


def _remove_claim(folder: Path) -> None:
    """Remove a folder whose making got no further than the mark's temporary file; anything else is not ours."""
    (folder / f".{marks.FILE}.new").unlink(missing_ok=True)
    with suppress(OSError):
        folder.rmdir()


def _require_no_data(mark: Mark, target: Path) -> None:
    if mark.pool and mark.data(target).exists():
        raise Conflict(
            "folder_taken",
            f"{mark.data(target)} exists already and belongs to no container",
            hint="Move it away, or choose another name.",
        )


def _take_data_back(folder: Path, new: str) -> None:
    """Undo the first half of a rename: the data in a pool had the new name already."""
    mark = marks.read(folder)
    if mark and mark.pool:
        there = mark.data(folder.with_name(new))
        if there.exists() and not mark.data(folder).exists():
            there.rename(mark.data(folder))


def _require_controllers(plan: LaunchPlan) -> None:
    missing = cgroup_limits.missing(cgroup.hierarchies())
    asked = replace(plan.spec.limits, cpus=plan.spec.cpus, memory=plan.spec.memory).by_key()
    for key in asked:
        if key in missing:
            raise Unsupported("no_controller", f"{key} can't be limited: {missing[key]}", hint=f"Leave {key} out.")


def _require_volumes(plan: LaunchPlan) -> None:
    for volume in spec.binds(plan.spec.volumes):
        if not Path(volume.source).exists():
            raise Invalid(
                "volume_missing", f"there is no {volume.source} on this host", hint=f"Run: mkdir -p {volume.source}"
            )
