"""What holds a virtual machine apart: its domain's XML (libvirt.org/formatdomain.html) and its QEMU process."""

from __future__ import annotations

import os
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from triune.domain import secrets
from triune.domain.isolation import Door, Exposure, HostMount, Isolation
from triune.engines.kvm import mark as marks
from triune.engines.kvm import process
from triune.engines.kvm.client import Client, library
from triune.host import confinement, doors, packages
from triune.host.mounted import shown

_SOCKETS = ("/run/libvirt/libvirt-sock", "/run/libvirt/virtqemud-sock")
_CONFIG = Path("/etc/libvirt/libvirtd.conf")
_PORTS = (16509, 16514)
_WITH_TLS = (16514,)
_MOST_SEED = 4 << 20
_PACKAGES = {"QEMU": ("qemu-system-x86", "qemu-system-arm"), "libvirt": ("libvirt-daemon", "libvirt-daemon-system")}
# What a machine needs; the rest of what QEMU emulates is more for a guest to attack.
_PLAIN = frozenset({"disk", "interface", "serial", "console", "channel", "rng", "emulator", "hostdev"})
_PLAIN_TOO = frozenset({"filesystem", "graphics", "tpm", "panic", "vsock", "audio"})
_INPUTS = ("keyboard", "mouse")  # every x86 board has them


class KvmAuditing:
    """The facet."""

    hardened: Mapping[str, str] = {"graphics": "none", "devices": "minimal"}
    hardened_limits: Mapping[str, str] = {}

    def __init__(self, client: Client) -> None:
        self._client = client

    def isolation(self, name: str) -> Isolation:
        """Read its domain and its process."""
        domain = self._client.domain(name)
        with self._client.errors(name):
            # Passwords are only in the secure form; whether there is one is all that leaves this function.
            root = ET.fromstring(domain.XMLDesc(library().VIR_DOMAIN_XML_SECURE))  # noqa: S314 - from libvirt
            running = bool(domain.isActive())
            pid = process.find(domain.UUIDString(), name) if running else None
        return facts(root, running, _confined(pid), process.confinement(pid).get("qemu_user") if pid else None)

    def exposure(self) -> Exposure:
        """QEMU and libvirt, libvirt's socket and TCP ports."""
        numbers = self._client.call(lambda c: {"QEMU": c.getVersion(), "libvirt": c.getLibVersion()}, seconds=1.8)
        files = (_socket(path) for path in _SOCKETS)
        return Exposure(
            components=tuple(
                packages.component(name, _version(number), _PACKAGES[name]) for name, number in numbers.items()
            ),
            doors=(*(door for door in files if door), *doors.ports(_PORTS, "libvirtd", guarded=_WITH_TLS)),
        )


def _socket(path: str) -> Door | None:
    """libvirt's socket. Unless its configuration says otherwise, polkit asks who it is (libvirt.org/auth.html)."""
    door = doors.socket_file(Path(path))
    try:
        text = _CONFIG.read_text(errors="replace")
    except OSError:
        text = ""
    said = re.findall(r'^\s*auth_unix_rw\s*=\s*"(\w+)"', text, re.MULTILINE)
    return replace(door, guarded=said[-1:] != ["none"]) if door else None


def _version(number: int) -> str:
    """libvirt's way of one number for three."""
    return f"{number // 1_000_000}.{number // 1000 % 1000}.{number % 1000}"


def _confined(pid: int | None) -> confinement.Confinement | None:
    try:
        return confinement.of(pid) if pid else None
    except OSError:
        return None


def facts(root: ET.Element, running: bool, qemu: confinement.Confinement | None, user: str | None) -> Isolation:
    """The facts from the domain's XML and its QEMU process. `user` is whom that belongs to."""
    accelerated = root.get("type") == "kvm"
    mark = marks.read(root)
    label = root.findtext("seclabel[@model='apparmor']/label") or root.findtext("seclabel[@model='selinux']/label")
    unknown = {} if qemu else {"process_user": "it does not run" if not running else "its QEMU process was not found"}
    return Isolation(
        running=running,
        own_kernel=True,
        boundary=f"own kernel ({'KVM' if accelerated else 'emulated'})",
        accelerated=accelerated,
        runtime="QEMU",
        privileged=False,
        filtered=qemu.filtered if qemu else None,
        label=(qemu.label if qemu else label) or "",
        labels_available=confinement.labels_available(),
        mounts=tuple(_mounts(root)),
        devices=tuple(_host_devices(root)),
        emulated=tuple(dict.fromkeys(_emulated(root))),
        displays=tuple(_displays(root)),
        process_user=user,
        memory_limited=True,
        image=mark.image if mark else None,
        secrets=tuple(dict.fromkeys(_secrets(root))),
        unknown=unknown,
    )


def _mounts(root: ET.Element) -> Iterator[HostMount]:
    for share in root.iterfind("devices/filesystem"):
        source, target = share.find("source"), share.find("target")
        if source is not None and (folder := source.get("dir")):
            tag = target.get("dir", "") if target is not None else ""
            yield shown(folder, tag, read_only=share.find("readonly") is not None)
    for disk in root.iterfind("devices/disk[@type='block']/source"):
        if device := disk.get("dev"):
            yield HostMount(source=device, target="", read_only=False, kind="disk")


def _host_devices(root: ET.Element) -> Iterator[str]:
    for device in root.iterfind("devices/hostdev"):
        address = device.find("source/address")
        where = ":".join(address.attrib.values()) if address is not None else ""
        yield f"{device.get('type') or device.get('mode')} {where}".strip()


def _emulated(root: ET.Element) -> Iterator[str]:
    for device in root.find("devices") or ():
        kind = device.get("type") or device.get("model") or ""
        if device.tag == "controller":
            if kind == "usb" and device.get("model") != "none":
                yield "USB controller"
        elif device.tag == "memballoon":
            if kind != "none":
                yield "balloon"
        elif device.tag == "video":
            model = device.find("model")
            if model is not None and model.get("type") != "none":
                yield f"{model.get('type')} video"
        elif device.tag == "input":
            if kind not in _INPUTS:
                yield f"{kind} input"
        elif device.tag not in _PLAIN | _PLAIN_TOO:
            yield f"{kind} {device.tag}".strip()


def _displays(root: ET.Element) -> Iterator[Door]:
    for graphics in root.iterfind("devices/graphics"):
        kind = graphics.get("type", "")
        if kind not in ("vnc", "spice"):
            continue
        listen = graphics.find("listen")
        address = graphics.get("listen") or (listen.get("address") if listen is not None else None)
        socket = graphics.get("socket") or (listen.get("socket") if listen is not None else None)
        guarded = bool(graphics.get("passwd"))
        if socket:
            yield Door(kind="unix", address=socket, group=kind, guarded=guarded)
        elif listen is None or listen.get("type") != "none":
            port = graphics.get("port") or "-1"
            port = "auto" if port == "-1" else port
            yield Door(kind="tcp", address=f"{address or '127.0.0.1'}:{port}", group=kind, guarded=guarded)


def _secrets(root: ET.Element) -> Iterator[str]:
    """Names in the NoCloud seed. An ISO image holds each file in one piece, so its text can be read as it lies."""
    for source in root.iterfind("devices/disk/source"):
        path = source.get("file") or ""
        if Path(path).name != "seed.iso":
            continue
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            with os.fdopen(fd, "rb") as file:
                text = file.read(_MOST_SEED)
        except OSError:
            continue
        for part in text.split(b"\0"):
            if len(part) > 8:
                yield from (f"user data: {name}" for name in secrets.in_text(part.decode(errors="replace")))
