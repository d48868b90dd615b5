"""Which image a restored container stands on, where the store is of another kind than that of the backup."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.unit.engines.docker.test_docker_recreating import DESCRIBED, plan

from triune.domain.errors import NotFound
from triune.domain.image import OciForm
from triune.engines.docker.archiving import IMAGE, DockerArchiving
from triune.engines.docker.layers import in_containerd

THERE = "sha256:" + "a" * 64  # its id where the backup was made
HERE = "sha256:" + "b" * 64
DIGEST = "registry.example/app@sha256:" + "c" * 64


class Made(Exception):
    """The container would be made now."""


class Api:
    def volumes(self) -> dict[str, Any]:
        return {"Volumes": []}

    def create_container_from_config(self, body: dict[str, Any], name: str) -> None:
        raise Made(body["Image"])


class Client:
    api_version = (1, 46)

    def read(self, call: Callable[[Any], Any]) -> Any:
        return call(Api())

    act = read


class Images:
    """A store that has one image, under an id of its own."""

    def __init__(self) -> None:
        self.loaded = b""

    def inspect(self, reference: str) -> dict[str, object] | None:
        return {"id": HERE} if reference == HERE else None

    def pull(self, reference: str, credentials: None, progress: object) -> OciForm:
        if reference != DIGEST:
            raise NotFound("image_not_found", "it is not there")
        return OciForm(id=HERE, reference=reference)

    def load_archive(self, pieces: Iterator[bytes], reference: str) -> OciForm:
        self.loaded = b"".join(pieces)
        return OciForm(id=HERE, reference=reference)


class Silent:
    def step(self, name: str, text: str) -> None:
        """Say nothing."""


def restored(image: dict[str, Any], parts: dict[str, Path] | None = None) -> tuple[str, Images]:
    images = Images()
    asked = replace(plan({**DESCRIBED, "image": image}), parts=parts or {})
    with pytest.raises(Made) as made:
        DockerArchiving(Client(), None, images).restore(asked, Silent())  # type: ignore[arg-type]
    return str(made.value), images


def test_the_image_of_the_backup_is_loaded_and_used_under_its_id_here(tmp_path: Path) -> None:
    folder = tmp_path / "image"
    folder.mkdir()
    (folder / "manifest.json").write_text("[]")
    found, images = restored({"id": THERE, "tags": ["app:1"], "digests": []}, {IMAGE: folder})
    assert found == HERE
    assert b"manifest.json" in images.loaded


def test_an_image_of_a_registry_is_known_by_its_digest() -> None:
    assert restored({"id": THERE, "tags": ["app:1"], "digests": [DIGEST]})[0] == HERE
    assert restored({"id": HERE})[0] == HERE


def test_one_that_nobody_has_is_told() -> None:
    asked = plan({**DESCRIBED, "image": {"id": THERE, "reference": "app:1"}})
    with pytest.raises(NotFound, match="app:1"):
        DockerArchiving(Client(), None, Images()).restore(asked, Silent())  # type: ignore[arg-type]


@pytest.mark.parametrize(("driver", "there"), [("overlayfs", True), ("overlay2", False), ("btrfs", False)])
def test_whose_store_it_is(driver: str, there: bool) -> None:
    assert in_containerd({"GraphDriver": {"Name": driver}}) is there
    assert not in_containerd({})
