"""Pools and volumes over the API: what is made, refused, and left behind."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.api.house import House
from tests.patience import PATIENCE
from triune.domain.errors import TriuneError

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="pools belong to root")


@pytest.fixture
def house(house: House) -> Iterator[House]:
    empty(house)  # generated requests may have left something
    yield house
    empty(house)


def empty(house: House) -> None:
    """Take instances, volumes and pools away."""
    house.clear()
    for volume in house.client.volumes.list():
        done(house, house.client.volumes.remove(volume["name"]))
    for pool in house.client.pools.list():
        if pool["name"] != "default":
            done(house, house.client.pools.remove(pool["name"]))


def done(house: House, operation: Any) -> Any:
    return house.client.operations.result(operation["id"], timeout=PATIENCE)


def refused(code: str, call: Any, *args: Any, **options: Any) -> TriuneError:
    with pytest.raises(TriuneError) as caught:
        call(*args, **options)
    assert caught.value.code == code, caught.value
    assert caught.value.hint
    return caught.value


def test_a_pool_lives_and_dies(house: House, folder: Path) -> None:
    pools, path = house.client.pools, folder / "pool"
    assert [pool["name"] for pool in pools.list()] == ["default"]
    assert done(house, pools.create("one", path=str(path)))["path"] == str(path)
    found = pools.get("one")
    assert found["available"] and found["driver"] == "dir" and not found["quota"] and found["quota_reason"]
    assert (path / "trees").stat().st_mode & 0o777 == 0o700
    refused("pool_exists", pools.create, "one")
    refused("pool_path_taken", pools.create, "two", path=str(path / "inner"))
    refused("pool_path_taken", pools.create, "two", path=str(folder))
    done(house, pools.remove("one"))
    assert not path.exists()
    assert "one" in refused("pool_not_found", pools.get, "one").message


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"name": "a b"}, "bad_name"),
        ({"name": "a\nb"}, "bad_name"),
        ({"path": "relative"}, "bad_path"),
        ({"path": "/srv/../etc"}, "bad_path"),
        ({"path": "/srv/a\nb"}, "control_character"),
        ({"path": "/etc"}, "path_not_empty"),
        ({"path": "/etc/passwd"}, "bad_path"),
        ({"size": "1GiB"}, "bad_pool"),
        ({"dataset": "tank/x"}, "bad_pool"),
        ({"driver": "btrfs"}, "size_needed"),
        ({"driver": "btrfs", "size": "1MiB"}, "pool_too_small"),
        ({"driver": "btrfs", "size": "900TiB"}, "no_space"),
        ({"driver": "btrfs", "path": "/proc/x"}, "not_btrfs"),
        ({"driver": "zfs", "dataset": "tank/x"}, "no_zfs"),
        ({"driver": "tape"}, "bad_request"),
    ],
)
def test_wrong_pools(house: House, options: dict[str, Any], code: str) -> None:
    refused(code, house.client.pools.create, **{"name": "wrong", **options})
    assert [pool["name"] for pool in house.client.pools.list()] == ["default"]


def test_a_folder_that_others_can_write_is_no_pool(house: House, folder: Path) -> None:
    loose = folder / "loose"
    loose.mkdir()
    loose.chmod(0o777)
    refused("unsafe_path", house.client.pools.create, "loose", path=str(loose))
    (folder / "link").symlink_to(folder)
    refused("bad_path", house.client.pools.create, "loose", path=str(folder / "link" / "x"))


def test_a_folder_that_was_there_stays(house: House, folder: Path) -> None:
    path = folder / "mine"
    path.mkdir(mode=0o750)
    done(house, house.client.pools.create("mine", path=str(path)))
    done(house, house.client.pools.remove("mine"))
    assert list(path.iterdir()) == []
    assert path.stat().st_mode & 0o777 == 0o750


def test_a_pool_that_is_away_is_unavailable_and_comes_back(house: House, folder: Path) -> None:
    path = folder / "away"
    done(house, house.client.pools.create("away", path=str(path)))
    done(house, house.client.volumes.create("data", pool="away"))
    path.rename(folder / "elsewhere")
    path.mkdir()
    found = house.client.pools.get("away")
    assert not found["available"] and "mounted" in found["reason"] and found["size"] is None
    assert "unavailable" in house.client.volumes.get("data")["reason"]
    refused("pool_unavailable", house.client.volumes.create, "more", pool="away")
    refused("pool_unavailable", house.launch, "web", volumes=["data:/srv"])
    refused("pool_unavailable", house.launch, "web", pool="away")
    house.triune.storage.start()
    assert list(path.iterdir()) == []
    path.rmdir()
    (folder / "elsewhere").rename(path)
    assert house.client.pools.get("away")["available"]
    assert house.client.volumes.get("data")["reason"] == ""


def test_volumes_live_and_die(house: House) -> None:
    volumes = house.client.volumes
    done(house, volumes.create("data"))
    done(house, volumes.create("disk", format="raw", size="8MiB"))
    tree, disk = volumes.get("data"), volumes.get("disk")
    assert (tree["kind"], tree["size"], tree["format"]) == ("tree", None, "")
    assert (disk["kind"], disk["size"], disk["format"]) == ("disk", 8 << 20, "raw")
    assert Path(tree["path"]).is_dir() and Path(disk["path"]).stat().st_size == 8 << 20
    assert house.client.pools.get("default")["used_by"] == ["volume data", "volume disk"]
    refused("volume_exists", volumes.create, "data")
    assert "'data'" in refused("volume_not_found", volumes.get, "dta").hint
    for name in ("data", "disk"):
        done(house, volumes.remove(name))
    assert volumes.list() == []
    assert not Path(tree["path"]).exists() and not Path(disk["path"]).exists()


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"name": "A"}, "bad_name"),
        ({"name": "a\nb"}, "bad_name"),
        ({"pool": "defualt"}, "pool_not_found"),
        ({"pool": "a\nb"}, "control_character"),
        ({"size": "1GiB"}, "no_quota"),
        ({"kind": "tree", "format": "raw"}, "bad_volume"),
        ({"format": "vdi", "size": "1GiB"}, "bad_format"),
        ({"kind": "disk", "size": "5"}, "bad_size"),
        ({"kind": "disk", "size": "8EiB"}, "bad_size"),
    ],
)
def test_wrong_volumes(house: House, options: dict[str, Any], code: str) -> None:
    refused(code, house.client.volumes.create, **{"name": "wrong", **options})


def test_a_disk_without_a_size_leaves_nothing(house: House) -> None:
    with pytest.raises(TriuneError) as caught:
        done(house, house.client.volumes.create("disk", kind="disk"))
    assert caught.value.code == "size_needed"
    assert house.client.volumes.list() == []


def test_what_is_used_stays(house: House) -> None:
    volumes, pools = house.client.volumes, house.client.pools
    done(house, pools.create("used"))
    done(house, volumes.create("data", pool="used"))
    house.launch("web", volumes=["data:/srv"], pool="used")
    assert volumes.get("data")["used_by"] == ["web"]
    assert pools.get("used")["used_by"] == ["volume data", "web"]
    assert "web" in refused("volume_in_use", volumes.remove, "data").message
    refused("pool_in_use", pools.remove, "used")
    refused("pool_is_default", pools.remove, "default")
    done(house, house.client.instances.remove("web", force=True))
    done(house, volumes.remove("data"))
    done(house, pools.remove("used"))


def test_a_volume_needs_a_place_and_a_disk_has_none(house: House) -> None:
    done(house, house.client.volumes.create("data"))
    done(house, house.client.volumes.create("disk", format="qcow2", size="8MiB"))
    refused("bad_volume", house.launch, "web", volumes=["data"])
    refused("bad_volume", house.launch, "web", volumes=["disk:/srv"])
    assert "'data'" in refused("volume_not_found", house.launch, "web", volumes=["dato:/srv"]).hint
    assert "'default'" in refused("pool_not_found", house.launch, "web", pool="defult").hint


def test_a_disk_is_resized_and_converted(house: House) -> None:
    volumes = house.client.volumes
    done(house, volumes.create("disk", format="raw", size="8MiB"))
    with Path(volumes.get("disk")["path"]).open("r+b") as file:
        file.write(b"content" * 1000)
    for form in ("vmdk", "qcow2", "raw"):
        done(house, volumes.convert("disk", form))
        found = volumes.get("disk")
        assert found["format"] == form and Path(found["path"]).suffix == f".{form}"
        done(house, volumes.resize("disk", found["size"] + (4 << 20)))
    found = volumes.get("disk")
    assert found["size"] == 20 << 20 == Path(found["path"]).stat().st_size
    assert Path(found["path"]).read_bytes().startswith(b"content" * 1000)
    with pytest.raises(TriuneError) as caught:
        done(house, volumes.resize("disk", 8 << 20))
    assert caught.value.code == "cannot_shrink"
    assert [entry.name for entry in Path(found["path"]).parent.iterdir()] == ["disk.raw"]
    assert list((Path(found["path"]).parents[1] / "tmp").iterdir()) == []


def test_what_can_not_be_converted_is_said(house: House) -> None:
    volumes = house.client.volumes
    done(house, volumes.create("data"))
    done(house, volumes.create("disk", format="qcow2", size="8MiB"))
    refused("not_a_disk", volumes.convert, "data", "raw")
    refused("bad_format", volumes.convert, "disk", "vdi")
    house.launch("vm", "kvm", volumes=["disk"])
    refused("volume_in_use", volumes.convert, "disk", "raw")
    refused("volume_in_use", volumes.resize, "disk", "16MiB")
    done(house, house.client.instances.stop("vm", force=True))
    done(house, volumes.resize("disk", "16MiB"))


def test_volumes_come_and_go_while_an_instance_lives(house: House) -> None:
    volumes = house.client.volumes
    house.launch("web")
    house.launch("other")
    for name, options in (("data", {}), ("more", {}), ("disk", {"format": "qcow2", "size": "8MiB"})):
        done(house, volumes.create(name, **options))
    done(house, volumes.attach("web", "data", "/srv"))
    done(house, volumes.attach("web", "disk"))
    assert volumes.get("data")["used_by"] == ["web"] == volumes.get("disk")["used_by"]
    assert house.engine("lxc")._instances["web"].volumes == {"data": "/srv", "disk": ""}
    refused("volume_attached", volumes.attach, "web", "data", "/other")
    refused("target_taken", volumes.attach, "web", "more", "/srv/")
    refused("volume_in_use", volumes.attach, "other", "disk")
    refused("volume_in_use", house.launch, "third", volumes=["disk"])
    refused("bad_volume", volumes.attach, "web", "more")
    refused("bad_volume", volumes.attach, "web", "more", "../x")
    refused("control_character", volumes.attach, "web", "more", "/a\nb")
    refused("volume_not_found", volumes.attach, "web", "mroe", "/x")
    refused("instance_not_found", volumes.attach, "wbe", "more", "/x")
    refused("volume_not_attached", volumes.detach, "web", "more")
    refused("volume_in_use", volumes.remove, "data")
    done(house, volumes.attach("other", "data", "/shared"))
    for instance in ("web", "other"):
        done(house, volumes.detach(instance, "data"))
    done(house, volumes.detach("web", "disk"))
    assert house.engine("lxc")._instances["web"].volumes == {}
    assert volumes.get("data")["used_by"] == []


def test_a_volume_that_is_busy_stays_attached(house: House) -> None:
    done(house, house.client.volumes.create("data"))
    house.launch("web", settings={"volumes": "busy"}, volumes=["data:/srv"])
    with pytest.raises(TriuneError) as caught:
        done(house, house.client.volumes.detach("web", "data"))
    assert caught.value.code == "volume_busy"
    assert house.client.volumes.get("data")["used_by"] == ["web"]
    done(house, house.client.instances.stop("web", force=True))
    done(house, house.client.volumes.detach("web", "data"))


def test_what_was_not_launched_here_gets_no_volume(house: House) -> None:
    done(house, house.client.volumes.create("data"))
    house.engine("lxc").adopt("found")
    refused("instance_adopted", house.client.volumes.attach, "found", "data", "/srv")
