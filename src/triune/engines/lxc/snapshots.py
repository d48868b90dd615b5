"""The `snapshots` facet: what a container has written, its configuration and its settings, at a point in time.

Volumes and host folders seen inside are no part of it; neither are its name, its addresses and its id range, which
a restore leaves as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from triune.domain.errors import Conflict, TriuneError, Unsupported
from triune.domain.names import instance_name, single_line, snapshot_name
from triune.domain.operation import Progress
from triune.domain.snapshot import Consistency, Snapshot
from triune.engines.lxc import holding, layers, places, points, restoring, roots, seed, spec
from triune.engines.lxc import mark as marks
from triune.engines.lxc.client import Client
from triune.engines.lxc.mark import Mark
from triune.host import beneath, btrfs

NO_MEMORY = (
    "CRIU can't write down a system container's processes: its console is a terminal that LXC holds, and systemd's "
    "services live in namespaces of their own"
)
"""Tried with CRIU 4.2 and LXC 5.0: "tty: Unable to find a master", and "Can't dump nested uts namespace"."""


class LxcSnapshots:
    """Snapshots of managed containers."""

    memory = False

    def __init__(self, client: Client) -> None:
        self._client = client

    def create(self, name: str, snapshot: Snapshot, progress: Progress) -> Snapshot:
        """Take one; a running container is frozen while its files are copied. Steps: lxc-copy, lxc-keep."""
        snapshot_name(snapshot.name)
        single_line(snapshot.comment, "the comment")
        folder, mark = managed(self._client, name)
        if snapshot.memory:
            raise Unsupported("no_memory_snapshot", NO_MEMORY, hint="Leave out --memory.")
        restoring.settle(folder, mark)
        data = mark.data(folder)
        if points.folder_of(data, snapshot.name).exists():
            raise Conflict(
                "snapshot_exists",
                f"{name} has a snapshot {snapshot.name!r} already",
                hint=f"Choose another name, or remove it: triune snapshot rm {name} {snapshot.name}",
            )
        points.remove(data, snapshot.name)
        try:
            with roots.telling(points.folder_of(data, snapshot.name)):
                return self._take(folder, mark, snapshot, progress)
        except BaseException:
            with suppress(TriuneError, OSError):
                points.remove(data, snapshot.name)
            raise

    def _take(self, folder: Path, mark: Mark, snapshot: Snapshot, progress: Progress) -> Snapshot:
        data, own = mark.data(folder), mark.own(folder)
        fresh = points.fresh_folder(data, snapshot.name)
        fresh.mkdir(parents=True, mode=0o700)
        progress.step("lxc-copy", f"copying what {folder.name} has written")
        with holding.held(self._client, folder.name) as hold:
            if mark.whole and hold.consistency is not Consistency.STOPPED:
                holding.write_out(own)
            config = (folder / "config").read_bytes()
            roots.copy(own, fresh / points.TREE, progress.check, read_only=True)
        progress.step("lxc-keep", f"keeping the snapshot {snapshot.name}")
        if not btrfs.is_subvolume(own):
            snapshot = replace(snapshot, size=beneath.disk_usage(fresh / points.TREE))
        done = replace(snapshot, consistency=hold.consistency, parent=None)
        points.keep(data, done, config, mark)
        return done

    def list(self, name: str) -> Sequence[Snapshot]:
        """All of a container, the oldest first; none of an adopted one."""
        folder = self._client.require(name)
        mark = marks.read(folder)
        return points.read_all(mark.data(folder)) if mark else []

    def restore(self, name: str, snapshot: str, progress: Progress) -> None:
        """Put back what was there. Steps: lxc-copy."""
        folder, mark = managed(self._client, name)
        point = points.require(mark.data(folder), snapshot, name)
        require_stopped(self._client, name)
        with roots.telling(folder):
            restoring.settle(folder, mark)
        progress.step("lxc-copy", f"copying the snapshot {snapshot}")
        before = dict(spec.parse((point / "config").read_text())).get("lxc.uts.name", name)
        with roots.telling(folder):
            result = restoring.restore(folder, mark, point, progress.check)
        if before != name:
            layers.mount_root(folder, result)
            seed.rename(result.writable(folder), instance_name(before), name, result)

    def delete(self, name: str, snapshot: str, progress: Progress) -> None:
        """Remove it, half-made too, and let go of a container held still for it. Gone: succeed."""
        del progress
        folder = self._client.folder(name)
        mark = marks.read(folder)
        if mark is None:
            return
        holding.let_go(self._client, name)
        if mark.pool is not None:
            places.require(mark.pool)
        points.remove(mark.data(folder), snapshot)


def managed(client: Client, name: str) -> tuple[Path, Mark]:
    """A managed container's folder and mark. Raises NotFound, Unsupported("adopted_unsupported")."""
    folder = client.require(name)
    mark = marks.read(folder)
    if mark is None:
        raise Unsupported(
            "adopted_unsupported",
            f"{name} was not made by Triune: its snapshots are LXC's own",
            hint=f"Use: lxc-snapshot -P {client.path} -n {name}",
        )
    if mark.pool is not None:
        places.require(mark.pool)
    return folder, mark


def require_stopped(client: Client, name: str) -> None:
    """Raise Conflict("instance_running")."""
    if name in client.active():
        raise Conflict("instance_running", f"{name} is running", hint=f"Stop it: triune stop {name}")
