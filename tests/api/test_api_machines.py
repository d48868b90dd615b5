"""Imports of machines over HTTP and by the command line, on fake engines and with a real qemu-img."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.api.house import House
from tests.patience import PATIENCE
from tests.unit.services.machines.made import flat
from triune.domain.errors import Conflict, Failed, Invalid, NotFound, TriuneError, Unsupported
from triune.services.machines import injecting, transfer
from triune.services.machines.origin import open_file
from triune.services.machines.serving import serve

pytestmark = pytest.mark.skipif(shutil.which("qemu-img") is None, reason="needs qemu-img")

DATA = bytes(range(256)) * 256
VMX = """displayName = "web"
guestOS = "other-64"
memSize = "64"
scsi0.present = "TRUE"
scsi0:0.present = "TRUE"
scsi0:0.fileName = "web.vmdk"
ethernet0.present = "TRUE"
ethernet0.networkName = "VM Network"
ethernet0.addressType = "static"
ethernet0.address = "00:50:56:00:00:09"
strange.key = "1"
"""


@pytest.fixture
def vmx(tmp_path: Path) -> Path:
    (tmp_path / "web.vmx").write_text(VMX)
    (tmp_path / "web.vmdk").write_bytes(flat("web", len(DATA) // 512))
    (tmp_path / "web-flat.vmdk").write_bytes(DATA)
    return tmp_path / "web.vmx"


def body(**more: Any) -> dict[str, Any]:
    disk = {"slot": "scsi0:0", "socket": "/nowhere", "export": "disk"}
    return {"disks": [disk], "memory": 64 << 20, **more}


def test_an_import(house: House, vmx: Path) -> None:
    with open_file(vmx) as origin, serve(origin.disks) as exports:
        export = exports["scsi0:0"]
        disk = {"slot": "scsi0:0", "bus": "sata", "socket": str(export.socket), "export": export.name}
        card = {"slot": "ethernet0", "mac": "00:50:56:00:00:09", "model": "e1000"}
        operation = house.client.machines.import_machine("web", body(disks=[disk], cards=[card], tpm=True))
        result = house.client.operations.result(operation["id"], timeout=PATIENCE)
    assert (result["up"], result["sign"], result["engine"]) == (True, "agent", "kvm")
    assert result["disks"][0]["equal"] is True
    assert result["disks"][0]["size"] == len(DATA)
    assert "TPM" in result["notes"][0]
    told = [step["name"] for step in house.client.operations.get(operation["id"])["steps"]]
    assert told.index("lacking") < told.index("convert"), "before anything is copied"
    row = house.client.instances.get("web")
    assert (row["origin"], row["state"], row["network"][0]["mac"]) == ("managed", "running", "00:50:56:00:00:09")


def refused(house: House, **more: Any) -> TriuneError:
    with pytest.raises(TriuneError) as caught:
        house.client.machines.import_machine("web", body(**more))
    return caught.value


def test_what_is_refused_at_once(house: House, tmp_path: Path) -> None:
    assert refused(house).code == "no_socket"
    assert isinstance(refused(house, engine="none"), Invalid)
    assert isinstance(refused(house, engine="lxc"), Unsupported)
    assert refused(house, cards=[{"slot": "a", "mac": "01:00:00:00:00:00"}]).code == "bad_mac"
    assert isinstance(refused(house, cards=[{"slot": "a", "network": "none-such"}]), NotFound)
    twice = [{"slot": "a", "socket": "/x", "export": "d"}] * 2
    assert refused(house, disks=twice).code == "disks_unclear"
    house.client.operations.result(house.client.instances.launch(name="web", image="debian/12")["id"], timeout=PATIENCE)
    assert isinstance(refused(house), Conflict)


def test_a_source_that_breaks_off_leaves_nothing(house: House, vmx: Path) -> None:
    with open_file(vmx) as origin, serve(origin.disks) as exports:
        export = exports["scsi0:0"]
        disk = {"slot": "scsi0:0", "socket": str(export.socket), "export": "another"}
        operation = house.client.machines.import_machine("web", body(disks=[disk]))
        with pytest.raises(Failed):
            house.client.operations.result(operation["id"], timeout=PATIENCE)
    with pytest.raises(NotFound):
        house.client.instances.get("web")


def test_the_command_line(house: House, vmx: Path, tmp_path: Path) -> None:
    planned = house.run("import", str(vmx), "--name", "web", "--plan", "--format", "json")
    facts = json.loads(planned.stdout)
    assert [one["key"] for one in facts["not_carried_over"]] == ["strange.key"]
    assert facts["machine"]["disks"][0]["bus"] == "sata"
    assert house.client.instances.list()[0] == []
    done = house.run("import", str(vmx), "--name", "web", "--report", str(tmp_path / "report.json"))
    assert b"content equal" in done.stdout
    assert b"web came up: its guest agent answers" in done.stdout
    assert json.loads((tmp_path / "report.json").read_text())["result"]["up"] is True


def tool(places: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """A stand-in for virt-v2v's tool, for the daemon in this process."""
    places.mkdir(exist_ok=True)
    monkeypatch.setattr(injecting, "_PLACES", str(places))
    monkeypatch.setattr(injecting, "_APART", ())
    monkeypatch.setenv("SUPERMIN_KERNEL", "/vmlinuz")
    for name in (injecting.TOOL, "nbdkit"):
        (places / name).write_text(f"#!/bin/sh\n{script}\n")
        (places / name).chmod(0o755)


def imported(house: House, vmx: Path) -> dict[str, Any]:
    with open_file(vmx) as origin, serve(origin.disks) as exports:
        export = exports["scsi0:0"]
        disk = {"slot": "scsi0:0", "socket": str(export.socket), "export": export.name}
        operation = house.client.machines.import_machine("web", body(disks=[disk], inject_drivers=True))
        return house.client.operations.result(operation["id"], timeout=PATIENCE)


def test_drivers_are_put_into_the_copy(
    house: House, vmx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool(tmp_path / "bin", monkeypatch, f'for last; do :; done; cp "$last" {tmp_path}/machine.xml')
    result = imported(house, vmx)
    assert (result["drivers"]["tool"], result["up"]) == ("virt-v2v-in-place", True)
    assert b'type="qcow2"' in (tmp_path / "machine.xml").read_bytes()
    assert (vmx.parent / "web-flat.vmdk").read_bytes() == DATA, "the source is never touched"


def test_drivers_that_can_not_be_put_in_leave_nothing(
    house: House, vmx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool(tmp_path / "bin", monkeypatch, "echo no bootloader >&2; exit 1")
    with pytest.raises(Failed) as caught:
        imported(house, vmx)
    assert caught.value.code == "drivers_failed"
    assert "no bootloader" in caught.value.message
    with pytest.raises(NotFound):
        house.client.instances.get("web")
    assert list((house.settings.data / "drivers").iterdir()) == []


def test_the_command_line_refuses_what_drivers_are_of_no_use_for(house: House, vmx: Path) -> None:
    done = house.run("import", str(vmx), "--name", "web", "--inject-drivers", "--bus", "sata")
    assert (done.returncode, b"of no use on sata" in done.stderr) == (2, True)
    done = house.run("import", str(vmx), "--name", "web", "--inject-drivers", "--register-esxi", str(vmx.parent / "x"))
    assert (done.returncode, b"what goes to ESXi" in done.stderr) == (2, True)


def test_without_the_tool_it_is_refused_at_once(house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(injecting, "_PLACES", str(tmp_path))
    monkeypatch.setattr(transfer, "require_socket", lambda path: None)
    error = refused(house, inject_drivers=True)
    assert (error.code, "apt-get install" in error.hint) == ("tool_missing", True)


def test_the_command_line_says_what_is_wrong(house: House, vmx: Path, tmp_path: Path) -> None:
    (tmp_path / "web-flat.vmdk").write_bytes(DATA[:1024])
    done = house.run("import", str(vmx), "--name", "web")
    assert (done.returncode, b"--damaged" in done.stderr) == (1, True)
    assert house.run("import", str(vmx), "--name", "web", "--damaged", "--no-start").returncode == 0
    assert house.run("import", str(tmp_path / "none.vmx"), "--name", "x").returncode == 3


def test_esxi(house: House, vmx: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    house.run("import", str(vmx), "--name", "again", "--register-esxi", str(out))
    assert (out / "again-flat.vmdk").read_bytes() == DATA
    assert 'address = "00:50:56:00:00:09"' in (out / "again.vmx").read_text()
    subprocess.run(["qemu-img", "info", "-f", "vmdk", out / "again.vmdk"], check=True, stdout=subprocess.DEVNULL)
