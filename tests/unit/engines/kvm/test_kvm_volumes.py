"""Volumes in a domain's XML, and disks that lie in a pool."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from tests.unit.engines.kvm.plans import EMULATED, FILES, plan

from triune.domain.errors import Invalid
from triune.domain.instance import VolumeMount
from triune.domain.pool import PoolDriver, PoolPlace
from triune.engines.kvm import folders, volumes
from triune.engines.kvm.spec import build

DISK = VolumeMount(source="/pool/disks/data.raw", target="", volume="data", format="raw", read_only=True)


def test_a_disk_is_a_device_with_a_name_that_the_guest_finds() -> None:
    root = ET.fromstring(build(plan(volumes=(DISK,)), FILES, EMULATED))
    (disk,) = [one for one in root.iterfind("devices/disk") if one.findtext("serial") == "data"]
    assert disk.find("source").get("file") == "/pool/disks/data.raw"  # type: ignore[union-attr]
    assert disk.find("driver").get("type") == "raw"  # type: ignore[union-attr]
    assert disk.find("target").get("dev") == "vdb"  # type: ignore[union-attr]
    assert disk.find("readonly") is not None and disk.find("backingStore") is not None
    assert root.find("memoryBacking") is None and root.find("devices/filesystem") is None


def test_no_path_breaks_the_xml() -> None:
    for broken in (
        lambda text: volumes.disk(VolumeMount(source=text, target="", format="raw"), "vdb", "virtio"),
        lambda text: volumes.share(VolumeMount(source=text, target="/x"), "triune0"),
    ):
        with pytest.raises(Invalid):
            broken("/a\nb")


def test_a_disk_in_a_pool_goes_with_its_instance_and_with_no_other(tmp_path: Path) -> None:
    pool = PoolPlace(name="p", driver=PoolDriver.DIR, path=tmp_path / "pool")
    (pool.path / "instances").mkdir(parents=True)
    state = tmp_path / "state"
    for name in ("web", "db"):
        (state / name).mkdir(parents=True)
        folders.place_disk(state / name, pool, "kvm")
        (state / name / folders.DISK).write_text(name)
    places = pool.path / "instances" / "kvm"
    assert sorted(place.name.partition(".")[0] for place in places.iterdir()) == ["db", "web"]
    # Half a rename: two folders lead to one disk.
    (state / "new").mkdir()
    (state / "new" / folders.DISK).symlink_to((state / "web" / folders.DISK).readlink())
    folders.remove(state / "web")
    assert (state / "new" / folders.DISK).read_text() == "web"
    for _ in range(2):
        folders.remove(state / "new")
    assert [place.name[:2] for place in places.iterdir()] == ["db"]


def test_a_link_to_somewhere_else_is_not_followed(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").touch()
    own = tmp_path / "state" / "web"
    own.mkdir(parents=True)
    (own / folders.DISK).symlink_to(precious / "file")
    folders.remove(own)
    assert not own.exists() and (precious / "file").exists()
