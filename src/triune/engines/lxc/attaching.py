"""The `attaching` facet: folders in existing containers, at once and at every later start.

The configuration comes first, then the mounts: what a crash leaves is a volume that is attached, or one that `detach`
takes away again.
"""

from __future__ import annotations

import errno
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from triune.domain.errors import Conflict, Failed, Invalid, Unsupported
from triune.domain.instance import State, VolumeMount
from triune.domain.operation import Progress
from triune.domain.pool import Volume
from triune.engines.lxc import layers, spec
from triune.engines.lxc import mark as marks
from triune.engines.lxc.client import Client
from triune.engines.lxc.mark import Bind, Mark
from triune.host import elsewhere, overlay


class LxcAttaching:
    """Implements engines.base.Attaching."""

    live = True

    def __init__(self, client: Client) -> None:
        self._client = client

    def attach(self, name: str, volume: Volume, mount: VolumeMount, progress: Progress) -> None:
        """Show it the volume. Raises Conflict("target_taken"), Unsupported, Failed."""
        folder, mark = self._managed(name)
        (bind,) = spec.binds([mount])
        if any(other.target.rstrip("/") == bind.target.rstrip("/") for other in mark.volumes):
            raise Conflict(
                "target_taken", f"{name} has a volume at {bind.target} already", hint="Choose another place for it."
            )
        bind = replace(bind, place=_free_place(mark), volume=volume.name)
        progress.step("lxc-attach", f"showing {name} the volume {volume.name} at {bind.target}")
        entry = spec.mount_entry(bind, folder, mark.id_map)
        with_it = replace(mark, volumes=(*mark.volumes, bind))
        marks.write(folder, with_it)
        _configure(folder, spec.with_mount((folder / "config").read_text(), entry))
        try:
            layers.mount_volumes(folder, with_it)
            self._mount_inside(name, folder, mark, bind)
        except BaseException:
            with suppress(OSError):
                self._forget(folder, with_it, bind)
            raise

    def _mount_inside(self, name: str, folder: Path, mark: Mark, bind: Bind) -> None:
        pid = self._running(name)
        if pid is None:
            return
        base = mark.id_map.base if mark.id_map else 0
        source = spec.volume_path(folder, bind.place) if mark.id_map else Path(bind.source)
        try:
            elsewhere.mount_at(pid, source, bind.target, owner=(base, base), read_only=bind.read_only)
        except OSError as error:
            if error.errno in (errno.ENOTDIR, errno.ELOOP, errno.EXDEV):
                raise Invalid(
                    "bad_volume", f"{bind.target} in {name} is no folder", hint="Choose another place for the volume."
                ) from None
            raise Failed(
                "attach_failed",
                f"the volume can't be mounted at {bind.target} in {name}: {error.strerror}",
                hint=f"Stop {name}, attach it, and start it again.",
            ) from None

    def detach(self, name: str, volume: Volume, progress: Progress) -> None:
        """Take it away. Raises Conflict("volume_busy")."""
        folder, mark = self._managed(name)
        for bind in [bind for bind in mark.volumes if bind.volume == volume.name]:
            progress.step("lxc-detach", f"taking the volume {volume.name} away from {name}")
            self._unmount_inside(name, bind)
            self._forget(folder, mark, bind)
            mark = marks.read(folder) or mark

    def _unmount_inside(self, name: str, bind: Bind) -> None:
        pid = self._running(name)
        if pid is None:
            return
        try:
            elsewhere.unmount_at(pid, Path(bind.source), bind.target)
        except FileNotFoundError:
            return  # the volume's own folder is gone
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            raise Conflict(
                "volume_busy",
                f"something in {name} uses {bind.target} (an open file, or a current folder)",
                hint=f"Find it with: triune exec {name} -- fuser -vm {bind.target}; or stop {name}.",
            ) from None

    def _forget(self, folder: Path, mark: Mark, bind: Bind) -> None:
        entry = spec.mount_entry(bind, folder, mark.id_map)
        _configure(folder, spec.without_mount((folder / "config").read_text(), entry))
        if mark.id_map:
            place = spec.volume_path(folder, bind.place)
            overlay.unmount(place)
            with suppress(FileNotFoundError):
                place.rmdir() if place.is_dir() else place.unlink()
        # Last: without it nobody knows what is left to take away.
        marks.write(folder, replace(mark, volumes=tuple(one for one in mark.volumes if one != bind)))

    def _managed(self, name: str) -> tuple[Path, Mark]:
        folder = self._client.require(name)
        mark = marks.read(folder)
        if mark is None:
            raise Unsupported(
                "instance_adopted",
                f"{name} was not made by Triune, whose hooks its mounts would need",
                hint="Add a line lxc.mount.entry to its configuration by hand.",
            )
        return folder, mark

    def _running(self, name: str) -> int | None:
        return None if self._client.state(name) is State.STOPPED else self._client.init_pid(name)


def _free_place(mark: Mark) -> str:
    taken = {bind.place for bind in mark.volumes}
    return next(str(number) for number in range(len(taken) + 1) if str(number) not in taken)


def _configure(folder: Path, text: str) -> None:
    marks.write_file(folder / "config", text.encode(), 0o644)
