"""Where the snapshots of containers are: images tagged triune-snapshot/NAME:SNAP, and a folder of exact copies each.

The image's label `triune.snapshot` says everything of the snapshot, and which folder is its own; so renaming an
instance is tagging anew. The folder's file `of` says whose it is meanwhile, until there is an image.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from triune.domain.errors import NotFound
from triune.domain.names import single_line
from triune.domain.snapshot import Consistency, Snapshot
from triune.engines.docker.client import DockerClient
from triune.host.beneath import remove_tree

LABEL = "triune.snapshot"
_PREFIX = "triune-snapshot/"
_PLAIN = re.compile(r"[a-z0-9-]+", re.ASCII)
_UID = re.compile(r"[0-9a-f]{16}", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A snapshot, the image that holds it, and its folder's name. `base` is the id of the container's own image;
    `layer` whether the folder has the exact writable layer; `volumes` maps numbers of copies to (target, name)."""

    snapshot: Snapshot
    image: str = ""
    uid: str
    base: str
    layer: bool
    volumes: Mapping[str, tuple[str, str]] = field(default_factory=dict)

    def to_label(self) -> str:
        """As JSON."""
        one = self.snapshot
        return json.dumps(
            {
                "created": one.created.isoformat(),
                "consistency": one.consistency.value,
                "memory": one.memory,
                "size": one.size,
                "expires": one.expires.isoformat() if one.expires else None,
                "schedule": one.schedule,
                "comment": one.comment,
                "uid": self.uid,
                "base": self.base,
                "layer": self.layer,
                "volumes": {key: list(value) for key, value in self.volumes.items()},
            }
        )


def _from_label(name: str, image: str, text: str) -> Kept | None:
    """None for what somebody else wrote."""
    try:
        found: dict[str, Any] = json.loads(text)
        snapshot = Snapshot(
            name=name,
            created=datetime.fromisoformat(found["created"]),
            consistency=Consistency(found["consistency"]),
            memory=bool(found.get("memory")),
            size=found["size"],
            expires=datetime.fromisoformat(found["expires"]) if found["expires"] else None,
            schedule=str(found["schedule"]),
            comment=str(found["comment"]),
        )
        if not _UID.fullmatch(found["uid"]) or not all(str(key).isdecimal() for key in found["volumes"]):
            return None
        volumes = {str(key): (str(value[0]), str(value[1])) for key, value in found["volumes"].items()}
        return Kept(
            snapshot=snapshot,
            image=image,
            uid=found["uid"],
            base=str(found["base"]),
            layer=bool(found["layer"]),
            volumes=volumes,
        )
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        return None


def repository(name: str) -> str:
    """Docker's repositories are lower-case, its containers' names need not be (adopted ones)."""
    return _PREFIX + (name if _PLAIN.fullmatch(name) else f"x__{name.encode().hex()}")


class Shelf:
    """All of them."""

    def __init__(self, client: DockerClient, folder: Path) -> None:
        self._client = client
        self._folder = folder

    def list(self, name: str) -> Sequence[Kept]:
        """Those of an instance, the oldest first: one request."""
        prefix = repository(single_line(name, "the name"))
        found: list[Kept] = []
        for image in self._client.read(lambda api: api.images(name=prefix)):
            label = (image.get("Labels") or {}).get(LABEL, "")
            for tag in image.get("RepoTags") or ():
                head, _, snap = str(tag).rpartition(":")
                one = _from_label(snap, str(image["Id"]), label) if head == prefix else None
                if one is not None:
                    found.append(one)
        return sorted(found, key=lambda one: (one.snapshot.created, one.snapshot.name))

    def find(self, name: str, snapshot: str) -> Kept | None:
        """One of them."""
        return next((one for one in self.list(name) if one.snapshot.name == snapshot), None)

    def get(self, name: str, snapshot: str) -> Kept:
        """One of them. Raises NotFound("snapshot_not_found")."""
        found = self.find(name, single_line(snapshot, "the snapshot"))
        if found is None:
            raise NotFound(
                "snapshot_not_found", f"{name} has no snapshot {snapshot!r}", hint=f"See: triune snapshot list {name}"
            )
        return found

    def folder(self, uid: str) -> Path:
        """Where its copies are."""
        return self._folder / uid

    def open(self, name: str, snapshot: str) -> tuple[str, Path]:
        """Make the folder of a new one; (uid, folder)."""
        uid = secrets.token_hex(8)
        folder = self.folder(uid)
        folder.mkdir(parents=True, mode=0o700)
        (folder / "of").write_text(f"{name}/{snapshot}")
        return uid, folder

    def begun(self, name: str, snapshot: str | None) -> Iterator[Path]:
        """Folders that were opened for this snapshot (None: any of the instance), finished or not."""
        if not self._folder.is_dir():
            return
        for folder in sorted(self._folder.iterdir()):
            if self._owner(folder) == name and snapshot in (None, (folder / "of").read_text().partition("/")[2]):
                yield folder

    @staticmethod
    def _owner(folder: Path) -> str | None:
        try:
            return (folder / "of").read_text().partition("/")[0]
        except OSError:
            return None

    def drop(self, name: str, snapshot: str | None) -> None:
        """Remove one with its image and folder, or (None) all of an instance. Gone: succeed."""
        for kept in self.list(name):
            if snapshot in (None, kept.snapshot.name):
                self.untag(name, kept.snapshot.name)
                # A rename that was killed leaves old tags: what they mean is another instance's.
                if self._owner(self.folder(kept.uid)) in (None, name):
                    self._remove(self.folder(kept.uid))
        for folder in list(self.begun(name, snapshot)):
            self._remove(folder)

    def drop_stale(self, name: str) -> None:
        """Of a name that was just given to a new container: what one of that name left that another tool removed."""
        if self._folder.is_dir() and any(self._folder.iterdir()):
            self.drop(name, None)

    def drop_folder(self, uid: str) -> None:
        """Remove a folder that became no snapshot."""
        self._remove(self.folder(uid))

    def _remove(self, folder: Path) -> None:
        if folder.is_dir():
            (folder / "of").touch()  # what is killed here is found again
            for part in folder.iterdir():
                if part.is_dir():
                    remove_tree(part)
            remove_tree(folder)

    def untag(self, name: str, snapshot: str) -> None:
        """Remove the tag, and the image unless a container was made of it."""
        reference = f"{repository(name)}:{snapshot}"
        try:
            self._client.act(lambda api: api.remove_image(reference, force=True, noprune=True))
        except NotFound:
            return

    def rename(self, name: str, new: str) -> None:
        """Tag all anew; what the new name had before is not its own."""
        moving = self.list(name)
        # An attempt that was killed has tagged some of them already.
        half = {kept.snapshot.name for kept in self.list(new) if kept.uid in {one.uid for one in moving}}
        for snapshot in half:
            self.untag(new, snapshot)
        for folder in {self.folder(one.uid) for one in moving}:
            (folder / "of").write_text(f"{name}/")
        self.drop(new, None)
        for kept in moving:
            tag, image = kept.snapshot.name, kept.image
            self._client.act(lambda api: api.tag(image, repository(new), tag, force=True))  # noqa: B023 - called here
            (self.folder(kept.uid) / "of").write_text(f"{new}/{tag}")

    def forget_name(self, name: str) -> None:
        """After a rename: the old tags go, images and folders stay."""
        for kept in self.list(name):
            self.untag(name, kept.snapshot.name)
