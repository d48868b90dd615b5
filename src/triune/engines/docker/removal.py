"""Removing and renaming a container with all that belongs to it: its snapshots, and the volumes of a clone."""

from __future__ import annotations

from contextlib import suppress

from triune.domain.errors import Conflict, NotFound
from triune.domain.names import instance_name, single_line
from triune.engines.docker import recreate, spec
from triune.engines.docker.client import DockerClient
from triune.engines.docker.containers import describe
from triune.engines.docker.kept import Shelf
from triune.engines.docker.lifecycle import Lifecycle
from triune.engines.docker.snapshots import DockerSnapshots


class Removal:
    """`delete`, and the renaming facet."""

    live = True

    def __init__(self, client: DockerClient, lifecycle: Lifecycle, snapshots: DockerSnapshots, shelf: Shelf) -> None:
        self._client = client
        self._lifecycle = lifecycle
        self._snapshots = snapshots
        self._shelf = shelf

    def delete(self, name: str) -> None:
        """Remove it, its anonymous volumes, its snapshots, and what a crash left of any of them. Gone: succeed."""
        single_line(name, "the name")
        for folder in self._shelf.begun(name, None):
            self._snapshots.release(folder)
        self._snapshots.mend(name)
        own = self._own_volumes(name)
        self._lifecycle.delete(name)
        for volume in own:
            with suppress(NotFound, Conflict):  # gone already; or somebody else uses it by now
                self._client.act(lambda api: api.remove_volume(volume))  # noqa: B023 - called here
        self._shelf.drop(name, None)

    def _own_volumes(self, name: str) -> tuple[str, ...]:
        try:
            labels = describe(self._client, name)["Config"].get("Labels") or {}
        except NotFound:
            return ()
        return spec.words(labels.get(recreate.OWN_VOLUMES))

    def rename(self, name: str, new: str) -> None:
        """Rename it, running or not, and its snapshots. Its host name inside stays until it is made anew."""
        instance_name(new)
        describe(self._client, name)
        if name == new:
            return
        if not self._shelf.list(name):
            self._lifecycle.rename(name, new)
            return
        self._lifecycle.require_free(new)
        self._shelf.rename(name, new)
        try:
            self._lifecycle.rename(name, new)
        except BaseException:
            self._shelf.rename(new, name)
            self._shelf.forget_name(new)
            raise
        self._shelf.forget_name(name)
