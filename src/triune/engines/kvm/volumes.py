"""Volumes as libvirt's devices: folders by virtiofs, disks by virtio. Pure."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterable

from triune.domain.instance import VolumeMount
from triune.domain.names import single_line


def shares(volumes: Iterable[VolumeMount]) -> list[VolumeMount]:
    """The volumes that are folders."""
    return [volume for volume in volumes if not volume.format]


def disks(volumes: Iterable[VolumeMount]) -> list[VolumeMount]:
    """The volumes that are disks."""
    return [volume for volume in volumes if volume.format]


def share(volume: VolumeMount, tag: str) -> ET.Element:
    """A folder of the host, which the guest mounts by its tag."""
    device = ET.Element("filesystem", {"type": "mount", "accessmode": "passthrough"})
    ET.SubElement(device, "driver", {"type": "virtiofs"})
    ET.SubElement(device, "source", {"dir": single_line(volume.source, "a volume's path")})
    ET.SubElement(device, "target", {"dir": tag})
    return device


def share_memory(root: ET.Element) -> None:
    """virtiofsd reads and writes the guest's memory."""
    backing = ET.SubElement(root, "memoryBacking")
    ET.SubElement(backing, "source", {"type": "memfd"})
    ET.SubElement(backing, "access", {"mode": "shared"})


def add_share(root: ET.Element, volume: VolumeMount, tag: str) -> None:
    """Put a folder into the XML of a stopped domain."""
    if root.find("memoryBacking") is None:
        share_memory(root)
    devices = root.find("devices")
    assert devices is not None  # noqa: S101 - libvirt always writes it
    devices.append(share(volume, tag))


def disk_name(index: int, bus: str) -> str:
    """The name libvirt knows a disk by, the first is 0; what the guest calls it is the guest's business."""
    return f"{'vd' if bus == 'virtio' else 'sd'}{chr(ord('a') + index)}"


def disk(volume: VolumeMount, name: str, bus: str) -> ET.Element:
    """A volume as a disk: the guest finds it as /dev/disk/by-id/virtio-NAME, of which 20 characters count."""
    device = ET.Element("disk", {"type": "file", "device": "disk"})
    ET.SubElement(device, "driver", {"name": "qemu", "type": volume.format, "discard": "unmap"})
    ET.SubElement(device, "source", {"file": single_line(volume.source, "a volume's path")})
    ET.SubElement(device, "backingStore")
    ET.SubElement(device, "target", {"dev": name, "bus": bus})
    if volume.read_only:
        ET.SubElement(device, "readonly")
    ET.SubElement(device, "serial").text = volume.volume[:20]
    return device
