"""OVF and OVA, whoever wrote them."""

from __future__ import annotations

import hashlib
import io
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.services.machines.made import flat

from triune.disks.content import read
from triune.domain.errors import Failed, Invalid, NotFound, TriuneError, Unsupported
from triune.domain.machine import Firmware, MachineCard, MachineDisk
from triune.services.machines import ovf
from triune.services.machines.origin import open_file

DATA = bytes(range(256)) * 8


def item(kind: int, **fields: str) -> str:
    inner = "".join(f"<rasd:{key}>{value}</rasd:{key}>" for key, value in fields.items())
    return f"<Item>{inner}<rasd:ResourceType>{kind}</rasd:ResourceType></Item>"


def envelope(items: str = "", *, href: str = "web.vmdk", extra: str = "", head: str = "") -> bytes:
    disk = item(17, AddressOnParent="0", ElementName="disk", HostResource="ovf:/disk/d1", InstanceID="9", Parent="3")
    return f"""<?xml version="1.0"?>{head}
<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1"
 xmlns:rasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData"
 xmlns:vmw="http://www.vmware.com/schema/ovf">
<References><File ovf:href="{href}" ovf:id="f1"{extra}/></References>
<DiskSection><Disk ovf:diskId="d1" ovf:fileRef="f1" ovf:capacity="1"/></DiskSection>
<VirtualSystem ovf:id="web"><Name>web</Name><OperatingSystemSection vmw:osType="debian10_64Guest"/>
<VirtualHardwareSection>
{item(3, InstanceID="1", VirtualQuantity="4", CoresPerSocket="2")}
{item(4, InstanceID="2", VirtualQuantity="2", AllocationUnits="byte * 2^30")}
{item(6, InstanceID="3", ResourceSubType="VirtualSCSI")}{disk}
{item(10, InstanceID="5", Connection="VM Network", ResourceSubType="VmxNet3")}
{item(15, InstanceID="6", ElementName="CD/DVD drive 1")}{items}
<vmw:Config vmw:key="firmware" vmw:value="efi"/><vmw:Config vmw:key="cpuHotAddEnabled" vmw:value="true"/>
</VirtualHardwareSection></VirtualSystem></Envelope>""".encode()


def test_an_envelope() -> None:
    described = ovf.describe(envelope())
    machine = described.machine
    assert (machine.name, machine.guest, machine.firmware) == ("web", "debian10-64", Firmware.UEFI)
    assert (machine.cpus, machine.cores, machine.memory) == (4, 2, 2 << 30)
    assert machine.disks == (MachineDisk(slot="scsi0:0", file="web.vmdk", bus="scsi", controller="pvscsi"),)
    assert machine.cards == (MachineCard(slot="ethernet0", model="vmxnet3", network="VM Network"),)
    assert [one.key for one in described.left_out] == ["CD/DVD drive 1", "cpuHotAddEnabled"]
    assert all(one.line > 1 for one in described.left_out)


@pytest.mark.parametrize(
    "data",
    [
        b"no xml",
        b"<other/>",
        b"<Envelope/>" * 2,
        envelope(head='<!DOCTYPE x [<!ENTITY a "aaaa">]>'),
        envelope(head='<!DOCTYPE Envelope SYSTEM "file:///etc/passwd">'),
        b"<Envelope>" + b"<a>" * 200 + b"</a>" * 200 + b"</Envelope>",
        '<?xml version="1.0" encoding="UTF-16"?><!DOCTYPE x [<!ENTITY a "b">]><Envelope/>'.encode("utf-16"),
    ],
)
def test_what_is_no_envelope(data: bytes) -> None:
    with pytest.raises(Invalid) as caught:
        ovf.describe(data)
    assert caught.value.code == "bad_ovf"


def test_secure_boot_and_a_tpm() -> None:
    """As vSphere writes them."""
    items = item(1, ElementName="Virtual TPM", ResourceSubType="vmware.vtpm", InstanceID="14")
    secure = '<vmw:Config vmw:key="bootOptions.efiSecureBootEnabled" vmw:value="true"/>'
    described = ovf.describe(envelope(items + secure))
    assert (described.machine.tpm, described.machine.secure_boot) == (True, True)
    assert not {one.key for one in described.left_out} & {"Virtual TPM", "bootOptions.efiSecureBootEnabled"}
    assert not ovf.describe(envelope()).machine.tpm


def test_packed_disks_are_refused() -> None:
    with pytest.raises(Unsupported) as caught:
        ovf.describe(envelope(extra=' ovf:compression="gzip"'))
    assert caught.value.code == "packed_disk"


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    with pytest.raises(TriuneError):
        ovf.describe(b"<Envelope>" + data)


def sums(files: dict[str, bytes]) -> bytes:
    return "".join(f"SHA256({name})= {hashlib.sha256(data).hexdigest()}\n" for name, data in files.items()).encode()


def archive(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


FILES = {"web.ovf": envelope(), "web.vmdk": flat("web", 4), "web-flat.vmdk": DATA}


def test_an_archive_is_read_where_it_lies(tmp_path: Path) -> None:
    path = archive(tmp_path / "web.ova", {**FILES, "web.mf": sums(FILES)})
    with open_file(path) as origin:
        assert read(origin.disks["scsi0:0"], 0, 2048) == DATA
    assert [one.name for one in tmp_path.iterdir()] == ["web.ova"]


def test_a_sum_that_differs(tmp_path: Path) -> None:
    path = archive(tmp_path / "web.ova", {**FILES, "web.mf": sums({**FILES, "web-flat.vmdk": b"other"})})
    with pytest.raises(Failed) as caught, open_file(path):
        pass
    assert caught.value.code == "checksum_mismatch"


def test_names_that_lead_out(tmp_path: Path) -> None:
    outside = {"web.ovf": envelope(href="../web.vmdk"), "../web.vmdk": flat("web", 4), "/web.vmdk": flat("web", 4)}
    with pytest.raises(NotFound) as caught, open_file(archive(tmp_path / "web.ova", outside)):
        pass
    assert caught.value.code == "disk_missing"
    named = {**FILES, "web.mf": b"SHA1(../../etc/passwd)= " + b"0" * 40 + b"\n"}
    with pytest.raises(Invalid) as refused, open_file(archive(tmp_path / "b.ova", named)):
        pass
    assert refused.value.code == "bad_manifest"


def test_what_is_no_archive(tmp_path: Path) -> None:
    (tmp_path / "a.ova").write_bytes(b"x" * 2000)
    (tmp_path / "b.ova").write_bytes(archive(tmp_path / "whole", FILES).read_bytes()[:-9000])
    archive(tmp_path / "c.ova", {"readme": b""})
    for name in ("a.ova", "b.ova", "c.ova"):
        with pytest.raises(TriuneError), open_file(tmp_path / name):
            pass


def test_links_in_an_archive_are_not_followed(tmp_path: Path) -> None:
    path = tmp_path / "web.ova"
    with tarfile.open(path, "w") as tar:
        member = tarfile.TarInfo("web.ovf")
        member.size = len(envelope())
        tar.addfile(member, io.BytesIO(envelope()))
        link = tarfile.TarInfo("web.vmdk")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    with pytest.raises(NotFound), open_file(path):
        pass
