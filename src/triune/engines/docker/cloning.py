"""Copies of containers: the same image with a copy of the layer, copies of the volumes, and an identity of their own.

Anonymous volumes become new anonymous ones, named ones are copied to new ones called NEW-VOLUME that go with the
clone; folders of the host and of pools are shared, as they have a life of their own.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from triune.domain.errors import Conflict, NotFound
from triune.domain.names import instance_name
from triune.domain.operation import Progress
from triune.engines.base import ClonePlan
from triune.engines.docker import identity, recreate, trees
from triune.engines.docker.client import DockerClient
from triune.engines.docker.containers import Described, describe
from triune.engines.docker.kept import Kept, Shelf
from triune.engines.docker.layers import layer, require_layer
from triune.engines.docker.lifecycle import exists
from triune.engines.docker.removal import Removal
from triune.engines.docker.snapshots import DockerSnapshots
from triune.host.copytree import copy_tree

_ENDPOINT_MAC = (1, 44)
_SCRATCH = "clone"


class DockerCloning:
    """Of running containers too: they are paused while they are read."""

    live = True

    def __init__(self, client: DockerClient, shelf: Shelf, snapshots: DockerSnapshots, removal: Removal) -> None:
        self._client = client
        self._shelf = shelf
        self._snapshots = snapshots
        self._removal = removal

    def clone(self, plan: ClonePlan, progress: Progress) -> None:
        """Make it, stopped."""
        instance_name(plan.new)
        found = describe(self._client, plan.name)
        kept = self._shelf.get(plan.name, plan.snapshot) if plan.snapshot else None
        progress.step("docker-clone", f"making the app container {plan.new}")
        own = self._own_volumes(plan, found)
        made = self._make(plan, found, kept, own)
        try:
            self._shelf.drop_stale(plan.new)
            self._fill(plan, found, kept, made, progress)
        except BaseException:
            self._removal.delete(plan.new)
            raise

    def _own_volumes(self, plan: ClonePlan, found: Described) -> dict[str, str]:
        """New names of its named volumes. Raises Conflict("volume_exists")."""
        named = [tree.name for tree in trees.volumes(self._client, found) if not _anonymous(found, tree.name)]
        own = {name: f"{plan.new}-{name}" for name in named if name}
        for new in own.values():
            try:
                self._client.read(lambda api: api.inspect_volume(new))  # noqa: B023 - called here
            except NotFound:
                continue
            raise Conflict(
                "volume_exists",
                f"there is a Docker volume {new} already, which a copy of {plan.name} would need",
                hint="Choose another name for the copy, or remove that volume.",
            )
        return own

    def _make(self, plan: ClonePlan, found: Described, kept: Kept | None, own: dict[str, str]) -> str:
        image = self._image(found, kept)
        body = recreate.another(
            found,
            image,
            name=plan.new,
            created=plan.created,
            machine_id=plan.machine_id,
            nics=plan.nics,
            volumes=own,
            endpoint_mac=self._client.api_version >= _ENDPOINT_MAC,
        )
        try:
            made = self._client.act(lambda api: api.create_container_from_config(body, plan.new))
        except Conflict as error:
            raise exists(plan.new) from error
        return str(made["Id"])

    def _image(self, found: Described, kept: Kept | None) -> str:
        if kept is not None:
            return self._snapshots.image(found, kept)
        here = str(found["Image"])
        given = str(found["Config"].get("Image") or "")
        try:
            same = given and self._client.read(lambda api: api.inspect_image(given))["Id"] == here
        except NotFound:
            same = False
        return given if same else here

    def _fill(self, plan: ClonePlan, found: Described, kept: Kept | None, made: str, progress: Progress) -> None:
        new = self._client.read(lambda api: api.inspect_container(made))
        if kept is not None:
            folder = self._shelf.folder(kept.uid)
            sources = {target: folder / f"volume-{number}" for number, (target, _) in kept.volumes.items()}
            self._put(folder / "layer" if kept.layer else None, sources, new, progress)
        else:
            with self._still(plan, found):
                sources = {tree.target: tree.path for tree in trees.volumes(self._client, found)}
                trees.require_unraced(self._client, found)
                progress.step("docker-clone-data", f"copying the data of {plan.name}")
                self._put(require_layer(self._client, found), sources, new, progress)
        upper = layer(self._client, new)
        if upper is not None:
            identity.renew(upper, plan.machine_id)

    @contextmanager
    def _still(self, plan: ClonePlan, found: Described) -> Iterator[None]:
        """Hold the original still; who dies meanwhile leaves a note in a folder of the copy's name."""
        uid, folder = self._shelf.open(plan.new, f"{_SCRATCH}-{secrets.token_hex(4)}")
        try:
            with self._snapshots.held(found, folder):
                yield
        finally:
            self._shelf.drop_folder(uid)

    def _put(self, kept: Path | None, sources: dict[str, Path], new: Described, progress: Progress) -> None:
        if kept is not None:
            trees.fill_layer(self._client, kept, new, progress.check)
        for tree in trees.volumes(self._client, new):
            if tree.name and tree.target in sources:
                _copy_in(sources[tree.target], tree.path, progress.check)


def _copy_in(source: Path, target: Path, check: Callable[[], None]) -> None:
    trees.empty(target)  # what the image has there, which Docker puts into a new volume
    copy_tree(source, target, check)


def _anonymous(found: Described, name: str) -> bool:
    mount: dict[str, Any] = next((one for one in found.get("Mounts") or () if one.get("Name") == name), {})
    return recreate.is_anonymous(found, mount)
