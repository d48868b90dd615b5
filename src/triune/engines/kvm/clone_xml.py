"""A clone's definition, made of its original's: everything that tells them apart is new. Pure."""

from __future__ import annotations

import uuid
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from triune.engines.base import ClonePlan
from triune.engines.kvm import mark as marks
from triune.engines.kvm.paths import move, replace_word
from triune.engines.kvm.spec import AGENT_PORT, Files, add_nic, as_uuid

Chain = tuple[tuple[Path, str], ...]
"""(file, format), the uppermost first."""


def build(original: ET.Element, plan: ClonePlan, folder: Path | None, files: Files, disks: Mapping[str, Chain]) -> str:
    """The clone's XML. `folder` is the original's, None for one that is not ours; `disks` the clone's, by target."""
    root = ET.fromstring(ET.tostring(original))  # noqa: S314 - a copy of what libvirt gave
    mark = marks.read(root)
    if folder is not None:
        move(root, folder, files.folder)
    _name(root, plan, mark)
    nvram = root.find("os/nvram")
    if nvram is not None:
        nvram.text = str(files.nvram)
    for disk in root.iterfind("devices/disk"):
        target = disk.find("target")
        chain = disks.get(target.get("dev", "") if target is not None else "")
        if chain:
            set_chain(disk, chain)
    _cards(root, plan, managed=mark is not None)
    if folder is None:
        _strip_host_ends(root)
    return ET.tostring(root, encoding="unicode")


def set_chain(disk: ET.Element, chain: Chain) -> None:
    """Make a disk a qcow2 overlay that stands on the rest of the chain."""
    (path, kind), *below = chain
    for tag in ("source", "backingStore", "mirror"):
        for old in disk.findall(tag):
            disk.remove(old)
    disk.set("type", "file")
    driver = disk.find("driver")
    if driver is None:
        driver = ET.SubElement(disk, "driver", {"name": "qemu"})
    driver.set("type", kind)
    ET.SubElement(disk, "source", {"file": str(path)})
    parent = disk
    for lower, format_ in below:
        parent = ET.SubElement(parent, "backingStore", {"type": "file"})
        ET.SubElement(parent, "format", {"type": format_})
        source = ET.SubElement(parent, "source", {"file": str(lower)})
        # Others stand on it too: it is not given to QEMU's user, who could then write it.
        ET.SubElement(source, "seclabel", {"model": "dac", "relabel": "no"})
    ET.SubElement(parent, "backingStore")


def _name(root: ET.Element, plan: ClonePlan, mark: marks.Mark | None) -> None:
    identity = str(as_uuid(plan.machine_id) or uuid.uuid4())
    _text(root, "name", plan.new)
    _text(root, "uuid", identity)
    _text(root, "sysinfo/system/entry[@name='uuid']", identity)
    for tag in ("genid", "title"):
        for element in root.findall(tag):
            root.remove(element)
    if mark is not None:
        # the folder's name is the instance's, unless another tool has renamed it
        replace_word(root, f"systemd.hostname={plan.name}", f"systemd.hostname={plan.new}")
    replace_id(root, plan.machine_id)
    asset = root.find("sysinfo/chassis/entry[@name='asset']")
    if asset is not None and asset.text == plan.name:
        asset.text = plan.new
    _mark(root, plan, mark)


def replace_id(root: ET.Element, machine_id: str) -> None:
    """The machine id in the kernel's command line, where it is there."""
    cmdline = root.find("os/cmdline")
    if cmdline is not None and cmdline.text:
        words = [
            f"systemd.machine_id={machine_id}" if word.startswith("systemd.machine_id=") and machine_id else word
            for word in cmdline.text.split(" ")
        ]
        cmdline.text = " ".join(words)


def _mark(root: ET.Element, plan: ClonePlan, mark: marks.Mark | None) -> None:
    agent = root.find(f"devices/channel/target[@name='{AGENT_PORT}']") is not None
    base = mark or marks.Mark(image="", created=plan.created, agent=agent)
    fresh = replace(
        base,
        created=plan.created,
        addresses=tuple((nic.mac, nic.network.name, nic.address) for nic in plan.nics),
        renew=plan.name if base.agent else "",
    )
    metadata = root.find("metadata")
    if metadata is None:
        metadata = ET.Element("metadata")
        root.insert(2, metadata)
    for old in metadata.findall(f"{{{marks.NAMESPACE}}}instance"):
        metadata.remove(old)
    metadata.append(marks.write(fresh))


def _cards(root: ET.Element, plan: ClonePlan, *, managed: bool) -> None:
    devices = root.find("devices")
    if devices is None:
        return
    ours = {nic.network.bridge for nic in plan.nics}
    for card in devices.findall("interface"):
        source = card.find("source")
        if managed or (source is not None and source.get("bridge") in ours):
            devices.remove(card)
            continue
        for tag in ("mac", "target"):  # libvirt chooses others
            for element in card.findall(tag):
                card.remove(element)
    for nic in plan.nics:
        add_nic(devices, nic)


def _strip_host_ends(root: ET.Element) -> None:
    """Sockets and logs of the original must stay its own."""
    for channel in root.iterfind("devices/channel"):
        source = channel.find("source")
        if channel.get("type") == "unix" and source is not None:
            channel.remove(source)
    for device in root.iterfind("devices/*"):
        for log in device.findall("log"):
            device.remove(log)
    for graphics in root.iterfind("devices/graphics"):
        if graphics.get("port"):
            graphics.set("port", "-1")
            graphics.set("autoport", "yes")


def _text(root: ET.Element, path: str, text: str) -> None:
    element = root.find(path)
    if element is not None:
        element.text = text
