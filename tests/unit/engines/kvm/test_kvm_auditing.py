"""Facts of virtual machines from their domains."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from triune.domain.errors import Unsupported
from triune.domain.isolation import Isolation
from triune.engines.kvm import seed
from triune.engines.kvm.auditing import facts


def told(devices: str = "", kind: str = "kvm", user: str | None = None) -> Isolation:
    root = ET.fromstring(f"<domain type='{kind}'><name>vm</name><devices>{devices}</devices></domain>")
    return facts(root, False, None, user)


def test_a_plain_one() -> None:
    found = told("<disk/><interface/><serial/><console/><channel/><rng/><memballoon model='none'/>")
    assert (found.own_kernel, found.accelerated, found.emulated, found.displays) == (True, True, (), ())
    assert told(kind="qemu").accelerated is False
    assert "process_user" in found.unknown


def test_displays() -> None:
    found = told(
        "<graphics type='vnc' port='5901' listen='0.0.0.0'/>"
        "<graphics type='vnc' port='-1' passwd='S3cr3t'><listen type='address' address='127.0.0.1'/></graphics>"
        "<graphics type='spice'><listen type='none'/></graphics>"
        "<graphics type='vnc' socket='/run/vnc.sock'/>"
        "<graphics type='sdl'/>"
    )
    assert [(door.address, door.guarded, door.local) for door in found.displays] == [
        ("0.0.0.0:5901", False, False),
        ("127.0.0.1:auto", True, True),
        ("/run/vnc.sock", False, True),
    ]
    assert "S3cr3t" not in repr(found)


def test_devices() -> None:
    found = told(
        "<controller type='usb' model='none'/><controller type='usb' model='qemu-xhci'/><controller type='pci'/>"
        "<video><model type='none'/></video><video><model type='qxl'/></video>"
        "<input type='tablet'/><input type='mouse'/><sound model='ich9'/><memballoon model='virtio'/>"
        "<hostdev type='pci'><source><address domain='0x0000' bus='0x01' slot='0x00' function='0x0'/></source>"
        "</hostdev>"
        "<filesystem><source dir='/srv'/><target dir='share'/></filesystem>"
        "<disk type='block'><source dev='/dev/sdb'/></disk>"
    )
    assert found.emulated == ("USB controller", "qxl video", "tablet input", "ich9 sound", "balloon")
    assert found.devices == ("pci 0x0000:0x01:0x00:0x0",)
    assert [(mount.source, mount.target) for mount in found.mounts] == [("/srv", "share"), ("/dev/sdb", "")]


def test_secrets_in_a_seed(tmp_path: Path) -> None:
    seed = tmp_path / "seed.iso"
    seed.write_bytes(b"\0" * 2048 + b"#cloud-config\npassword: hunter2\n" + b"\0" * 99 + b"meta")
    found = told(f"<disk type='file'><source file='{seed}'/></disk>")
    assert found.secrets == ("user data: password",)
    link = tmp_path / "deeper"
    link.mkdir()
    (link / "seed.iso").symlink_to(seed)
    assert told(f"<disk><source file='{link}/seed.iso'/></disk>").secrets == ()


def test_secrets_in_a_seed_of_our_own(tmp_path: Path) -> None:
    try:
        seed.write(
            tmp_path / "seed.iso", seed.files("vm", "1", "#cloud-config\nchpasswd: {list: x}\npassword: abcdef\n")
        )
    except Unsupported as error:
        pytest.skip(f"by design: {error.message}")
    root = ET.fromstring(f"<d><devices><disk><source file='{tmp_path}/seed.iso'/></disk></devices></d>")
    assert facts(root, False, None, None).secrets == ("user data: password",)
