"""Machines of VMware's become instances that boot: from files of every kind, from an archive, from a damaged volume."""

from __future__ import annotations

import hashlib
import io
import json
import signal
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.golden.kvm.test_kvm_machine_golden import CASES
from tests.live.daemon import Daemon
from tests.live.system_fixtures import FIXED, IMAGE, built_image, data_folder
from tests.rescue import damages, samples
from tests.rescue.layout import Layout
from tests.rescue.machines import FileContent, add_machine
from tests.rescue.overlay import Overlay
from tests.rescue.writer import Writer
from triune.services.images.bootdisk import _ESP_START

pytestmark = [pytest.mark.live, pytest.mark.kvm]

PREFIX = "timp-"
GOLDEN = Path(__file__).parents[1] / "golden" / "kvm"
KINDS = ("monolithicSparse", "monolithicFlat", "streamOptimized", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat")
VMX = """.encoding = "UTF-8"
displayName = "web"
guestOS = "debian12-64"
firmware = "efi"
memSize = "384"
numvcpus = "1"
scsi0.present = "TRUE"
scsi0.virtualDev = "pvscsi"
scsi0:0.present = "TRUE"
scsi0:0.fileName = "{file}"
ethernet0.present = "TRUE"
ethernet0.virtualDev = "vmxnet3"
ethernet0.networkName = "VM Network"
ethernet0.addressType = "static"
ethernet0.address = "00:50:56:1a:00:{last:02x}"
svga.vramSize = "8388608"
"""
OVF = """<?xml version="1.0"?><Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1"
 xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1" xmlns:vmw="http://www.vmware.com/schema/ovf">
<References><File ovf:href="web.vmdk" ovf:id="f"/></References><DiskSection><Disk ovf:diskId="d" ovf:fileRef="f"/>
</DiskSection><VirtualSystem ovf:id="web"><OperatingSystemSection vmw:osType="debian10_64Guest"/>
<VirtualHardwareSection><Item><ResourceType>3</ResourceType><VirtualQuantity>1</VirtualQuantity></Item>
<Item><ResourceType>4</ResourceType><VirtualQuantity>384</VirtualQuantity></Item>
<Item><InstanceID>3</InstanceID><ResourceType>20</ResourceType></Item>
<Item><HostResource>ovf:/disk/d</HostResource><Parent>3</Parent><ResourceType>17</ResourceType></Item>
<Item><Connection>VM Network</Connection><ResourceType>10</ResourceType></Item>
<vmw:Config vmw:key="firmware" vmw:value="efi"/></VirtualHardwareSection></VirtualSystem></Envelope>"""


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    made = Daemon(
        data_folder("rimp"), bridge="timp0", table="triune_timp", domain="timp.internal", candidates=["10.117.0.0/16"]
    )
    with made:
        made.remove_all(PREFIX)
        built_image(made)
        yield made
        made.remove_all(PREFIX)
        made.stop()


@pytest.fixture(scope="module")
def raw(daemon: Daemon, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built image's disk, which boots by itself under UEFI, and with FIXED."""
    path = tmp_path_factory.mktemp("raw") / "web.raw"
    built = daemon.json("image", "show", IMAGE)["forms"]["disk"]["path"]
    subprocess.run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", built, path], check=True)
    entry, loader = path.with_name("entry.conf"), ["-i", f"{path}@@{_ESP_START}"]
    (place,) = subprocess.run(
        ["mdir", "-b", *loader, "::/loader/entries"], check=True, capture_output=True
    ).stdout.split()
    subprocess.run(["mcopy", *loader, place, entry], check=True)
    entry.write_text(entry.read_text().rstrip("\n") + f" {FIXED}\n")
    subprocess.run(["mcopy", "-o", *loader, entry, place], check=True)
    return path


@pytest.fixture(scope="module")
def disk(raw: Path) -> Path:
    path = raw.with_suffix(".qcow2")
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, path], check=True)
    return path


def vmdk(disk: Path, folder: Path, kind: str) -> Path:
    path = folder / "web.vmdk"
    argv = ["qemu-img", "convert", "-f", "qcow2", "-O", "vmdk", "-o", f"subformat={kind}", disk, path]
    subprocess.run(argv, check=True)
    return path


def imported(daemon: Daemon, *argv: str) -> dict[str, Any]:
    done = daemon.run(*argv, "--format", "json", "--timeout", "8m", check=False, timeout=800)
    assert done.stdout, done.stderr.decode()
    facts: dict[str, Any] = json.loads(done.stdout)
    assert done.returncode == 0, facts
    return facts["result"]


def lives(daemon: Daemon, name: str, result: dict[str, Any]) -> None:
    assert (result["up"], result["sign"]) == (True, "agent"), result
    assert all(one["equal"] for one in result["disks"])
    assert daemon.names()[name]["origin"] == "managed"
    # A start waits for the agent from now on, as it was seen once.
    assert "triune-root" in daemon.exec(name, "ls", "/dev/disk/by-partlabel")
    daemon.run("rm", name, "--yes", "--force")
    assert not (daemon.data / "instances" / "kvm" / name).exists()


def test_a_vmx_with_a_sparse_disk(daemon: Daemon, disk: Path, tmp_path: Path) -> None:
    vmdk(disk, tmp_path, "monolithicSparse")
    (tmp_path / "web.vmx").write_text(VMX.format(file="web.vmdk", last=1))
    name = f"{PREFIX}vmx"
    result = imported(daemon, "import", str(tmp_path / "web.vmx"), "--name", name)
    shown = daemon.json("show", name)
    assert shown["network"][0]["mac"] == "00:50:56:1a:00:01"
    assert shown["devices"][0]["bus"] == "virtio", "the initial RAM disk of the image drives virtio"
    lives(daemon, name, result)


def test_a_damaged_volume(daemon: Daemon, raw: Path, tmp_path: Path) -> None:
    """From a VMFS6 volume that has lost its superblock and its file descriptors' first cluster to a running machine."""
    whole = Overlay(samples.image("vmfs6"))
    add_machine(Writer(whole), "web", FileContent(raw), guest="debian12-64", firmware="efi", memory=384)
    hurt = damages.damaged(whole, Layout(whole), "superblock", "first FDC cluster").save(tmp_path / "volume.img")
    name = f"{PREFIX}vmfs"
    lives(daemon, name, imported(daemon, "rescue", "import", str(hurt), "web/web.vmx", "--name", name))
    planned = daemon.json("rescue", "import", str(hurt), "web/vmware.log", "--name", name, "--plan")
    assert planned["machine"]["memory"] == 384 << 20


def test_all_kinds_have_the_same_content(daemon: Daemon, disk: Path, tmp_path: Path) -> None:
    """Two decoders agree on every kind: QEMU's or ours converts, ours reads before, QEMU's reads after."""
    sums = set()
    for kind in KINDS:
        folder = tmp_path / kind
        folder.mkdir()
        vmdk(disk, folder, kind)
        (folder / "web.vmx").write_text(VMX.format(file="web.vmdk", last=2))
        name = f"{PREFIX}kind"
        result = imported(daemon, "import", str(folder / "web.vmx"), "--name", name, "--no-start")
        sums.add(result["disks"][0]["hash"])
        alone = daemon.json("import", str(folder / "web.vmdk"), "--name", name, "--plan")["machine"]
        assert (alone["firmware"], alone["disks"][0]["bus"]) == ("uefi", "virtio"), "told by what is on the disk"
        copy = daemon.data / "instances" / "kvm" / name / "disk.qcow2"
        subprocess.run(["qemu-img", "compare", "-q", "-f", "qcow2", "-F", "qcow2", disk, copy], check=True)
        daemon.run("rm", name, "--yes")
    assert len(sums) == 1


def test_an_archive(daemon: Daemon, disk: Path, tmp_path: Path) -> None:
    data = vmdk(disk, tmp_path, "streamOptimized").read_bytes()
    files = {"web.ovf": OVF.encode(), "web.vmdk": data}
    manifest = "".join(f"SHA256({name})= {hashlib.sha256(one).hexdigest()}\n" for name, one in files.items())
    with tarfile.open(tmp_path / "web.ova", "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, one in {"web.ovf": files["web.ovf"], "web.mf": manifest.encode(), "web.vmdk": data}.items():
            member = tarfile.TarInfo(name)
            member.size = len(one)
            tar.addfile(member, io.BytesIO(one))
    name = f"{PREFIX}ova"
    result = imported(daemon, "import", str(tmp_path / "web.ova"), "--name", name, "--no-start")
    assert result["disks"][0]["equal"] is True
    assert result["up"] is None
    assert daemon.names()[name]["state"] == "stopped"
    daemon.run("rm", name, "--yes")


def test_a_daemon_that_dies_in_the_middle_leaves_nothing(daemon: Daemon, disk: Path, tmp_path: Path) -> None:
    vmdk(disk, tmp_path, "monolithicSparse")
    (tmp_path / "web.vmx").write_text(VMX.format(file="web.vmdk", last=3))
    name = f"{PREFIX}cut"
    for step in ("convert", "verify", "kvm-define", "start"):
        daemon.crash(f"import:{step}")
        client = daemon.begin("import", str(tmp_path / "web.vmx"), "--name", name)
        daemon.died()
        client.wait(60)
        daemon.start()
        assert name not in daemon.names()
        assert not (daemon.data / "instances" / "kvm" / name).exists()


def test_an_interrupt_cancels(daemon: Daemon, disk: Path, tmp_path: Path) -> None:
    vmdk(disk, tmp_path, "monolithicSparse")
    (tmp_path / "web.vmx").write_text(VMX.format(file="web.vmdk", last=4))
    name = f"{PREFIX}cancel"
    client = daemon.begin("import", str(tmp_path / "web.vmx"), "--name", name)
    deadline = time.monotonic() + 60
    while name not in str(daemon.json("ops", "list", "--running")) and time.monotonic() < deadline:
        time.sleep(0.05)
    client.send_signal(signal.SIGINT)
    client.wait(60)
    while daemon.json("ops", "list", "--running") and time.monotonic() < deadline:
        time.sleep(0.2)
    assert name not in daemon.names()
    assert not (daemon.data / "instances" / "kvm" / name).exists()


@pytest.mark.parametrize("case", CASES)
def test_libvirt_takes_the_definition(case: str, tmp_path: Path) -> None:
    text = (GOLDEN / f"{case}.xml").read_text().replace('type="kvm"', 'type="qemu"')
    text = text.replace('mode="host-passthrough"', 'mode="maximum"').replace("<name>one<", f"<name>{PREFIX}golden<")
    path = tmp_path / "golden.xml"
    path.write_text(text)
    done = subprocess.run(["virsh", "define", "--validate", path], capture_output=True, text=True)
    subprocess.run(["virsh", "undefine", f"{PREFIX}golden", "--nvram"], capture_output=True)
    assert done.returncode == 0, done.stderr
