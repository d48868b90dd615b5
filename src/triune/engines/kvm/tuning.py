"""Limits in a domain's XML, for a launch and for a later start alike: pure, no contact with the host.

cpus        the machine as a whole gets so much time (global_quota), whatever number of vCPUs it has
cpu.weight  cputune/shares, which libvirt writes as it is: cpu.shares (1024 is normal) or cgroup v2's cpu.weight
cpu.pin     the cpuset of the vcpu element, which holds for all threads of QEMU
io, iops    every writable disk is in one throttle group, so they share the rate
"""

from __future__ import annotations

import copy
import math
import xml.etree.ElementTree as ET
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from triune.domain.limits import FIELDS, Limits, format_cpu_list, parse_cpu_list

QUOTA_PERIOD = 100_000  # microseconds
GROUP = "triune"
IO_KEYS: Mapping[str, str] = {
    "io.read": "read_bytes_sec",
    "io.write": "write_bytes_sec",
    "iops.read": "read_iops_sec",
    "iops.write": "write_iops_sec",
}
KEYS = frozenset({"cpus", "cpu.weight", "cpu.pin", "memory", *IO_KEYS})
_NORMAL_SHARES = 1024
_NORMAL_WEIGHT = 100
_FEWEST_SHARES = 2
_SPARE_CPUS = 8  # how far an instance may grow while it runs, or four-fold
_UNIT = {"b": 1, "bytes": 1, "k": 2**10, "kib": 2**10, "m": 2**20, "mib": 2**20, "g": 2**30, "gib": 2**30}


def vcpus(cpus: float | None) -> int:
    """vCPUs that a machine needs to use so much time."""
    return math.ceil(cpus or 1)


def most_vcpus(count: int, host: int) -> int:
    """vCPUs to make room for. Each costs the guest memory, plugged in or not."""
    return max(count, min(host, max(_SPARE_CPUS, 4 * count)))


def quota(cpus: float | None, count: int) -> int:
    """Microseconds of CPU time in each period for the whole machine; -1 where its vCPUs can't use more anyway."""
    return -1 if cpus is None or cpus >= count else max(1000, round(cpus * QUOTA_PERIOD))


def shares(weight: int | None, version: int | None) -> int:
    """A weight as libvirt's `shares`, which depend on the version of the cgroup controller `cpu`."""
    if version == 2:
        return weight or _NORMAL_WEIGHT
    return max(_FEWEST_SHARES, round((weight or _NORMAL_WEIGHT) * _NORMAL_SHARES / _NORMAL_WEIGHT))


def tune(root: ET.Element, limits: Limits, keys: Collection[str], version: int | None) -> None:
    """Write these keys' values into a domain, or take them out. `version` is that of the cgroup controller `cpu`."""
    if "cpus" in keys:
        _tune_cpus(root, limits.cpus)
    if "cpu.weight" in keys:
        weight = limits.cpu_weight
        _cputune(root, {"shares": None if weight is None else str(shares(weight, version))})
    if "cpu.pin" in keys:
        _tune_pin(root, limits.cpu_pin)
    if "memory" in keys:
        _tune_memory(root, limits.memory)
    changed = [key for key in IO_KEYS if key in keys]
    if changed:
        for disk in writable_disks(root):
            _tune_disk(disk, {IO_KEYS[key]: getattr(limits, FIELDS[key]) for key in changed})


def read(root: ET.Element, version: int | None) -> Limits:
    """The limits a domain has."""
    first = next(writable_disks(root), None)
    tuned = {key: _number(first, f"iotune/{tag}") if first is not None else None for key, tag in IO_KEYS.items()}
    found = _number(root, "cputune/shares")
    normal = _NORMAL_WEIGHT if version == 2 else _NORMAL_SHARES
    return Limits(
        cpus=cpus(root),
        cpu_weight=None if found in (None, normal) else max(1, round(found * _NORMAL_WEIGHT / normal)),
        cpu_pin=_pin(root),
        memory=memory(root),
        io_read=tuned["io.read"],
        io_write=tuned["io.write"],
        iops_read=tuned["iops.read"],
        iops_write=tuned["iops.write"],
    )


def cpus(root: ET.Element) -> float:
    """CPUs' worth of time a domain may use: its vCPUs, less where a quota holds them or the whole of it back."""
    count = float(count_vcpus(root))
    single, total = _number(root, "cputune/quota"), _number(root, "cputune/global_quota")
    if single is not None:
        count *= min(1.0, single / (_number(root, "cputune/period") or QUOTA_PERIOD))
    if total is not None:
        count = min(count, total / (_number(root, "cputune/global_period") or QUOTA_PERIOD))
    return round(count, 2)


def count_vcpus(root: ET.Element) -> int:
    """The vCPUs that are plugged in."""
    vcpu = root.find("vcpu")
    return int(vcpu.get("current") or vcpu.text or 1) if vcpu is not None else 1


def memory(root: ET.Element) -> int | None:
    """Bytes of memory a domain may use: what its balloon leaves it."""
    element = root.find("currentMemory")
    return _size(root.find("memory") if element is None else element)


def most_memory(root: ET.Element) -> int | None:
    """Bytes of memory a domain has with an empty balloon."""
    return _size(root.find("memory"))


def writable_disks(root: ET.Element) -> Iterator[ET.Element]:
    """The disks an instance writes to."""
    for disk in root.iterfind("devices/disk"):
        if disk.get("device", "disk") == "disk" and disk.find("readonly") is None:
            yield disk


def throttle(limits: Limits, keys: Collection[str] = tuple(IO_KEYS)) -> dict[str, Any]:
    """As libvirt's block I/O parameters; 0 is no limit."""
    return {IO_KEYS[key]: getattr(limits, FIELDS[key]) or 0 for key in IO_KEYS if key in keys}


def throttle_too(root: ET.Element, disk: ET.Element) -> None:
    """Give a disk that is about to be plugged in the throttling of those that are there."""
    iotune = next((each.find("iotune") for each in writable_disks(root)), None)
    if iotune is not None and iotune.findtext("group_name") == GROUP and disk.find("readonly") is None:
        disk.append(copy.deepcopy(iotune))


def _tune_cpus(root: ET.Element, wanted: float | None) -> None:
    vcpu = root.find("vcpu")
    if vcpu is None:
        vcpu = ET.SubElement(root, "vcpu")
    if wanted is not None:
        count = vcpus(wanted)
        most = max(count, int(vcpu.text or 1))
        vcpu.text = str(most)
        _fit_topology(root, most)
        vcpu.attrib.pop("current", None)
        if most > count:
            vcpu.set("current", str(count))
        for single in root.findall("vcpus"):  # says of each one whether it is there
            root.remove(single)
    total = quota(wanted, count_vcpus(root))
    limited = total > 0
    period = str(QUOTA_PERIOD) if limited else None
    _cputune(root, {"period": None, "quota": None, "global_period": period})
    _cputune(root, {"global_quota": str(total) if limited else None})


def _fit_topology(root: ET.Element, most: int) -> None:
    """libvirt refuses sockets and cores that are not as many as the CPUs: cores stay where they divide them."""
    topology = root.find("cpu/topology")
    if topology is None or math.prod(int(count) for count in topology.attrib.values()) == most:
        return
    per_socket = int(topology.get("cores", "1")) * int(topology.get("threads", "1"))
    if most % per_socket:
        topology.set("cores", "1")
        topology.set("threads", "1")
        per_socket = 1
    for key in ("dies", "clusters"):
        topology.attrib.pop(key, None)
    topology.set("sockets", str(most // per_socket))


def _cputune(root: ET.Element, values: Mapping[str, str | None]) -> None:
    tune_element = root.find("cputune")
    for tag, text in values.items():
        if tune_element is None and text is None:
            continue
        if tune_element is None:
            tune_element = ET.Element("cputune")
            root.insert(_after(root, "vcpu"), tune_element)
        _set(tune_element, tag, text)
    if tune_element is not None and len(tune_element) == 0:
        root.remove(tune_element)


def _after(root: ET.Element, tag: str) -> int:
    return next((index + 1 for index, child in enumerate(root) if child.tag == tag), len(root))


def _tune_pin(root: ET.Element, pin: str | None) -> None:
    vcpu = root.find("vcpu")
    if vcpu is None:
        vcpu = ET.SubElement(root, "vcpu")
        vcpu.text = "1"
    vcpu.attrib.pop("cpuset", None)
    vcpu.attrib.pop("placement", None)  # "auto" would let numad choose
    if pin is not None:
        vcpu.set("cpuset", pin)
    tune_element = root.find("cputune")
    for tag in ("vcpupin", "emulatorpin"):
        for element in root.findall(f"cputune/{tag}"):
            if tune_element is not None:
                tune_element.remove(element)
    _cputune(root, {})


def _pin(root: ET.Element) -> str | None:
    """The host CPUs that any of its vCPUs may run on, where they are told."""
    told = [pin.get("cpuset") for pin in root.iterfind("cputune/vcpupin")]
    vcpu = root.find("vcpu")
    if vcpu is not None and len(told) < count_vcpus(root):
        told.append(vcpu.get("cpuset"))
    try:
        lists = [parse_cpu_list(text) for text in told if text]
    except ValueError:  # libvirt's own "^3" for all but one
        return None
    return format_cpu_list({cpu for each in lists for cpu in each}) if lists and None not in told else None


def _tune_memory(root: ET.Element, wanted: int | None) -> None:
    most, current = root.find("memory"), root.find("currentMemory")
    if wanted is None or most is None:
        if current is not None:
            root.remove(current)
        return
    most.set("unit", "KiB")
    most.text = str(wanted // 1024)
    if current is not None:
        current.set("unit", "KiB")
        current.text = most.text


def _tune_disk(disk: ET.Element, values: Mapping[str, int | None]) -> None:
    iotune = disk.find("iotune")
    if iotune is None:
        iotune = ET.SubElement(disk, "iotune")
    for tag, value in values.items():
        _set(iotune, tag, None if value is None else str(value))
        if value is not None:
            _set(iotune, tag.replace("read", "total").replace("write", "total"), None)  # libvirt takes one or the other
    _set(iotune, "group_name", None)
    if len(iotune) == 0:
        disk.remove(iotune)
    else:
        _set(iotune, "group_name", GROUP)


def _set(parent: ET.Element, tag: str, text: str | None) -> None:
    found = parent.find(tag)
    if text is None:
        if found is not None:
            parent.remove(found)
        return
    if found is None:
        found = ET.SubElement(parent, tag)
    found.text = text


def _number(parent: ET.Element, path: str) -> int | None:
    """A positive number; 0 and -1 are libvirt's for none."""
    text = (parent.findtext(path) or "").strip()
    return int(text) if text.isdecimal() and int(text) > 0 else None


def _size(element: ET.Element | None) -> int | None:
    if element is None or not element.text:
        return None
    return int(element.text) * _UNIT.get(element.get("unit", "KiB").lower(), 2**10)
