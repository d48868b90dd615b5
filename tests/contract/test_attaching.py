"""Volumes of existing instances, on every engine that can."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.contract.adapters import TESTS, Adapter
from triune.domain.errors import Conflict, NotFound
from triune.domain.image import FormKind
from triune.domain.instance import VolumeMount
from triune.domain.operation import Silent
from triune.domain.pool import Volume, VolumeKind
from triune.engines.base import Attaching, Engine


@pytest.fixture
def attaching(engine: Engine) -> Attaching:
    """The facet."""
    if engine.attaching is None:
        assert "attaching" in engine.probe().missing
        pytest.skip(f"by design: {engine.probe().missing['attaching']}")
    return engine.attaching


@pytest.fixture
def volume(adapter: Adapter, engine: Engine) -> Iterator[Volume]:
    """One that this engine can use: a disk for machines, a folder for containers."""
    folder = TESTS / f"contract-volume-{adapter.name}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, mode=0o711)
    disk = engine.form_kind is FormKind.DISK
    path = folder / ("data.raw" if disk else "data")
    if disk:
        with path.open("wb") as file:
            file.truncate(8 << 20)
    else:
        path.mkdir()
    yield Volume(
        name="tdoc-data",
        pool="default",
        kind=VolumeKind.DISK if disk else VolumeKind.TREE,
        path=path,
        created=datetime.now(UTC),
        format="raw" if disk else "",
    )
    shutil.rmtree(folder)


def mount(volume: Volume, target: str = "/tdoc") -> VolumeMount:
    return VolumeMount(
        source=str(volume.path),
        target="" if volume.kind is VolumeKind.DISK else target,
        volume=volume.name,
        format=volume.format,
    )


def sources(engine: Engine, name: str) -> set[Path]:
    """Files and folders of the host that it has."""
    return {Path(str(device["source"])) for device in engine.get(name).devices if device.get("source")}


@pytest.fixture(params=["stopped", "running"])
def instance(request: pytest.FixtureRequest, adapter: Adapter, engine: Engine, created: str) -> str:
    """A fresh instance; running only where the engine attaches to what runs."""
    if request.param == "running":
        if engine.attaching is not None and not engine.attaching.live:
            pytest.skip("by design: attaches to what is stopped")
        engine.start(created, Silent())
        # A guest that is only booting does not answer to a device that shall go.
        engine.wait_ready(created, adapter.patience, Silent())
    return created


class TestAttaching:
    def test_it_comes_and_goes(self, engine: Engine, attaching: Attaching, volume: Volume, instance: str) -> None:
        before = sources(engine, instance)
        attaching.attach(instance, volume, mount(volume), Silent())
        assert sources(engine, instance) - before == {volume.path}
        for _ in range(2):
            attaching.detach(instance, volume, Silent())
            assert sources(engine, instance) == before

    def test_it_is_there_after_a_restart(
        self, engine: Engine, attaching: Attaching, volume: Volume, created: str
    ) -> None:
        attaching.attach(created, volume, mount(volume), Silent())
        for _ in range(2):
            engine.start(created, Silent())
            assert volume.path in sources(engine, created)
            engine.stop(created, timeout=0, force=True, progress=Silent())
        attaching.detach(created, volume, Silent())
        engine.start(created, Silent())
        assert volume.path not in sources(engine, created)

    def test_deleting_the_instance_leaves_it(
        self, engine: Engine, attaching: Attaching, volume: Volume, instance: str
    ) -> None:
        if volume.kind is VolumeKind.TREE:
            (volume.path / "file").write_text("kept")
        attaching.attach(instance, volume, mount(volume), Silent())
        engine.delete(instance)
        assert volume.path.exists()
        assert volume.kind is VolumeKind.DISK or (volume.path / "file").read_text() == "kept"

    def test_a_place_is_taken_once(self, attaching: Attaching, volume: Volume, created: str) -> None:
        if volume.kind is VolumeKind.DISK:
            pytest.skip("by design: a disk has no place")
        attaching.attach(created, volume, mount(volume), Silent())
        with pytest.raises(Conflict) as caught:
            attaching.attach(created, volume, mount(volume), Silent())
        assert caught.value.code == "target_taken"

    def test_an_instance_that_is_not_there(self, attaching: Attaching, volume: Volume) -> None:
        with pytest.raises(NotFound):
            attaching.attach("tdoc-none", volume, mount(volume), Silent())
        with pytest.raises(NotFound):
            attaching.detach("tdoc-none", volume, Silent())
