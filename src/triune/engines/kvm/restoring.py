"""A machine made of a backup, on whatever host: its definition led to this host, its disks whole, its kernel its own.

Under its old name it is the same machine again (as long as no other domain has its UUID); under another it is a copy,
and gets an identity of its own when it first runs, as a clone does.
"""

from __future__ import annotations

import shutil
import xml.etree.ElementTree as ET
from pathlib import Path
from uuid import UUID

from triune.domain.errors import Conflict, Failed, NotFound
from triune.domain.names import instance_name
from triune.domain.operation import Progress
from triune.engines.archiving import RestorePlan
from triune.engines.base import ClonePlan
from triune.engines.kvm import clone_xml, drives, folders, tpm
from triune.engines.kvm import mark as marks
from triune.engines.kvm.client import Client
from triune.engines.kvm.clone_xml import Chain
from triune.engines.kvm.spec import EMULATED, Files, HostFacts
from triune.host.run import run

TPM = "tpm"  # the part with what it remembers
_BOOT = {"kernel": "os/kernel", "initrd": "os/initrd"}


def boot_files(root: ET.Element) -> dict[str, Path]:
    """The files a domain boots from beside its disk: `kernel`, `initrd`."""
    found = {name: root.findtext(path) for name, path in _BOOT.items()}
    return {name: Path(text) for name, text in found.items() if text and Path(text).exists()}


def restore(client: Client, state_dir: Path, host: HostFacts, plan: RestorePlan, progress: Progress) -> None:
    """Make it, stopped. Raises Conflict("instance_exists" | "folder_in_use"), Failed("backup_unreadable"), Unsupported(
    "no_tpm")."""
    name = instance_name(plan.spec.name)
    files = Files(folder=state_dir / name)
    if client.find(name) is not None:
        raise Conflict("instance_exists", f"there is a virtual machine {name!r} already", hint="Choose another name.")
    folders.require_free(client, files.folder)
    root = _definition(plan)
    tpm.require(root, name)
    try:
        if files.folder.exists():
            shutil.rmtree(files.folder)  # no domain has it: what a crash left
        files.folder.mkdir(mode=0o711)
        disks = _disks(root, plan, files, progress)
        _small_files(plan, files)
        progress.step("kvm-define", "defining the virtual machine")
        xml = _xml(client, root, plan, files, disks, host)
        tpm.define(client, name, xml, plan.parts.get(TPM))
    except BaseException:
        # only the files: a domain of that name would be somebody else's, defined meanwhile
        shutil.rmtree(files.folder, ignore_errors=True)
        raise


def _definition(plan: RestorePlan) -> ET.Element:
    try:
        return ET.fromstring(str(plan.described["xml"]))  # noqa: S314 - from our own encrypted repository
    except (KeyError, ET.ParseError):
        raise Failed(
            "backup_unreadable",
            f"the backup does not say what {plan.spec.name!r} was made of",
            hint="Take another one: triune backup list",
        ) from None


def _disks(root: ET.Element, plan: RestorePlan, files: Files, progress: Progress) -> dict[str, Chain]:
    progress.step("kvm-disk", "writing the disks")
    disks: dict[str, Chain] = {}
    devices, held = root.find("devices"), plan.described.get("disks")
    for drive in drives.writable(root):
        if devices is not None and isinstance(held, dict) and drive.target not in held:
            devices.remove(drives.element(root, drive.target))  # it was to come with the next start
    for number, drive in enumerate(drives.writable(root)):
        raw = plan.parts.get(drive.target)
        if raw is None:
            raise Failed(
                "backup_unreadable",
                f"the backup has no disk {drive.target}",
                hint="Take another one: triune backup list",
            )
        path = files.disk if number == 0 else files.folder / f"disk-{drive.target}.qcow2"
        # -S: what is zero takes no room
        run(["qemu-img", "convert", "-q", "-f", "raw", "-O", "qcow2", "-S", "64k", raw, path], timeout=None)
        path.chmod(0o600)
        disks[drive.target] = ((path, "qcow2"),)
        progress.check()
    return disks


def _small_files(plan: RestorePlan, files: Files) -> None:
    for part, path in (("nvram", files.nvram), ("seed", files.seed)):
        if part in plan.parts:
            path.touch(mode=0o600)
            shutil.copyfile(plan.parts[part], path)
    if isinstance(environment := plan.described.get("environment"), str):
        files.environment.touch(mode=0o600)
        files.environment.write_text(environment)
    boot = plan.parts.get("boot")
    if boot is not None:
        for name in _BOOT:
            if (boot / name).exists():
                shutil.copyfile(boot / name, files.folder / name)
                (files.folder / name).chmod(0o644)


def _xml(
    client: Client, root: ET.Element, plan: RestorePlan, files: Files, disks: dict[str, Chain], host: HostFacts
) -> str:
    was = root.findtext("name", "")
    folder = plan.described.get("folder")
    same = was == plan.spec.name and _free(client, root.findtext("uuid", ""))
    machine_id = UUID(root.findtext("uuid", "")).hex if same else plan.machine_id
    copy = ClonePlan(name=was, new=plan.spec.name, created=plan.created, machine_id=machine_id, nics=plan.nics)
    text = clone_xml.build(root, copy, Path(str(folder)) if folder else None, files, disks)
    made = ET.fromstring(text)  # noqa: S314 - our own
    for name, path in _BOOT.items():
        element = made.find(path)
        if element is not None and (files.folder / name).exists():
            element.text = str(files.folder / name)
    _adapt(made, host)
    _remark(made, plan, same=same)
    return ET.tostring(made, encoding="unicode")


def _free(client: Client, uuid: str) -> bool:
    try:
        client.call(lambda connection: connection.lookupByUUIDString(uuid))
    except NotFound:
        return True
    return False


def _adapt(root: ET.Element, host: HostFacts) -> None:
    """What depends on the host: the accelerator, the emulator, files that may not be here."""
    root.set("type", "kvm" if host.accelerated else "qemu")
    emulator = root.find("devices/emulator")
    if emulator is not None:
        emulator.text = host.emulator
    words = root.find("os/cmdline")
    if words is not None and words.text:
        kept = [word for word in words.text.split(" ") if word not in EMULATED]
        words.text = " ".join([*kept, *(() if host.accelerated else EMULATED)])
    features = root.find("features")
    tcg = features.find("tcg") if features is not None else None
    if features is not None and tcg is not None and host.accelerated:
        features.remove(tcg)  # libvirt takes it for emulated machines alone
    cpu = root.find("cpu")
    if cpu is not None and not host.accelerated and cpu.get("mode") in ("host-passthrough", "host-model"):
        root.remove(cpu)
        ET.SubElement(root, "cpu", {"mode": "maximum"})
    nvram = root.find("os/nvram")
    if nvram is not None:
        nvram.attrib.pop("template", None)
    devices = root.find("devices")
    if devices is None:
        return
    for disk in devices.findall("disk"):
        source = disk.find("source")
        file = source.get("file") if source is not None else None
        if file and not Path(file).exists():
            devices.remove(disk)  # a medium of the old host's
    for share in devices.findall("filesystem"):
        source = share.find("source")
        if source is not None and not Path(source.get("dir", "")).is_dir():
            devices.remove(share)


def _remark(root: ET.Element, plan: RestorePlan, *, same: bool) -> None:
    metadata = root.find("metadata")
    mark = marks.read(root)
    if metadata is None or mark is None:
        return
    there = {target.get("dir") for target in root.iterfind("devices/filesystem/target")}
    for old in metadata.findall(f"{{{marks.NAMESPACE}}}instance"):
        metadata.remove(old)
    metadata.append(
        marks.write(
            marks.Mark(
                image=plan.image,
                created=plan.created,
                agent=mark.agent,
                addresses=mark.addresses,
                settings=mark.settings,
                volumes=tuple(volume for volume in mark.volumes if volume[0] in there),
                renew="" if same else mark.renew,
            )
        )
    )
