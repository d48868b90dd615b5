"""Volumes from files and to files: nothing is lost, nothing hostile gets out of its folder."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import nasty
from tests.api.house import House
from tests.api.test_api_storage import done, refused
from triune.domain.errors import TriuneError

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="volumes belong to root")


@pytest.fixture
def house(house: House) -> Iterator[House]:
    yield house
    house.clear()
    for volume in house.client.volumes.list():
        done(house, house.client.volumes.remove(volume["name"]))


def without(found: dict[str, tuple[object, ...]], *letters: str) -> dict[str, tuple[object, ...]]:
    """Without entries whose mode begins with one of these."""
    return {key: value for key, value in found.items() if str(value[0])[0] not in letters}


def failed(house: House, code: str, operation: Any) -> TriuneError:
    with pytest.raises(TriuneError) as caught:
        done(house, operation)
    assert caught.value.code == code, caught.value
    return caught.value


def place(house: House, name: str) -> Path:
    return Path(house.client.volumes.get(name)["path"])


@pytest.fixture
def tree(folder: Path) -> Path:
    path = folder / "tree"
    path.mkdir()
    nasty.make(path)
    return path


def test_a_folder_loses_nothing(house: House, tree: Path) -> None:
    done(house, house.client.volumes.import_path("data", str(tree)))
    assert nasty.fingerprint(place(house, "data")) == nasty.fingerprint(tree)


@pytest.mark.parametrize("end", ["tar", "tar.gz", "tar.zst"])
def test_an_archive_out_and_in_loses_only_devices_and_sockets(house: House, tree: Path, folder: Path, end: str) -> None:
    volumes = house.client.volumes
    done(house, volumes.import_path("data", str(tree)))
    file = folder / f"data.{end}"
    result = done(house, volumes.export("data", str(file)))
    assert result["size"] == file.stat().st_size and "1 sockets" in result["notes"][0]
    assert file.stat().st_mode & 0o777 == 0o600
    done(house, volumes.import_path("again", str(file)))
    before, after = without(nasty.fingerprint(tree), "b", "c", "s"), nasty.fingerprint(place(house, "again"))
    assert after == before
    refused("file_exists", volumes.export, "data", str(file))
    assert sorted(entry.name for entry in folder.iterdir()) == sorted([file.name, "tree"])


def test_disks_go_out_and_come_in_in_every_format(house: House, folder: Path) -> None:
    volumes = house.client.volumes
    content = os.urandom(1 << 20)
    (folder / "disk").write_bytes(content + bytes(3 << 20))
    refused("bad_format", volumes.import_path, "data", str(folder / "disk"), format="vdi")
    failed(house, "format_undeclared", volumes.import_path("data", str(folder / "disk")))
    done(house, volumes.import_path("raw", str(folder / "disk"), format="raw"))
    assert place(house, "raw").read_bytes() == content + bytes(3 << 20)
    for form in ("qcow2", "vmdk"):
        done(house, volumes.export("raw", str(folder / form), form))
        done(house, volumes.import_path(form, str(folder / form)))
        found = volumes.get(form)
        assert (found["format"], found["size"]) == (form, 4 << 20)
        done(house, volumes.convert(form, "raw"))
        assert place(house, form).read_bytes() == content + bytes(3 << 20)
    for name, magic in (("named.vmdk", b"KDMV"), ("named.QCOW2", b"QFI\xfb"), ("named.bak", content[:4])):
        done(house, volumes.export("raw", str(folder / name)))
        assert (folder / name).read_bytes()[:4] == magic
    failed(house, "format_mismatch", volumes.import_path("wrong", str(folder / "qcow2"), format="vmdk"))
    assert {volume["name"] for volume in volumes.list()} == {"raw", "qcow2", "vmdk"}
    assert list((place(house, "raw").parents[1] / "tmp").iterdir()) == []


def test_an_upload_is_imported(house: House, folder: Path) -> None:
    (folder / "disk").write_bytes(b"x" * (1 << 20))
    with (folder / "disk").open("rb") as file:
        done(house, house.client.volumes.import_file("data", file, 1 << 20, format="raw"))
    assert place(house, "data").read_bytes() == b"x" * (1 << 20)
    assert list((house.settings.data / "uploads").iterdir()) == []


def test_a_disk_that_names_another_file_is_refused(house: House, folder: Path) -> None:
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", "-b", "/etc/passwd", "-F", "raw", folder / "evil", "1M"], check=True
    )
    failed(house, "backing_file_refused", house.client.volumes.import_path("evil", str(folder / "evil")))
    assert house.client.volumes.list() == []


def archive(path: Path, *members: tuple[str, dict[str, Any]]) -> None:
    with tarfile.open(path, "w") as out:
        for name, fields in members:
            info = tarfile.TarInfo(name)
            data = fields.pop("data", b"")
            info.size = len(data)
            for key, value in fields.items():
                setattr(info, key, value)
            out.addfile(info, io.BytesIO(data))


@pytest.mark.parametrize(
    "members",
    [
        [("../out", {"data": b"x"})],
        [("/etc/triune-out", {"data": b"x"})],
        [("link", {"type": tarfile.SYMTYPE, "linkname": "/etc"}), ("link/triune-out", {"data": b"x"})],
        [("hard", {"type": tarfile.LNKTYPE, "linkname": "../../../etc/passwd"})],
        [("data", {"data": b"x", "pax_headers": {"SCHILY.acl.access": "user::rwx,nobody"}})],
    ],
    ids=["dots", "absolute", "link", "hardlink", "acl"],
)
def test_hostile_archives_stay_inside(house: House, folder: Path, members: list[tuple[str, dict[str, Any]]]) -> None:
    archive(folder / "evil.tar", *((name, dict(fields)) for name, fields in members))
    with pytest.raises(TriuneError) as caught:
        done(house, house.client.volumes.import_path("evil", str(folder / "evil.tar")))
    assert caught.value.code in ("unsafe_archive", "corrupt_archive")
    assert house.client.volumes.list() == []
    assert not Path("/etc/triune-out").exists()
    pool = Path(house.client.pools.get("default")["path"])
    assert list((pool / "trees").iterdir()) == [] == list((pool / "tmp").iterdir())


def test_attributes_that_steer_the_host_are_left_out(house: House, folder: Path) -> None:
    headers = {
        "SCHILY.xattr.trusted.overlay.redirect": "/etc",
        "SCHILY.xattr.security.selinux": "label",
        "SCHILY.xattr.user.note": "kept",
    }
    archive(folder / "odd.tar", ("file", {"data": b"x", "pax_headers": headers}))
    done(house, house.client.volumes.import_path("odd", str(folder / "odd.tar")))
    assert os.listxattr(place(house, "odd") / "file") == ["user.note"]


def test_wrong_imports_and_exports(house: House, folder: Path) -> None:
    volumes = house.client.volumes
    done(house, volumes.create("data"))
    done(house, volumes.create("disk", format="raw", size="8MiB"))
    refused("file_not_found", volumes.import_path, "new", "/no/such/file")
    refused("bad_path", volumes.import_path, "new", "relative")
    refused("bad_path", volumes.import_path, "new", str(house.settings.data))
    refused("volume_exists", volumes.import_path, "data", str(folder))
    refused("pool_not_found", volumes.import_path, "new", str(folder), pool="nowhere")
    refused("bad_name", volumes.import_path, "A b", str(folder))
    refused("no_quota", volumes.import_path, "new", str(folder), size="1GiB")
    refused("bad_format", volumes.export, "data", str(folder / "data.zip"))
    refused("bad_format", volumes.export, "data", str(folder / "data.tar"), "raw")
    refused("bad_format", volumes.export, "disk", str(folder / "disk"), "vdi")
    refused("bad_path", volumes.export, "data", str(folder / "none" / "data.tar"))
    refused("control_character", volumes.export, "data", str(folder / "a\nb.tar"))
    (folder / "note").write_text("no disk")
    failed(house, "format_undeclared", volumes.import_path("new", str(folder / "note")))
    (folder / "empty").touch()
    failed(house, "empty_file", volumes.import_path("new", str(folder / "empty")))
    assert sorted(entry.name for entry in folder.iterdir()) == ["empty", "note"]
