"""Everything known of one container. Isolation is read from the running init, not from what was configured."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from triune.domain import capabilities as kernel_capabilities
from triune.domain.errors import Failed
from triune.domain.instance import InstanceDetail, State
from triune.engines.lxc import mark as marks
from triune.engines.lxc import spec
from triune.engines.lxc.client import Client
from triune.engines.lxc.inventory import Inventory
from triune.engines.lxc.mark import Mark
from triune.engines.lxc.stats import PAYLOAD
from triune.host import beneath, btrfs, cgroup
from triune.host.confinement import last_capability

_SECCOMP = {"0": "off", "1": "strict", "2": "filter"}
_DISK_PATIENCE_S = 0.25


def detail(client: Client, inventory: Inventory, name: str) -> InstanceDetail:
    """Read it. Raises NotFound."""
    row = inventory.row(name)
    folder = client.folder(name)
    try:
        mark = marks.read(folder)
    except Failed:
        mark = None
    items = list(spec.parse((folder / "config").read_text(errors="replace")))
    pid = client.init_pid(name) if row.state is not State.STOPPED else None
    memory, uptime, process = None, None, None
    if pid is not None:
        try:
            process = isolation_of(pid)
            memory = cgroup.group_of(pid, PAYLOAD).memory_bytes()
            uptime = uptime_of(pid)
        except OSError:
            pid = None
    return InstanceDetail(
        instance=row,
        uptime_s=uptime,
        memory_used_bytes=memory,
        disk_used_bytes=_disk_used(folder, mark),
        kernel=os.uname().release,
        isolation=process or configured_isolation(items),
        network=_network(items, mark, row.addresses),
        devices=_devices(items, mark, folder),
        settings=mark.settings if mark else {},
    )


def uptime_of(pid: int) -> float:
    """Seconds since the process started. Raises OSError when it is gone."""
    # Field 22 of proc_pid_stat(5); the command's name in brackets may itself hold brackets and spaces.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    started = int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - started)


def isolation_of(pid: int) -> Mapping[str, Any]:
    """What separates a running container from the host. Raises OSError when its init is gone."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line)
    id_map = [
        [int(number) for number in line.split()] for line in Path(f"/proc/{pid}/uid_map").read_text().splitlines()
    ]
    mapped = all(outside != 0 for _, outside, _ in id_map)
    try:
        profile = Path(f"/proc/{pid}/attr/apparmor/current").read_text().strip()
    except OSError:
        profile = "none: this kernel has no AppArmor" if not apparmor_enabled() else "unconfined"
    return {
        "kernel": "shared",
        "boundary": "user namespace" if mapped else "none (privileged)",
        "privileged": not mapped,
        "id_map": id_map,
        "seccomp": _SECCOMP.get(status.get("Seccomp", "").strip(), "unknown"),
        "apparmor": profile,
        "capabilities": capabilities(int(status.get("CapBnd", "0"), 16), last_capability())
        + (", within the user namespace" if mapped else ""),
    }


def capabilities(kept: int, last: int) -> str:
    """A bounding set (capabilities(7)) in words: "all", "all but sys_time", "chown, kill" or "none"."""
    names = [kernel_capabilities.name(bit) for bit in range(last + 1)]
    held = [name for bit, name in enumerate(names) if kept >> bit & 1]
    lost = [name for name in names if name not in held]
    if not held:
        return "none"
    if len(held) > len(lost):
        return f"all but {', '.join(lost)}" if lost else "all"
    return ", ".join(held)


def configured_isolation(items: list[tuple[str, str]]) -> Mapping[str, Any]:
    """What a stopped container's configuration asks for."""
    maps = [value.split() for key, value in items if key == "lxc.idmap" and value.startswith("u ")]
    id_map = [[int(part) for part in fields[1:4]] for fields in maps if len(fields) >= 4]
    return {
        "kernel": "shared",
        "boundary": "user namespace" if id_map else "none (privileged)",
        "privileged": not id_map,
        "id_map": id_map,
    }


def apparmor_enabled() -> bool:
    """Whether the kernel has AppArmor switched on."""
    try:
        return Path("/sys/module/apparmor/parameters/enabled").read_text().strip() == "Y"
    except OSError:
        return False


def _disk_used(folder: Path, mark: Mark | None) -> int | None:
    """What the container alone keeps on disk: its upper layer, or an adopted one's whole root. None: takes too long."""
    own = mark.own(folder) if mark else folder / "rootfs"
    if mark and mark.whole and btrfs.is_subvolume(own):
        usage = btrfs.usage(own)
        return usage.referenced if usage else None
    return beneath.disk_usage(own, deadline=time.monotonic() + _DISK_PATIENCE_S)


def _network(
    items: list[tuple[str, str]], mark: Mark | None, addresses: tuple[str, ...]
) -> tuple[Mapping[str, Any], ...]:
    if mark:
        return tuple(
            {
                "network": card.network,
                "interface": card.host_interface,
                "mac": card.mac,
                "addresses": [card.address],
                "published": list(mark.publish) if index == 0 else [],
            }
            for index, card in enumerate(mark.cards)
        )
    links = [value for key, value in items if key.endswith(".link")]
    macs = [value for key, value in items if key.endswith(".hwaddr")]
    return tuple(
        {
            "network": link,
            "interface": None,
            "mac": macs[index] if index < len(macs) else None,
            "addresses": list(addresses) if index == 0 else [],
            "published": [],
        }
        for index, link in enumerate(links)
    )


def _devices(items: list[tuple[str, str]], mark: Mark | None, folder: Path) -> tuple[Mapping[str, Any], ...]:
    found: list[Mapping[str, Any]] = []
    if mark:
        root: dict[str, Any] = {"type": "disk", "source": str(mark.own(folder)), "target": "/"}
        root |= {} if mark.whole else {"lower": str(mark.tree), "shared": True}
        found.append(
            root | ({"pool": mark.pool.name} if mark.pool else {}) | ({"size": mark.disk} if mark.disk else {})
        )
    else:
        found += [{"type": "disk", "source": value, "target": "/"} for key, value in items if key == "lxc.rootfs.path"]
    for volume in mark.volumes if mark else ():
        found.append({"type": "mount", "source": volume.source, "target": volume.target, "read_only": volume.read_only})
    for key, value in items:
        fields = value.split()
        if key != "lxc.mount.entry" or len(fields) < 4 or fields[0].startswith(f"{folder}/"):
            continue
        source, target = (part.replace("\\040", " ") for part in fields[:2])
        read_only = "ro" in fields[3].split(",")
        found.append({"type": "mount", "source": source, "target": f"/{target.lstrip('/')}", "read_only": read_only})
    return tuple(found)
