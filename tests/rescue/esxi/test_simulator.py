"""A host as govmomi simulates it: what it has, and its intact files as a volume."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.rescue.esxi.host import PASSWORD
from tests.rescue.esxi.simulated import Simulated, Unbuildable, simulated
from triune.disks.content import read
from triune.domain.errors import Conflict, Denied, NotFound
from triune.domain.rescue import FileKind, Status
from triune.services.rescue.esxi.access import Access, Passwords
from triune.services.rescue.esxi.address import parse_address
from triune.services.rescue.esxi.opening import list_folder, list_host, open_address
from triune.services.rescue.esxi.volume import DatastoreVolume

pytestmark = pytest.mark.heavy
DISK = random.Random(9).randbytes((3 << 20) + 5)


@pytest.fixture(scope="module")
def esxi() -> Iterator[Simulated]:
    try:
        with simulated() as running:
            folder = running.folder / "ha-host_VM0" / "a folder"
            folder.mkdir(parents=True)
            (folder / "disk%1-flat.vmdk").write_bytes(DISK)
            (folder / "empty").write_bytes(b"")
            yield running
    except Unbuildable as lacks:
        pytest.skip(str(lacks))


def test_what_a_host_has(esxi: Simulated, access: Access) -> None:
    found = list_host(parse_address(esxi.address()), access)
    assert [store.name for store in found.datastores] == [esxi.datastore]
    assert found.datastores[0].accessible
    assert found.datastores[0].size > found.datastores[0].free > 0
    assert [machine.name for machine in found.machines] == ["ha-host_VM0", "ha-host_VM1"]
    assert found.machines[0].vmx == f"[{esxi.datastore}] ha-host_VM0/ha-host_VM0.vmx"
    assert found.machines[0].state == "poweredOn"
    assert found.devices


def test_folders(esxi: Simulated, access: Access) -> None:
    top = list_folder(parse_address(esxi.address(esxi.datastore)), access)
    assert top is not None
    assert {(entry.name, entry.folder) for entry in top} >= {("ha-host_VM0", True), ("ha-host_VM1", True)}
    below = list_folder(parse_address(esxi.address(f"{esxi.datastore}/ha-host_VM0/a folder")), access)
    assert below is not None
    assert [(entry.name, entry.folder, entry.size) for entry in below] == [
        ("disk%1-flat.vmdk", False, len(DISK)),
        ("empty", False, 0),
    ]
    assert below[0].modified > 1_600_000_000
    assert list_folder(parse_address(esxi.address(f"{esxi.datastore}/ha-host_VM0/a folder/empty")), access) is None
    for path, said in ((f"{esxi.datastore}/none", "no folder"), ("none", "no datastore none")):
        with pytest.raises(NotFound, match=said):
            list_folder(parse_address(esxi.address(path)), access)


def test_a_file_as_a_source(esxi: Simulated, access: Access) -> None:
    address = parse_address(esxi.address(f"{esxi.datastore}/ha-host_VM0/a folder/disk%251-flat.vmdk"))
    source = open_address(address, access)
    assert source.size == len(DISK)
    assert source.read(1 << 20, 1000) == DISK[1 << 20 :][:1000]
    assert source.read(0, 1 << 30) == DISK
    source.close()


def test_a_datastore_as_a_volume(esxi: Simulated, access: Access) -> None:
    volume = DatastoreVolume(parse_address(esxi.address(esxi.datastore)), access)
    found = {each.path: each for each in volume.walk()}
    assert (volume.label, list(volume.damages())) == (esxi.datastore, [])
    paths = list(found)
    assert paths.index("ha-host_VM0") < paths.index("ha-host_VM0/a folder") < paths.index("ha-host_VM0/a folder/empty")
    assert found["ha-host_VM0/a folder"].kind is FileKind.FOLDER
    disk = volume.find("/ha-host_VM0/a folder/disk%1-flat.vmdk")
    assert (disk.size, disk.status, disk.kind) == (len(DISK), Status.INTACT, FileKind.FILE)
    content = volume.open(disk)
    assert read(content, 100, len(DISK)) == DISK[100:]
    assert list(volume.open(found["ha-host_VM0/a folder/empty"]).runs()) == []
    for each in found.values():  # more files than are kept open at once
        if each.kind is FileKind.FILE:
            assert len(read(volume.open(each), 0, 1 << 20)) == min(each.size, 1 << 20)
    assert read(content, 0, 10) == DISK[:10]
    with pytest.raises(Conflict):
        volume.open(found["ha-host_VM0"])
    with pytest.raises(NotFound) as absent:
        volume.find("ha-host_VM0/ha-host_VM0.vmxx")
    assert "ha-host_VM0.vmx" in absent.value.hint
    volume.close()


def test_a_wrong_password(esxi: Simulated, access: Access) -> None:
    with pytest.raises(Denied) as refused:
        list_host(parse_address(esxi.address()), replace(access, passwords=Passwords(ask=lambda who: "wrong")))
    assert refused.value.code == "login_refused"


def test_an_unknown_certificate(esxi: Simulated, access: Access) -> None:
    with pytest.raises(Denied, match="sha256:"):
        list_host(parse_address(esxi.address()), replace(access, accept_new=False))


def test_commands_on_a_datastore(
    esxi: Simulated, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from triune.cli.root import main

    monkeypatch.setenv("TRIUNE_ESXI_PASSWORD", PASSWORD)
    store = esxi.address(esxi.datastore)
    assert main(["rescue", "ls", esxi.address(), "--accept-new"]) == 0
    assert f"[{esxi.datastore}] ha-host_VM0/ha-host_VM0.vmx" in capsys.readouterr().out
    assert main(["rescue", "ls", f"{store}/ha-host_VM0/a folder", "--format", "json"]) == 0
    assert [row["path"] for row in json.loads(capsys.readouterr().out)] == [
        "ha-host_VM0/a folder/disk%1-flat.vmdk",
        "ha-host_VM0/a folder/empty",
    ]
    assert main(["rescue", "find", store, "--vmx", "--format", "json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 2
    file = f"{store}/ha-host_VM0/a folder/disk%251-flat.vmdk"
    assert main(["rescue", "stat", file, "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["size"] == len(DISK)
    assert main(["rescue", "preview", file]) == 0
    assert "FLAT disk%1-flat.vmdk" in capsys.readouterr().out
    target = tmp_path / "out"
    assert main(["rescue", "extract", store, "ha-host_VM0/a folder", "--to", str(target), "-q"]) == 0
    assert (target / "ha-host_VM0" / "a folder" / "disk%1-flat.vmdk").read_bytes() == DISK
    (row,) = [row for row in json.loads((target / "manifest.json").read_text()) if row["size"] == len(DISK)]
    assert (row["sha256"], row["status"]) == (hashlib.sha256(DISK).hexdigest(), "intact")
