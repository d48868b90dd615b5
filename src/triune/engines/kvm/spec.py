"""A launch plan as libvirt's domain XML: pure, no contact with the host. Format: libvirt.org/formatdomain.html."""

from __future__ import annotations

import uuid
import xml.etree.ElementTree as ET
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from triune.domain.errors import Invalid, Unsupported
from triune.domain.image import DiskForm
from triune.domain.instance import VolumeMount
from triune.domain.names import instance_name, single_line
from triune.domain.network import Nic
from triune.engines.base import LaunchPlan
from triune.engines.kvm import mark as marks
from triune.engines.kvm import tuning, volumes
from triune.engines.kvm.settings import Settings, parse

DEFAULT_MEMORY = 512 * 2**20
INSTALLER_DISK = 10 * 2**30  # sparse: it takes what is installed into it
MINIMUM_MEMORY = 32 * 2**20
EXEC_PORTS = 4
EXEC_PORT = "triune.exec."
AGENT_PORT = "org.qemu.guest_agent.0"
_SPARE_ROOT_PORTS = 4  # for devices plugged in later
_TB_CACHE_MIB = 256
# On a busy host an emulated timer comes late, and Linux panics ("IO-APIC + timer doesn't work").
EMULATED = ("no_timer_check",)
"""Words for the kernel's command line of emulated machines."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostFacts:
    """What the XML depends on of this host. `memory` in bytes; `cpu_cgroup`: the version of the cgroup controller
    `cpu`, which holds VMs back, None where it is missing.

    `cpu_model` is that of accelerated VMs unless they ask for another: a mode of libvirt's, or a model's name.
    """

    accelerated: bool
    memory: int
    cpus: int
    cpu_cgroup: int | None = 2
    virtiofs: bool = False
    emulator: str = "/usr/bin/qemu-system-x86_64"
    cpu_model: str = "host-passthrough"


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """The instance's own files, all in one folder."""

    FIFO: ClassVar[str] = "restore.fifo"

    folder: Path

    @property
    def disk(self) -> Path:
        """The overlay or empty disk."""
        return self.folder / "disk.qcow2"

    @property
    def seed(self) -> Path:
        """The NoCloud seed."""
        return self.folder / "seed.iso"

    @property
    def nvram(self) -> Path:
        """UEFI variables."""
        return self.folder / "nvram.fd"

    @property
    def environment(self) -> Path:
        """What every command run in it gets: a JSON object of texts, for root's eyes."""
        return self.folder / "environment.json"

    @property
    def fifo(self) -> Path:
        """Where libvirt reads a saved machine from, while it is restored."""
        return self.folder / self.FIFO

    @property
    def serial_log(self) -> Path:
        """All that the serial console ever said."""
        return self.folder / "serial.log"


def disk_form(plan: LaunchPlan) -> DiskForm:
    """The plan's form. Raises Unsupported where it is another kind."""
    if not isinstance(plan.form, DiskForm):
        raise Unsupported(
            "no_disk_form",
            f"the image {plan.image!r} has no bootable disk",
            hint=f"Build one: triune image build {plan.image}",
        )
    return plan.form


def check(plan: LaunchPlan, host: HostFacts) -> None:
    """Raise Invalid or Unsupported for what this engine or host cannot do."""
    spec, form = plan.spec, disk_form(plan)
    instance_name(spec.name)
    parse(spec.settings)
    _check_text(plan, form)
    _check_sizes(plan, form, host)
    if spec.command:
        raise Unsupported(
            "command_unsupported",
            "a virtual machine starts its own init, not a command",
            hint=f"Launch without a command, then: triune exec {spec.name} -- COMMAND",
        )
    if plan.user_data is not None and not form.cloud_init:
        raise Unsupported(
            "no_cloud_init",
            f"the image {plan.image!r} has no cloud-init to read user data",
            hint="Use an image with cloud-init, or build one: triune image build --package cloud-init",
        )
    for volume in volumes.shares(spec.volumes):
        check_share(volume, host)


def check_share(volume: VolumeMount, host: HostFacts) -> None:
    """Raise Invalid or Unsupported for a folder that can't be shown to a guest."""
    if not host.virtiofs:
        raise Unsupported(
            "no_virtiofs",
            "volumes in a virtual machine need virtiofsd, not installed here",
            hint="Run: triune setup",
        )
    if volume.read_only:
        raise Unsupported(
            "read_only_volume",
            f"the volume at {volume.target} cannot be read-only: virtiofsd would let the guest write",
            hint="Mount it read-write, or run this workload in a container.",
        )
    if not volume.source.startswith("/") or not volume.target.startswith("/"):
        raise Invalid(
            "bad_volume", f"{volume.source!r}:{volume.target!r} are not absolute paths", hint="Use /HOST:/GUEST."
        )


def _check_text(plan: LaunchPlan, form: DiskForm) -> None:
    single_line(plan.image, "the image's name")
    single_line(plan.machine_id, "the machine id")
    single_line(form.cmdline, "the kernel's command line")
    for path in (form.path, form.kernel, form.initrd, form.iso):
        single_line(str(path or ""), "a path of the image")
    for key, value in plan.spec.env.items():
        single_line(f"{key}={value}", f"the environment variable {key[:40]!r}")
    for volume in plan.spec.volumes:
        single_line(volume.source + volume.target, "a volume's path")
    for nic in plan.nics:
        single_line(nic.mac + nic.address + nic.network.name + nic.network.bridge, "a network card")
    if form.format not in ("qcow2", "raw", "vmdk"):
        raise Invalid("bad_format", f"{form.format!r} is not a disk format", hint="Import it as qcow2, raw or vmdk.")


def _check_sizes(plan: LaunchPlan, form: DiskForm, host: HostFacts) -> None:
    spec = plan.spec
    check_memory(spec.name, DEFAULT_MEMORY if spec.memory is None else spec.memory, host)
    check_cpus(spec.name, spec.cpus, host)
    if spec.disk is not None and spec.disk < form.virtual_size:
        raise Invalid(
            "disk_too_small",
            f"{spec.name!r} asks for a disk of {spec.disk} bytes; the image {plan.image!r} has {form.virtual_size}",
            hint="Ask for at least the image's size; a disk never shrinks.",
        )
    if disk_size(plan) <= 0:
        raise Invalid("no_disk_size", f"{spec.name!r} needs a disk size", hint="Give one: --disk 10GiB")


def check_memory(name: str, memory: int, host: HostFacts) -> None:
    """Raise Invalid for more memory than there is, or too little to boot."""
    if memory > host.memory or memory < MINIMUM_MEMORY:
        raise Invalid(
            "bad_memory",
            f"{name!r} asks for {memory >> 20} MiB of memory; this host has {host.memory >> 20} MiB, "
            f"and a virtual machine needs {MINIMUM_MEMORY >> 20} MiB",
            hint="Ask for something between.",
            asked=memory,
            available=host.memory,
        )


def check_cpus(name: str, cpus: float | None, host: HostFacts) -> None:
    """Raise Invalid for more CPUs than there are, Unsupported for a part of one where no cgroup can hold it back."""
    if tuning.vcpus(cpus) > host.cpus:
        raise Invalid(
            "too_many_cpus",
            f"{name!r} asks for {cpus:g} CPUs; this host has {host.cpus}",
            hint=f"Ask for fewer, at most: --cpus {host.cpus}",
        )
    if cpus is not None and cpus != int(cpus) and host.cpu_cgroup is None:
        raise Unsupported(
            "no_cpu_quota",
            f"{cpus:g} CPUs need the cgroup controller cpu, which this host does not offer",
            hint="Ask for a whole number of CPUs.",
        )


def disk_size(plan: LaunchPlan) -> int:
    """Virtual size of the instance's disk in bytes."""
    form = disk_form(plan)
    return plan.spec.disk or form.virtual_size or (INSTALLER_DISK if form.iso is not None else 0)


def needs_seed(plan: LaunchPlan) -> bool:
    """Whether there is user data, or a system that only learns from cloud-init who it is."""
    form = disk_form(plan)
    return plan.user_data is not None or (form.cloud_init and form.kernel is None)


def build(plan: LaunchPlan, files: Files, host: HostFacts) -> str:
    """The domain's XML."""
    spec, form, settings = plan.spec, disk_form(plan), parse(plan.spec.settings)
    root = ET.Element("domain", {"type": "kvm" if host.accelerated else "qemu"})
    leaf(root, "name", spec.name)
    leaf(root, "uuid", str(as_uuid(plan.machine_id) or uuid.uuid4()))
    metadata = ET.SubElement(root, "metadata")
    metadata.append(marks.write(_mark(plan, form)))
    leaf(root, "memory", str((spec.memory or DEFAULT_MEMORY) // 1024), unit="KiB")
    if volumes.shares(spec.volumes):
        volumes.share_memory(root)
    count = tuning.vcpus(spec.cpus)
    most = tuning.most_vcpus(count, host.cpus)
    leaf(root, "vcpu", str(most), **({"current": str(count)} if most > count else {}))
    _os(root, plan, settings, files, host)
    features = ET.SubElement(root, "features")
    leaf(features, "acpi", None)
    leaf(features, "apic", None)
    if not host.accelerated:
        leaf(ET.SubElement(features, "tcg"), "tb-cache", str(_TB_CACHE_MIB), unit="MiB")
    cpu(root, settings.cpu, host)
    leaf(root, "clock", None, offset="utc")
    leaf(root, "on_poweroff", "destroy")
    leaf(root, "on_reboot", "restart")
    leaf(root, "on_crash", "destroy")
    _devices(ET.SubElement(root, "devices"), plan, form, settings, files, host)
    limits = replace(spec.limits, cpus=spec.cpus)
    tuning.tune(root, limits, tuning.KEYS - {"memory"}, host.cpu_cgroup)
    ET.indent(root)
    return ET.tostring(root, encoding="unicode")


def leaf(parent: ET.Element, tag: str, text: str | None, **attributes: str) -> ET.Element:
    """Add an element with a text."""
    element = ET.SubElement(parent, tag, attributes)
    element.text = text
    return element


def as_uuid(machine_id: str) -> uuid.UUID | None:
    """The same number as a UUID; None where it is no machine id."""
    good = len(machine_id) == 32 and all(char in "0123456789abcdef" for char in machine_id)
    return uuid.UUID(machine_id) if good else None


def _mark(plan: LaunchPlan, form: DiskForm) -> marks.Mark:
    return marks.Mark(
        image=plan.image,
        created=plan.created,
        agent=form.agent,
        addresses=tuple((nic.mac, nic.network.name, nic.address) for nic in plan.nics),
        settings=plan.spec.settings,
        volumes=tuple(
            (f"triune{index}", volume.target) for index, volume in enumerate(volumes.shares(plan.spec.volumes))
        ),
    )


def _os(root: ET.Element, plan: LaunchPlan, settings: Settings, files: Files, host: HostFacts) -> None:
    form = disk_form(plan)
    direct = form.kernel is not None and settings.firmware is None and form.iso is None
    uefi = not direct and (settings.firmware or form.firmware) == "uefi"
    boot = ET.SubElement(root, "os", {"firmware": "efi"} if uefi else {})
    leaf(boot, "type", "hvm", arch="x86_64", machine=settings.machine)
    if direct:
        leaf(boot, "kernel", str(form.kernel))
        if form.initrd is not None:
            leaf(boot, "initrd", str(form.initrd))
        words = [form.cmdline]
        if not form.fixed_hostname:
            words.append(f"systemd.hostname={plan.spec.name}")
        if plan.machine_id:
            words.append(f"systemd.machine_id={plan.machine_id}")
        if "console=" not in form.cmdline:
            words.append("console=ttyS0")
        if not host.accelerated:
            words += EMULATED
        leaf(boot, "cmdline", " ".join(word for word in words if word))
        return
    if not form.fixed_hostname:
        # Where no command line can carry the name; a system of ours takes it from the asset tag.
        leaf(boot, "smbios", None, mode="sysinfo")
        chassis = ET.SubElement(ET.SubElement(root, "sysinfo", {"type": "smbios"}), "chassis")
        leaf(chassis, "entry", plan.spec.name, name="asset")
    if uefi:
        # Secure boot would refuse most images' own boot loaders; it needs SMM, which emulation makes slow.
        firmware = ET.SubElement(boot, "firmware")
        leaf(firmware, "feature", None, enabled="no", name="secure-boot")
        leaf(boot, "nvram", str(files.nvram))


def cpu(root: ET.Element, wanted: str | None, host: HostFacts) -> ET.Element:
    """The CPU: a mode of libvirt's or a model; None is what suits the host."""
    chosen = wanted or (host.cpu_model if host.accelerated else "maximum")
    if chosen in ("maximum", "host-passthrough", "host-model"):
        return ET.SubElement(root, "cpu", {"mode": chosen})
    element = ET.SubElement(root, "cpu", {"mode": "custom", "match": "exact", "check": "none"})
    leaf(element, "model", chosen, fallback="forbid")
    return element


def _devices(
    devices: ET.Element, plan: LaunchPlan, form: DiskForm, settings: Settings, files: Files, host: HostFacts
) -> None:
    leaf(devices, "emulator", host.emulator)
    _disk(devices, form, settings, files)
    if form.iso is not None:
        installer = _read_only(devices, form.iso, "cdrom", "sdy", "sata")
        _shared(installer.find("source"))
        leaf(installer, "boot", None, order="2")
    if needs_seed(plan):
        _seed(devices, settings, files.seed)
    _controllers(devices, settings, cards=4 + needs_seed(plan) + len(plan.nics) + len(plan.spec.volumes))
    for nic in plan.nics:
        add_nic(devices, nic)
    for index, volume in enumerate(volumes.disks(plan.spec.volumes)):
        devices.append(volumes.disk(volume, volumes.disk_name(index + 1, settings.bus), settings.bus))
    for index, volume in enumerate(volumes.shares(plan.spec.volumes)):
        devices.append(volumes.share(volume, f"triune{index}"))
    _serial(devices, files)
    for port in (AGENT_PORT, *(f"{EXEC_PORT}{number}" for number in range(EXEC_PORTS))):
        channel = ET.SubElement(devices, "channel", {"type": "unix"})
        leaf(channel, "target", None, type="virtio", name=port)
    if (settings.graphics or ("vnc" if form.iso else "none")) == "vnc":
        graphics = ET.SubElement(devices, "graphics", {"type": "vnc", "port": "-1", "autoport": "yes"})
        leaf(graphics, "listen", None, type="address", address="127.0.0.1")
        leaf(ET.SubElement(devices, "video"), "model", None, type="virtio" if settings.machine == "q35" else "vga")
        leaf(devices, "input", None, type="tablet", bus="virtio")
    else:
        leaf(ET.SubElement(devices, "video"), "model", None, type="none")
    rng = ET.SubElement(devices, "rng", {"model": "virtio"})
    leaf(rng, "backend", "/dev/urandom", model="random")
    if settings.minimal:
        leaf(devices, "memballoon", None, model="none")
    else:
        balloon = ET.SubElement(devices, "memballoon", {"model": "virtio"})
        leaf(balloon, "stats", None, period="10")


def _disk(devices: ET.Element, form: DiskForm, settings: Settings, files: Files) -> None:
    disk = ET.SubElement(devices, "disk", {"type": "file", "device": "disk"})
    leaf(disk, "driver", None, name="qemu", type="qcow2", discard="unmap")
    leaf(disk, "source", None, file=str(files.disk))
    # The whole chain is declared, so that nothing ever guesses a format from a guest's bytes.
    if form.path is not None:
        backing = ET.SubElement(disk, "backingStore", {"type": "file"})
        leaf(backing, "format", None, type=form.format)
        _shared(leaf(backing, "source", None, file=str(form.path)))
        leaf(backing, "backingStore", None)
    else:
        leaf(disk, "backingStore", None)
    leaf(disk, "target", None, dev="vda" if settings.bus == "virtio" else "sda", bus=settings.bus)
    if form.kernel is None or form.iso is not None or settings.firmware is not None:
        # An empty disk does not boot, so the installer does; and once something is installed, that does.
        leaf(disk, "boot", None, order="1")


def _shared(source: ET.Element | None) -> None:
    """Keep a file that others use too from being given to QEMU's user, who could then write it."""
    if source is not None:
        leaf(source, "seclabel", None, model="dac", relabel="no")


def _seed(devices: ET.Element, settings: Settings, path: Path) -> None:
    """On the disk's own bus: kernels made for virtual machines drive virtio and nothing else."""
    if settings.bus == "virtio":
        _read_only(devices, path, "disk", "vdz", "virtio")
    else:
        _read_only(devices, path, "cdrom", "sdz", settings.bus)


def _read_only(devices: ET.Element, path: Path, device: str, name: str, bus: str) -> ET.Element:
    disk = ET.SubElement(devices, "disk", {"type": "file", "device": device})
    leaf(disk, "driver", None, name="qemu", type="raw")
    leaf(disk, "source", None, file=str(path))
    leaf(disk, "backingStore", None)
    leaf(disk, "target", None, dev=name, bus=bus)
    leaf(disk, "readonly", None)
    return disk


def _controllers(devices: ET.Element, settings: Settings, *, cards: int) -> None:
    leaf(devices, "controller", None, type="usb", model="none")
    if settings.bus == "scsi":
        leaf(devices, "controller", None, type="scsi", index="0", model="virtio-scsi")
    if settings.machine == "q35":
        leaf(devices, "controller", None, type="pci", index="0", model="pcie-root")
        for index in range(1, cards + _SPARE_ROOT_PORTS + 1):
            leaf(devices, "controller", None, type="pci", index=str(index), model="pcie-root-port")


def add_nic(devices: ET.Element, nic: Nic) -> None:
    """A card on a network's bridge."""
    interface = ET.SubElement(devices, "interface", {"type": "bridge"})
    leaf(interface, "mac", None, address=nic.mac)
    leaf(interface, "source", None, bridge=nic.network.bridge)
    leaf(interface, "model", None, type="virtio")
    leaf(interface, "rom", None, enabled="no")


def _serial(devices: ET.Element, files: Files) -> None:
    serial = ET.SubElement(devices, "serial", {"type": "pty"})
    leaf(serial, "log", None, file=str(files.serial_log), append="on")
    leaf(serial, "target", None, type="isa-serial", port="0")
    console = ET.SubElement(devices, "console", {"type": "pty"})
    leaf(console, "target", None, type="serial", port="0")
