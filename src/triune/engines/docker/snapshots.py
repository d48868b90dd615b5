"""Snapshots of containers: the writable layer, committed as an image and kept exactly, and copies of the volumes.

Docker pauses nothing but processes, so what is on disk is as after a power cut that every program survived
(`frozen`). A restore makes the container anew on its own image with the kept layer: two containers exist for a moment,
the old one steps aside only when the new one is complete, and goes last. With the running state (`processes`), the new
one goes on where the kept processes were, before the old one goes.
"""

from __future__ import annotations

import builtins
import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from triune.domain.errors import Conflict, Failed, NotFound, TriuneError, Unsupported
from triune.domain.names import single_line, snapshot_name
from triune.domain.operation import Progress
from triune.domain.snapshot import Consistency, Snapshot
from triune.engines.docker import recreate, trees
from triune.engines.docker.client import DockerClient
from triune.engines.docker.containers import NEW, OLD, Described, describe
from triune.engines.docker.kept import LABEL, Kept, Shelf, repository
from triune.engines.docker.layers import layer
from triune.engines.docker.processes import Processes
from triune.host.beneath import disk_usage
from triune.host.copytree import copy_tree

log = logging.getLogger(__name__)

_PAUSED = "paused"


class DockerSnapshots:
    """The facet. The running state needs CRIU: see `processes`."""

    def __init__(self, client: DockerClient, shelf: Shelf) -> None:
        self._client = client
        self._shelf = shelf
        self._processes = Processes(client)

    @property
    def memory(self) -> bool:
        """Whether CRIU works here, and the engine lets it."""
        return self._processes.why_not() is None

    def create(self, name: str, snapshot: Snapshot, progress: Progress) -> Snapshot:
        """Pause it, write down its processes if asked for, copy, commit, and let it go on."""
        snapshot_name(snapshot.name)
        single_line(snapshot.comment, "the comment")
        found = describe(self._client, name)
        _refuse(found)
        if self._shelf.find(name, snapshot.name) is not None:
            raise Conflict(
                "snapshot_exists", f"{name} has a snapshot {snapshot.name!r} already", hint="Choose another name."
            )
        if snapshot.memory:
            self._processes.require(found)
        uid, folder = self._shelf.open(name, snapshot.name)
        try:
            with self.held(found, folder) as consistency:
                taken = replace(snapshot, consistency=consistency, size=0)
                if snapshot.memory:
                    progress.step("docker-processes", f"writing down the processes of {name}")
                    size = self._processes.write(found, folder)
                    taken = replace(taken, consistency=Consistency.MEMORY, size=size)
                kept = self._copy(found, taken, uid, folder, progress)
                progress.step("docker-commit", f"committing the layer of {name}")
                self._commit(name, found, kept)
            if snapshot.memory:
                progress.step("docker-memory", f"keeping what was written of {name}")
                self._processes.fetch(found, folder, progress.check)
        except BaseException:
            self._undo(name, str(found["Id"]), snapshot.name)
            raise
        return kept.snapshot

    def _undo(self, name: str, container: str, snapshot: str) -> None:
        for folder in self._shelf.begun(name, snapshot):
            self.release(folder)
            self._processes.drop(container, folder)
        self._shelf.drop(name, snapshot)

    @contextmanager
    def held(self, found: Described, folder: Path) -> Iterator[Consistency]:
        """A running container stands still meanwhile, and others that share a volume of it. `folder` remembers which,
        for the case that we die."""
        if not found["State"].get("Running"):
            yield Consistency.STOPPED
            return
        ids = [str(found["Id"])] if not found["State"].get("Paused") else []
        ids += self._sharing(found)
        (folder / _PAUSED).write_text("\n".join(ids))
        try:
            for container in ids:
                self._client.act(lambda api: api.pause(container))  # noqa: B023 - called here
            yield Consistency.FROZEN
        finally:
            self.release(folder)

    def _sharing(self, found: Described) -> list[str]:
        """Running containers that mount a volume of this one: what they do to it now would be torn, and a folder they
        swap for a link would lead the copy out of the volume."""
        own = {str(tree.path) for tree in trees.volumes(self._client, found)}
        return [
            str(entry["Id"])
            for entry in self._client.read(lambda api: api.containers(filters={"status": "running"}))
            if entry.get("Id") != found["Id"]
            and any(str(mount.get("Source") or "") in own for mount in entry.get("Mounts") or ())
        ]

    def release(self, folder: Path) -> None:
        """Let go what was held still for this folder."""
        with suppress(FileNotFoundError):
            for container in (folder / _PAUSED).read_text().split():
                with suppress(Conflict, NotFound):  # it is not paused (any more), or gone
                    self._client.act(lambda api: api.unpause(container))  # noqa: B023 - called here
            (folder / _PAUSED).unlink()

    def _copy(self, found: Described, taken: Snapshot, uid: str, folder: Path, progress: Progress) -> Kept:
        name = str(found["Name"]).removeprefix("/")
        upper = layer(self._client, found)
        if upper is not None:
            progress.step("docker-layer", f"copying the layer of {name}")
            copy_tree(upper, folder / "layer", progress.check)
        trees.require_unraced(self._client, found)
        volumes = {}
        for number, tree in enumerate(trees.volumes(self._client, found)):
            progress.step("docker-volume", f"copying the volume at {tree.target} of {name}")
            copy_tree(tree.path, folder / f"volume-{number}", progress.check)
            volumes[str(number)] = (tree.target, tree.name)
        size = (disk_usage(folder) or 0) + (taken.size or 0)
        return Kept(
            snapshot=replace(taken, size=size),
            uid=uid,
            base=str(found["Image"]),
            layer=upper is not None,
            volumes=volumes,
        )

    def _commit(self, name: str, found: Described, kept: Kept) -> None:
        conf: dict[str, Any] = {"Labels": {LABEL: kept.to_label()}}
        container, tag = str(found["Id"]), kept.snapshot.name
        self._client.act(
            lambda api: api.commit(
                container, repository=repository(name), tag=tag, message=f"snapshot {tag}", pause=False, conf=conf
            )
        )

    def list(self, name: str) -> Sequence[Snapshot]:
        """All of a container, the oldest first."""
        found = self._shelf.list(name)
        if not found:
            describe(self._client, name)
        return [kept.snapshot for kept in found]

    def restore(self, name: str, snapshot: str, progress: Progress) -> None:
        """Make it anew as it was; its configuration stays as it is now."""
        self.mend(name)
        kept = self._shelf.get(name, snapshot)
        found = describe(self._client, name)
        if found["State"].get("Running"):
            if not kept.snapshot.memory:
                raise Conflict("instance_running", f"{name} is running", hint=f"Stop it first: triune stop {name}")
            self._stop(str(found["Id"]))  # our own start may have been cut off
        pairs = self._pairs(found, kept)
        progress.step("docker-restore", f"making {name} anew as it was at {snapshot}")
        with ExitStack() as undo:
            made = self._make(name, found, kept)
            undo.callback(self._remove, made)
            if kept.layer:
                described = self._client.read(lambda api: api.inspect_container(made))
                trees.fill_layer(self._client, self._shelf.folder(kept.uid) / "layer", described, progress.check)
            progress.step("docker-volumes", f"putting back the volumes of {name}")
            with trees.replaced(pairs, progress.check):
                progress.step("docker-switch", f"putting the new container in the place of {name}")
                self._switch(name, str(found["Id"]), made)
                if kept.snapshot.memory:
                    progress.step("docker-go-on", f"letting {name} go on where it was")
                    self._go_on(name, str(found["Id"]), made, kept)
            undo.pop_all()
        self._remove(str(found["Id"]))

    def _pairs(self, found: Described, kept: Kept) -> builtins.list[tuple[Path, Path]]:
        """(copy, folder) of each volume that is still there. Raises Conflict("volume_in_use")."""
        now = {tree.target: tree for tree in trees.volumes(self._client, found)}
        wanted = [(number, now[target]) for number, (target, _) in kept.volumes.items() if target in now]
        trees.require_unshared(self._client, found, [tree for _, tree in wanted])
        folder = self._shelf.folder(kept.uid)
        return [(folder / f"volume-{number}", tree.path) for number, tree in wanted]

    def _make(self, name: str, found: Described, kept: Kept) -> str:
        body = recreate.same(found, self.image(found, kept))
        made = self._client.act(lambda api: api.create_container_from_config(body, name + NEW))
        container = str(made["Id"])
        try:
            for network, endpoint in recreate.further_networks(found).items():
                self._connect(container, network, endpoint)
        except TriuneError:
            self._remove(container)
            raise
        return container

    def _connect(self, container: str, network: str, endpoint: Any) -> None:
        config = endpoint.get("IPAMConfig") or {}
        self._client.act(
            lambda api: api.connect_container_to_network(
                container,
                network,
                ipv4_address=config.get("IPv4Address"),
                ipv6_address=config.get("IPv6Address"),
                aliases=endpoint.get("Aliases"),
                driver_opt=endpoint.get("DriverOpts"),
            )
        )

    def image(self, found: Described, kept: Kept) -> str:
        """What to make it of: its own image where its exact layer is kept and that image is there, by the name it was
        given where that still means the same; else the committed one."""
        if not kept.layer:
            return kept.image
        for reference in (str(found["Config"].get("Image") or ""), kept.base):
            try:
                if reference and self._client.read(lambda api: api.inspect_image(reference))["Id"] == kept.base:  # noqa: B023
                    return reference
            except NotFound:
                continue
        return kept.image

    def _switch(self, name: str, old: str, new: str) -> None:
        self._client.act(lambda api: api.rename(old, name + OLD))
        try:
            self._client.act(lambda api: api.rename(new, name))
        except BaseException:
            self._client.act(lambda api: api.rename(old, name))
            raise

    def _go_on(self, name: str, old: str, new: str, kept: Kept) -> None:
        try:
            self._processes.go_on(name, new, self._shelf.folder(kept.uid))
        except BaseException:
            self._stop(new)
            self._client.act(lambda api: api.rename(new, name + NEW))
            self._client.act(lambda api: api.rename(old, name))
            raise

    def _stop(self, container: str) -> None:
        self._client.act(lambda api: api.stop(container, timeout=0))

    def _remove(self, container: str) -> None:
        """Its volumes stay: the other container has them."""
        with suppress(NotFound):
            self._client.act(lambda api: api.remove_container(container, v=False, force=True))

    def mend(self, name: str) -> None:
        """After a crash in the middle of a restore: one container has the name, and only that one is there."""
        old, new, own = (self._id(name + suffix) for suffix in (OLD, NEW, ""))
        if own is None and old is not None:
            self._client.act(lambda api: api.rename(old, name))
            old = None
        for left in (old, new):
            if left is not None:
                self._remove(left)

    def _id(self, name: str) -> str | None:
        try:
            return str(describe(self._client, name)["Id"])
        except NotFound:
            return None

    def delete(self, name: str, snapshot: str, progress: Progress) -> None:
        """Remove it, finished or not; a container it held still goes on."""
        single_line(snapshot, "the snapshot")
        found = describe(self._client, name)
        progress.check()
        self._undo(name, str(found["Id"]), snapshot)


def _refuse(found: Described) -> None:
    name = str(found["Name"]).removeprefix("/")
    if (found.get("HostConfig") or {}).get("AutoRemove"):
        raise Unsupported(
            "removes_itself",
            f"{name} is removed by Docker when it stops (--rm), so it can't be put back",
            hint="Make it without --rm.",
        )
    if found["State"].get("Dead"):
        raise Failed("container_dead", f"Docker could not remove {name} completely", hint=f"Run: triune rm {name}")
