"""Templates, the pure part: which plans can start from one, what one is of, and the XML of what starts from it."""

from __future__ import annotations

import hashlib
import json
import uuid
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from triune.domain.image import DiskForm
from triune.domain.instance import InstanceSpec
from triune.domain.limits import Limits
from triune.engines.base import LaunchPlan
from triune.engines.kvm import identity, tuning
from triune.engines.kvm.settings import parse
from triune.engines.kvm.spec import EXEC_PORT, EXEC_PORTS, Files, HostFacts, build

WAITING_PORT = f"{EXEC_PORT}{EXEC_PORTS - 1}"  # the last one commands would take
_FORMAT = 1  # of what lies in a template's folder
_KEY = 24
_WEIGHT = 25  # of 100, for a template made in the background
_NOWHERE = Path("/nonexistent")
_SPACE = uuid.UUID(int=0x7472697565)  # of the templates' UUIDs
_NOT_OF_THE_MACHINE = ("autostart", "user-data")
# What the host grants a machine, and the guest does not see.
_HOST_SIDE = ("cputune", "memtune", "blkiotune", "numatune", "resource")
_OWN = ("metadata", *_HOST_SIDE)

# Runs in the guest before it is saved: nothing unique stays, and free memory is filled with zeros, which cost nothing.
PREPARE = """\
units=
for unit in ssh.socket ssh.service sshd.service; do
    systemctl --quiet is-active $unit 2>/dev/null && units="$units $unit"
done
if [ -n "$units" ]; then systemctl stop $units; echo $units > /run/triune-paused; fi
rm -f /etc/ssh/ssh_host_* /var/lib/systemd/random-seed
sync
echo 3 > /proc/sys/vm/drop_caches
perl -e '
    open(M, "/proc/meminfo");
    while (<M>) { $free = $1 if /^MemFree:\\s+(\\d+)/ }
    $zeros = "\\0" x (($free - 8192) * 1024) if $free > 16384;
'
systemctl --version > /dev/null
true
"""


def why_not(plan: LaunchPlan) -> str:
    """Why this plan cannot start from a template, one sentence; "" when it can."""
    form, spec = plan.form, plan.spec
    if not isinstance(form, DiskForm):
        return "the image has no bootable disk"
    settings = parse(spec.settings)
    reasons = (
        (form.iso is not None, "an installer is not booted twice"),
        (not form.agent, "the image has no guest agent, which a copy would get its identity through"),
        (
            form.kernel is None or settings.firmware is not None,
            "it boots through its firmware, whose variables belong to one machine",
        ),
        (plan.user_data is not None, "user data is read at a first boot"),
        (bool(spec.volumes), "its volumes share its memory with the host, and such memory can't be saved"),
        (settings.graphics == "vnc", "it has a display"),
        (settings.minimal, "it has no balloon, which gives the memory of a template back"),
        (plan.pool is not None, "its disk lies in a pool"),
        (not plan.machine_id, "it has no machine id of its own"),
    )
    return next((reason for holds, reason in reasons if holds), "")


def neutral(plan: LaunchPlan) -> LaunchPlan:
    """The plan of the template: the image and the machine, and nothing that one instance has and others have not."""
    spec = plan.spec
    settings = {key: value for key, value in spec.settings.items() if key not in _NOT_OF_THE_MACHINE}
    return LaunchPlan(
        spec=InstanceSpec(
            name="template",
            image=plan.image,
            engine=spec.engine,
            cpus=tuning.vcpus(spec.cpus),
            memory=spec.memory,
            network=None,
            settings=settings,
        ),
        form=plan.form,
        image=plan.image,
        created=datetime.fromtimestamp(0, UTC),
        machine_id=_SPACE.hex,
    )


def facts(plan: LaunchPlan, host: HostFacts, versions: Mapping[str, str]) -> dict[str, str]:
    """All that a template depends on, by what it is called: where one of them differs, it is made anew.

    The machine is the hash of its XML, so that whatever is added to that counts; the image is told by its files.
    """
    form = plan.form
    files = (form.path, form.kernel, form.initrd) if isinstance(form, DiskForm) else ()
    image = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files if path is not None]
    machine = build(neutral(plan), Files(folder=_NOWHERE), host)
    return {
        "image": _hash(json.dumps(image).encode()),
        "machine": _hash(machine.encode()),
        **versions,
    }


def program() -> str:
    """What is ours in a template: what runs in it, and how it lies on disk."""
    return _hash(identity.program() + PREPARE.encode() + bytes([_FORMAT]))


def key(of: Mapping[str, str]) -> str:
    """The template's name on disk."""
    return _hash(json.dumps(of, sort_keys=True).encode())


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:_KEY]


def template_xml(plan: LaunchPlan, files: Files, host: HostFacts, name: str, *, aside: bool) -> str:
    """The domain that boots once to become the template: no instance, and, `aside`, behind all of them for CPU time."""
    root = ET.fromstring(build(neutral(plan), files, host))  # noqa: S314 - our own
    _child(root, "name").text = name
    # libvirt takes one domain of a UUID, and another daemon may be making a template on it.
    _child(root, "uuid").text = str(uuid.uuid5(_SPACE, name))
    metadata = root.find("metadata")
    if metadata is not None:
        root.remove(metadata)
    if aside and host.cpu_cgroup is not None:
        tuning.tune(root, Limits(cpu_weight=_WEIGHT), ("cpu.weight",), host.cpu_cgroup)
    return ET.tostring(root, encoding="unicode")


def clone_xml(saved: str, cold: str, files: Files) -> str:
    """The XML to restore a template's memory with: the saved machine (its devices and their addresses) under the
    identity, the grants of the host, and the files of the instance that `cold` defines."""
    root, wanted = ET.fromstring(saved), ET.fromstring(cold)  # noqa: S314 - libvirt's and our own
    for tag in ("name", "uuid"):
        _child(root, tag).text = wanted.findtext(tag)
    for tag in _OWN:
        for old in root.findall(tag):
            root.remove(old)
        root.extend(wanted.findall(tag))
    _child(root, "os/cmdline").text = wanted.findtext("os/cmdline")
    _disk(_child(root, "devices/disk[@device='disk']"), _child(wanted, "devices/disk[@device='disk']"), files)
    for kind in ("serial", "console", "channel"):
        for device in root.findall(f"devices/{kind}"):
            for source in device.findall("source"):
                device.remove(source)
            log = device.find("log")
            if log is not None:
                log.set("file", str(files.serial_log))
    return ET.tostring(root, encoding="unicode")


def cards(cold: str) -> list[str]:
    """The cards to plug in afterwards, each as XML."""
    found = ET.fromstring(cold).findall("devices/interface")  # noqa: S314 - our own
    return [ET.tostring(card, encoding="unicode") for card in found]


def _disk(disk: ET.Element, wanted: ET.Element, files: Files) -> None:
    _child(disk, "source").set("file", str(files.disk))
    for old in disk.findall("iotune"):
        disk.remove(old)
    disk.extend(wanted.findall("iotune"))


def _child(root: ET.Element, path: str) -> ET.Element:
    found = root.find(path)
    if found is None:
        raise ValueError(f"no {path} in the domain's XML")
    return found


def waiting_socket(xml: str) -> str:
    """The host's socket of the port on which a restored machine waits for its identity; "" when there is none."""
    root = ET.fromstring(xml)  # noqa: S314 - from libvirt
    for channel in root.iterfind("devices/channel"):
        target, source = channel.find("target"), channel.find("source")
        if target is not None and target.get("name") == WAITING_PORT and source is not None:
            return source.get("path", "")
    return ""


def waits(xml: str) -> bool:
    """Whether the program in the guest has opened its port."""
    target = ET.fromstring(xml).find(f"devices/channel/target[@name='{WAITING_PORT}']")  # noqa: S314 - from libvirt
    return target is not None and target.get("state") == "connected"
