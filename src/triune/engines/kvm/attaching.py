"""The `attaching` facet: disks plugged into running and stopped domains, folders by virtiofs.

What a domain has is read from its own XML: a disk by its file, a folder by its path.
"""

from __future__ import annotations

import contextlib
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from triune.domain.errors import Conflict, Failed, TriuneError, Unsupported
from triune.domain.instance import VolumeMount
from triune.domain.operation import Progress
from triune.domain.pool import Volume, VolumeKind
from triune.engines.kvm import mark as marks
from triune.engines.kvm import spec, tuning, volumes
from triune.engines.kvm.agent import Agent
from triune.engines.kvm.client import Client, library

_PATIENCE_S = 15.0  # for the guest to let go of a device
_LOOK_S = 0.1
_LAST_NAME = 24  # vda to vdx: the seed has its own at the end
_SERIAL = 20  # as many characters of a disk's serial number does a guest see
_IN_USE = 75
# In the guest: whether the disk with this serial number, or a partition of it, is mounted, swapped to, or part of a
# mapping (LVM, RAID, LUKS). A guest lets a disk go that is mounted, and loses what was not written.
_LOOK_FOR_USE = f"""
for disk in /sys/block/*; do
    [ "$(cat "$disk/serial" 2>/dev/null)" = "$1" ] || continue
    for part in "$disk" "$disk"/*; do
        [ -e "$part/dev" ] || continue
        [ -z "$(ls "$part/holders" 2>/dev/null)" ] || exit {_IN_USE}
        ! grep -q -e " $(cat "$part/dev") " -e " /dev/${{part##*/}} " /proc/self/mountinfo || exit {_IN_USE}
        ! grep -q "^/dev/${{part##*/}}[[:space:]]" /proc/swaps || exit {_IN_USE}
    done
done
"""


class Attaching:
    """Implements engines.base.Attaching."""

    live = True

    def __init__(self, client: Client, host: Callable[[], spec.HostFacts]) -> None:
        self._client = client
        self._host = host

    def attach(self, name: str, volume: Volume, mount: VolumeMount, progress: Progress) -> None:
        """Plug it in. Raises Unsupported, Conflict, Failed."""
        domain = self._client.domain(name)
        running, root = self._read(domain, name)
        if _device(root, volume) is not None:
            return
        if volume.kind is VolumeKind.DISK:
            progress.step("kvm-attach", f"plugging the disk {volume.name} into {name}")
            names = {target.get("dev") for target in root.iterfind("devices/disk/target")}
            free = [volumes.disk_name(index, "virtio") for index in range(_LAST_NAME)]
            device = volumes.disk(mount, next(word for word in free if word not in names), "virtio")
            tuning.throttle_too(root, device)
            self._plug(domain, name, device, running=running)
            return
        self._attach_folder(domain, name, volume, mount, progress)

    def _attach_folder(self, domain: Any, name: str, volume: Volume, mount: VolumeMount, progress: Progress) -> None:
        running, root = self._read(domain, name)
        mark = marks.read(root)
        if mark is None:
            raise Unsupported(
                "instance_adopted",
                f"{name} was not made by Triune, which could not mount a folder in it at every start",
                hint="Add a virtiofs file system to its XML by hand, or attach a disk.",
            )
        spec.check_share(mount, self._host())
        if running and root.find("memoryBacking/access[@mode='shared']") is None:
            raise Conflict(
                "needs_restart",
                f"{name} runs with memory of its own, which virtiofs can't reach",
                hint=f"Stop it first (triune stop {name}), attach the volume, and start it again.",
            )
        taken = {tag for tag, _ in mark.volumes}
        tag = next(word for word in map("triune{}".format, range(len(taken) + 1)) if word not in taken)
        progress.step("kvm-attach", f"showing {name} the volume {volume.name} at {mount.target}")
        now = replace(mark, volumes=(*mark.volumes, (tag, mount.target)))
        self._set_mark(domain, name, now, running=running)
        if not running:
            volumes.add_share(root, mount, tag)
            self._define(root, name, now)
            return
        self._plug(domain, name, volumes.share(mount, tag), running=True)
        self._in_guest(domain, name, ["mkdir", "-p", "--", mount.target])
        if self._in_guest(domain, name, ["mount", "-t", "virtiofs", tag, mount.target]) != 0:
            self.detach(name, volume, progress)
            raise Failed(
                "volume_not_mounted",
                f"the guest {name} could not mount the volume at {mount.target}",
                hint="Its kernel needs virtiofs (Linux 5.4 or newer).",
            )

    def detach(self, name: str, volume: Volume, progress: Progress) -> None:
        """Pull it out; for a running guest only once it has let go. Raises Conflict("volume_busy")."""
        domain = self._client.domain(name)
        running, root = self._read(domain, name)
        device = _device(root, volume)
        stored = self._stored(domain, name)
        if device is None and _device(stored, volume) is None:
            return
        progress.step("kvm-detach", f"pulling the volume {volume.name} out of {name}")
        tag = _tag(device if device is not None else _device(stored, volume))
        mark = marks.read(root)
        if tag and mark is not None:
            target = dict(mark.volumes).get(tag, "")
            if running and target and not self._unmounted(domain, name, target):
                raise _busy(name, volume)
            left = tuple(one for one in mark.volumes if one[0] != tag)
            self._set_mark(domain, name, replace(mark, volumes=left), running=running)
        if running and device is not None:
            if self._in_use(domain, name, device):
                raise _busy(name, volume)
            self._pull(domain, name, device, volume)
        self._unconfigure(domain, name, volume)

    # Devices

    def _plug(self, domain: Any, name: str, device: ET.Element, *, running: bool) -> None:
        virt = library()
        flags = virt.VIR_DOMAIN_AFFECT_CONFIG | (virt.VIR_DOMAIN_AFFECT_LIVE if running else 0)
        with self._client.errors(name):
            domain.attachDeviceFlags(ET.tostring(device, encoding="unicode"), flags)

    def _pull(self, domain: Any, name: str, device: ET.Element, volume: Volume) -> None:
        virt = library()
        xml = ET.tostring(device, encoding="unicode")
        with self._client.errors(name):
            domain.detachDeviceFlags(xml, virt.VIR_DOMAIN_AFFECT_LIVE)
        deadline = time.monotonic() + _PATIENCE_S
        while _device(self._read(domain, name)[1], volume) is not None:
            if time.monotonic() >= deadline:
                raise _busy(name, volume)
            time.sleep(_LOOK_S)

    def _unconfigure(self, domain: Any, name: str, volume: Volume) -> None:
        virt = library()
        device = _device(self._stored(domain, name), volume)
        if device is not None:
            with self._client.errors(name):
                domain.detachDeviceFlags(ET.tostring(device, encoding="unicode"), virt.VIR_DOMAIN_AFFECT_CONFIG)

    # Configuration

    def _read(self, domain: Any, name: str) -> tuple[bool, ET.Element]:
        with self._client.errors(name):
            return bool(domain.isActive()), ET.fromstring(domain.XMLDesc(0))  # noqa: S314 - from libvirt

    def _stored(self, domain: Any, name: str) -> ET.Element:
        virt = library()
        with self._client.errors(name):
            flags = virt.VIR_DOMAIN_XML_INACTIVE | virt.VIR_DOMAIN_XML_SECURE
            return ET.fromstring(domain.XMLDesc(flags))  # noqa: S314 - from libvirt

    def _define(self, root: ET.Element, name: str, mark: marks.Mark) -> None:
        metadata = root.find("metadata")
        if metadata is not None:
            for old in metadata.findall(marks.write(mark).tag):
                metadata.remove(old)
            metadata.append(marks.write(mark))
        xml = ET.tostring(root, encoding="unicode")
        self._client.call(lambda connection: connection.defineXML(xml), name=name)

    def _set_mark(self, domain: Any, name: str, mark: marks.Mark, *, running: bool) -> None:
        virt = library()
        xml = marks.unnamed(mark)
        flags = virt.VIR_DOMAIN_AFFECT_CONFIG | (virt.VIR_DOMAIN_AFFECT_LIVE if running else 0)
        with self._client.errors(name):
            domain.setMetadata(virt.VIR_DOMAIN_METADATA_ELEMENT, xml, "triune", marks.NAMESPACE, flags)

    def _unmounted(self, domain: Any, name: str, target: str) -> bool:
        mounted = self._in_guest(domain, name, ["mountpoint", "-q", target]) == 0
        return not mounted or self._in_guest(domain, name, ["umount", target]) == 0

    def _in_use(self, domain: Any, name: str, device: ET.Element) -> bool:
        """Whether a guest with an agent says that it uses a disk. One without lets it go, or not."""
        serial = (device.findtext("serial") or "")[:_SERIAL]
        if device.tag != "disk" or not serial:
            return False
        with contextlib.suppress(TriuneError):
            return self._in_guest(domain, name, ["sh", "-c", _LOOK_FOR_USE, "sh", serial]) == _IN_USE
        return False

    def _in_guest(self, domain: Any, name: str, argv: list[str]) -> int:
        agent = Agent(self._client, domain, name)
        pid = agent.execute(argv)
        deadline = time.monotonic() + _PATIENCE_S
        while time.monotonic() < deadline:
            with contextlib.suppress(TriuneError):
                if (done := agent.outcome(pid)) is not None:
                    return int(done[0])
            time.sleep(_LOOK_S)
        return -1


def _device(root: ET.Element, volume: Volume) -> ET.Element | None:
    """The device of a volume: the disk with its file (or a snapshot over it), the share of its folder."""
    for disk in root.iterfind("devices/disk"):
        if any(Path(source.get("file", "")) == volume.path for source in disk.iter("source")):
            return disk
    for share in root.iterfind("devices/filesystem"):
        source = share.find("source")
        if source is not None and Path(source.get("dir", "")) == volume.path:
            return share
    return None


def _tag(device: ET.Element | None) -> str:
    """The tag of a share; "" for a disk."""
    target = None if device is None or device.tag != "filesystem" else device.find("target")
    return "" if target is None else target.get("dir", "")


def _busy(name: str, volume: Volume) -> Conflict:
    return Conflict(
        "volume_busy",
        f"the guest {name} did not let go of the volume {volume.name}",
        hint=f"Unmount it inside first, let it finish booting, or stop {name}.",
    )
