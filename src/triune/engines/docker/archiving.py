"""Backups of containers: the writable layer and the volumes as trees, the image by reference or, where no registry has
it, with it.

The layer is the overlay's own upper folder, whiteouts and all, so that a restored container differs from its image
exactly as the old one did. It needs a storage driver that has such a folder: see `layers`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from triune.domain.errors import Conflict, NotFound
from triune.domain.instance import InstanceSpec, State
from triune.domain.operation import Progress
from triune.domain.snapshot import Consistency
from triune.engines.archiving import Archive, Part, PartKind, RestorePlan, started_meanwhile
from triune.engines.docker import recreating
from triune.engines.docker.client import DockerClient
from triune.engines.docker.containers import Described, describe, not_found, state_of
from triune.engines.docker.images import ImageStore
from triune.engines.docker.layers import in_containerd, require_layer
from triune.engines.docker.lifecycle import Lifecycle, exists
from triune.engines.docker.spec import Abilities
from triune.host.filling import put
from triune.host.run import run

LAYER = "layer"
IMAGE = "image"
_ARCHIVE = "image.tar"


class DockerArchiving:
    """The facet."""

    def __init__(self, client: DockerClient, lifecycle: Lifecycle, images: ImageStore) -> None:
        self._client = client
        self._lifecycle = lifecycle
        self._images = images

    def describe(self, name: str) -> Mapping[str, object]:
        """`config`, `host`, `image`, `volumes` and `mounts` (where a part is seen inside)."""
        found = describe(self._client, name)
        image = self._client.read(lambda api: api.inspect_image(str(found["Image"])))
        volumes = _volumes(found)
        return {
            "config": found["Config"],
            "host": found["HostConfig"],
            "image": {
                "id": found["Image"],
                "reference": found["Config"].get("Image"),
                "tags": list(image.get("RepoTags") or ()),
                "digests": list(image.get("RepoDigests") or ()),
            },
            "volumes": volumes,
            "mounts": {one["part"]: one["destination"] for one in volumes},
            "spec": _spec(found),
        }

    def open(self, name: str, base: str | None, progress: Progress) -> Archive:
        """The living data: `hold` pauses the container."""
        del base
        progress.check()
        found = describe(self._client, name)
        parts = [Part(kind=PartKind.TREE, name=LAYER, path=require_layer(self._client, found))]
        volumes = {one["name"]: one for one in _volumes(found)}
        for mount in found.get("Mounts") or ():
            volume = volumes.get(str(mount.get("Name")))
            if volume is not None:
                parts.append(Part(kind=PartKind.TREE, name=volume["part"], path=Path(mount["Source"])))
        image = self._client.read(lambda api: api.inspect_image(str(found["Image"])))
        # containerd's image store gives a digest to images that no registry has, too.
        if in_containerd(found) or not image.get("RepoDigests"):
            digest = str(found["Image"])
            parts.append(
                Part(
                    kind=PartKind.IMAGE,
                    name=IMAGE,
                    digest=digest,
                    write=lambda folder, told: self._save(digest, folder, told),
                )
            )
        return _Living(self._client, self._lifecycle, name, found, parts)

    def _save(self, image: str, folder: Path, progress: Progress) -> None:
        """`docker save`, unpacked: its layers are files that other images' layers may be equal to."""
        progress.report(None, "saving the image")
        stream = self._client.act(lambda api: api.get_image(image))
        path = folder.with_name(folder.name + ".tar")
        try:
            with path.open("wb") as file:
                for piece in stream:
                    progress.check()
                    file.write(piece)
            run(["tar", "--extract", "--file", path, "--directory", folder], timeout=3600)
        finally:
            path.unlink(missing_ok=True)

    def abandon(self, name: str, *, running: bool) -> None:
        """Let it go on, if it ran."""
        if not running:
            return
        try:
            found = describe(self._client, name)
        except NotFound:
            return
        if state_of(str(found["State"].get("Status"))) is State.PAUSED:
            self._lifecycle.resume(name)

    def place(self, plan: RestorePlan) -> Path:
        """Docker's own folder."""
        del plan
        return Path(str(self._client.read(lambda api: api.info()).get("DockerRootDir") or "/var/lib/docker"))

    def restore(self, plan: RestorePlan, progress: Progress) -> None:
        """Make the container of the same image, and put the layer and the volumes into it."""
        name = plan.spec.name
        if IMAGE in plan.parts:
            progress.step("docker-load", "loading the image")
            image = self._load(plan.parts[IMAGE], plan)
        else:
            image = self._image(plan, progress)
        abilities = Abilities(endpoint_mac=self._client.api_version >= (1, 44))
        taken = {str(one["Name"]) for one in self._client.read(lambda api: api.volumes()).get("Volumes") or ()}
        body = recreating.create_body(plan, image, abilities, taken)
        progress.step("docker-create", f"creating the app container {name}")
        try:
            self._client.act(lambda api: api.create_container_from_config(body, name))
        except Conflict as error:
            raise exists(name) from error
        try:
            self._fill(describe(self._client, name), plan, progress)
        except BaseException:
            self.discard(name)
            raise

    def _image(self, plan: RestorePlan, progress: Progress) -> str:
        """The id of the image it stands on: on this host, or from its registry by digest.

        Docker's own store and containerd's give an image different ids; its digest is the same.
        """
        told = plan.described.get("image")
        image: Mapping[str, Any] = told if isinstance(told, dict) else {}
        identity = str(image.get("id", ""))
        if identity.startswith("sha256:") and self._images.inspect(identity) is not None:
            return identity
        for digest in image.get("digests") or ():
            return self._images.pull(str(digest), None, progress).id
        raise NotFound(
            "image_not_found",
            f"this host does not have the image {image.get('reference')} ({identity[:19]}) of the backup",
            hint="Get exactly it (docker load, docker pull), then restore again.",
        )

    def _load(self, folder: Path, plan: RestorePlan) -> str:
        """Its id here, which is another one than it was where that was another kind of store."""
        told = plan.described.get("image")
        tags = list(told.get("tags") or ()) if isinstance(told, dict) else []
        reference = str(tags[0]) if tags else f"triune-restored:{plan.spec.name}"
        archive = folder.with_name(f"{folder.name}-{_ARCHIVE}")
        run(["tar", "--create", "--file", archive, "--directory", folder, "."], timeout=3600)
        before = self._images.inspect(reference)
        with archive.open("rb") as file:
            form = self._images.load_archive(_pieces(file), reference)
        archive.unlink()
        if before is not None and before["id"] != form.id:
            # The name means another image here; ours is known by its id alone.
            repository, _, tag = reference.rpartition(":")
            self._client.act(lambda api: api.tag(str(before["id"]), repository, tag, force=True))
        return form.id

    def _fill(self, made: Described, plan: RestorePlan, progress: Progress) -> None:
        progress.step("docker-fill", "putting its files in place")
        if LAYER in plan.parts:
            put(plan.parts[LAYER], require_layer(self._client, made))
        at = {str(mount["Destination"]): mount for mount in made.get("Mounts") or () if mount.get("Type") == "volume"}
        for volume in recreating.volumes(plan.described):
            mount = at.get(str(volume["destination"]))
            if mount is None or volume["part"] not in plan.parts:
                continue
            if recreating.RESTORED not in self._labels(str(mount["Name"])):
                raise Conflict(
                    "volume_exists", f"a volume {mount['Name']} appeared meanwhile", hint="Restore under another name."
                )
            put(plan.parts[str(volume["part"])], Path(str(mount["Source"])))

    def discard(self, name: str) -> None:
        """Remove the container and the volumes that its restore made."""
        try:
            found = describe(self._client, name)
        except NotFound:
            return
        created = str((found["Config"].get("Labels") or {}).get(recreating.CREATED, ""))
        ours = []
        for mount in found.get("Mounts") or ():
            if mount.get("Type") == "volume":
                labels = self._labels(str(mount["Name"]))
                if created and labels.get(recreating.RESTORED) == created:
                    ours.append(str(mount["Name"]))
        self._lifecycle.delete(name)
        for one in ours:
            self._remove_volume(one)

    def _labels(self, volume: str) -> Mapping[str, str]:
        found: Mapping[str, Any] = self._client.read(lambda api: api.inspect_volume(volume))
        return found.get("Labels") or {}

    def _remove_volume(self, volume: str) -> None:
        with suppress(NotFound):
            self._client.act(lambda api: api.remove_volume(volume))


class _Living:
    """The layer and volumes of a container as they are now."""

    still = False

    def __init__(
        self, client: DockerClient, lifecycle: Lifecycle, name: str, found: Described, parts: Sequence[Part]
    ) -> None:
        self._client = client
        self._lifecycle = lifecycle
        self._name = name
        self._id = found["Id"]
        self._held = False
        self.parts = parts
        self.still = state_of(str(found["State"].get("Status"))) is not State.RUNNING
        self.consistency = (Consistency.STOPPED if self.still else Consistency.FROZEN).value

    def hold(self) -> None:
        """Pause it. What it wrote is in the kernel's page cache, where it is read from."""
        if self.still:
            return
        found = describe(self._client, self._name)
        if found["Id"] != self._id:
            raise not_found(self._name)
        state = state_of(str(found["State"].get("Status")))
        if state is State.RUNNING:
            self._held = True
            self._lifecycle.pause(self._name)
        elif state is not State.PAUSED:
            self.consistency = Consistency.STOPPED.value

    def release(self) -> None:
        """Let it go on. Raises Conflict("instance_started") where it did not run, and was not left alone."""
        if self.still and state_of(str(describe(self._client, self._name)["State"].get("Status"))) is State.RUNNING:
            raise started_meanwhile(self._name)
        if self._held:
            self._lifecycle.resume(self._name)
            self._held = False

    def keep(self, backup: str) -> None:
        """Files tell by themselves what has changed."""

    def close(self) -> None:
        """The same as release; a container that is gone needs none."""
        try:
            self.release()
        except (NotFound, Conflict):
            self._held = False


def _volumes(found: Described) -> list[dict[str, Any]]:
    """Docker's own volumes of a container; part names follow the order of their places inside."""
    mounts = sorted(
        (mount for mount in found.get("Mounts") or () if mount.get("Type") == "volume"),
        key=lambda mount: str(mount["Destination"]),
    )
    return [
        {
            "part": f"volume{number}",
            "name": str(mount.get("Name")),
            "destination": str(mount["Destination"]),
            "driver": str(mount.get("Driver") or "local"),
            "read_only": not mount.get("RW", True),
            "anonymous": _is_anonymous(str(mount.get("Name"))),
        }
        for number, mount in enumerate(mounts)
        if (mount.get("Driver") or "local") == "local" and Path(str(mount.get("Source") or "")).is_absolute()
    ]


def _is_anonymous(name: str) -> bool:
    return len(name) == 64 and all(char in "0123456789abcdef" for char in name)


def _spec(found: Described) -> dict[str, Any]:
    """What InstanceSpec can say of any container."""
    name = str(found["Name"]).lstrip("/")
    spec = InstanceSpec(name=name, image=str(found["Config"].get("Image") or ""), engine="docker")
    return {**asdict(spec), "command": list(found["Config"].get("Cmd") or ())}


def _pieces(file: IO[bytes]) -> Iterator[bytes]:
    while piece := file.read(1 << 20):
        yield piece
