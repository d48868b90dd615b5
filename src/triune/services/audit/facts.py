"""An instance's isolation as the plain facts that rules ask of."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Any

from triune.domain import seccomp
from triune.domain.isolation import Door, HostMount, Isolation
from triune.services.audit.knowledge import Knowledge
from triune.services.audit.probing import Probed
from triune.services.images.references import OCI_PREFIX

_NAMESPACES = ("pid", "net", "ipc", "uts")


def of(
    isolation: Isolation,
    known: Knowledge,
    *,
    system: bool,
    pids_limited: bool | None,
    escapes: list[str],
    probed: Probed | None,
    now: datetime,
) -> dict[str, Any]:
    """All of `knowledge.FACTS`; None where it is unknown. `system`: it has an init and a root that is to be changed."""
    kept = isolation.capabilities
    return {
        "own_kernel": isolation.own_kernel,
        "user_space": isolation.user_space,
        "accelerated": isolation.accelerated,
        "running": isolation.running,
        "privileged": isolation.privileged,
        "user_namespace": isolation.user_namespace,
        "id_map_shared": isolation.id_map_shared,
        "root_inside": isolation.root_inside,
        "system": system,
        "filtered": isolation.filtered,
        "capabilities_dangerous": None if kept is None else sorted(kept & known.words["dangerous"]),
        "capabilities_spare": None if kept is None else sorted(kept - known.words["needed"] - known.words["dangerous"]),
        "calls_open": _open(isolation, frozenset()),
        # Root of a user namespace may do these to what is its own; all others the kernel refuses it anyway.
        "calls_open_mapped": _open(isolation, _OWN),
        "label": isolation.label,
        "labels_available": isolation.labels_available,
        "no_new_privileges": isolation.no_new_privileges,
        "read_only_root": isolation.read_only_root,
        "proc_guarded": isolation.proc_guarded,
        "nesting": isolation.nesting,
        "shared_namespaces": [kind for kind in isolation.shared_namespaces if kind in _NAMESPACES],
        "shared_cgroups": "cgroup" in isolation.shared_namespaces,
        "ports_open": [port for port in isolation.ports if port.count(":") < 2],
        "memory_limited": isolation.memory_limited,
        "pids_limited": pids_limited,
        "image": isolation.image,
        "image_age_days": _age(isolation.image_created, now),
        "image_origin": isolation.image_origin,
        "moving_tag": _moves(isolation),
        "secrets": list(isolation.secrets),
        "process_user": isolation.process_user,
        "displays_open": [_screen(door) for door in isolation.displays if not door.local and not door.guarded],
        "displays_local": [_screen(door) for door in isolation.displays if door.local and not door.guarded],
        "emulated": list(isolation.emulated),
        "escapes": escapes,
        "contradictions": [step.title for step in probed.steps if step.contradiction] if probed else [],
        **mounted(isolation, known.words),
    }


_OWN = frozenset((
    "mount", "umount2", "mount_setattr", "move_mount", "open_tree", "fsopen", "fsmount", "fsconfig", "fspick",
    "pivot_root", "setns", "unshare", "reboot", "mbind", "move_pages", "set_mempolicy", "kcmp", "syslog", "vhangup",
    "swapon", "swapoff", "acct", "ioperm", "iopl", "quotactl", "settimeofday", "clock_settime", "init_module",
    "finit_module", "delete_module", "kexec_load", "kexec_file_load", "lookup_dcookie", "uselib", "sysfs",
    "nfsservctl", "ustat",
))  # fmt: skip


def _open(isolation: Isolation, harmless: frozenset[str]) -> list[str] | None:
    """The reference's calls that pass, although the capability that would give them back is not there."""
    if isolation.calls_blocked is None:
        return None
    expected = seccomp.reference_blocked(isolation.capabilities or frozenset())
    if harmless:
        expected = frozenset(seccomp.REFERENCE)
    return sorted(expected - isolation.calls_blocked - harmless)


def _age(created: datetime | None, now: datetime) -> int | None:
    if created is None:
        return None
    return max(0, (now - (created if created.tzinfo else created.replace(tzinfo=UTC))).days)


def _moves(isolation: Isolation) -> bool | None:
    """Whether its image is named by a registry's tag that is given anew: none at all, or `latest`."""
    image = isolation.image or ""
    reference = image.removeprefix(OCI_PREFIX)
    if reference == image or "@" in reference or reference.startswith("sha256:"):
        return None
    tag = reference.rpartition("/")[2].partition(":")[2]
    return tag in ("", "latest")


def _screen(door: Door) -> str:
    return f"{door.group} at {door.address}"


def mounted(isolation: Isolation, words: Mapping[str, frozenset[str]]) -> dict[str, Any]:
    """What of the host's is seen inside, by how much it gives away."""
    sockets: list[str] = []
    writable: list[str] = []
    readable: list[str] = []
    other: list[str] = []
    disks: list[str] = []
    for mount in isolation.mounts:
        where = f"{mount.source} at {mount.target}" if mount.target else mount.source
        kind = _kind(mount, words)
        if kind == "socket":
            sockets.append(where)
        elif kind == "disk":
            disks.append(where)
        elif kind == "system":
            (readable if mount.read_only else writable).append(where)
        elif kind == "other" and not mount.read_only:
            other.append(where)
    devices = [device for device in isolation.devices if not device.startswith(_DISKS)]
    disks += [device for device in isolation.devices if device.startswith(_DISKS)]
    return {
        "sockets": sockets,
        "mounts_system_writable": writable,
        "mounts_system_read_only": readable,
        "mounts_other": other,
        "disks": disks,
        "devices": devices,
    }


_DISKS = ("/dev/sd", "/dev/vd", "/dev/nvme", "/dev/xvd", "/dev/mmcblk", "/dev/dm-", "/dev/mapper/", "/dev/loop")


def _kind(mount: HostMount, words: Mapping[str, frozenset[str]]) -> str:
    source = str(PurePosixPath(mount.source))
    if source in words["harmless_files"]:
        return ""
    if PurePosixPath(source).name in words["control_sockets"]:
        return "socket"
    if mount.kind == "disk" or source.startswith(_DISKS):
        # A machine's disk on a device of the host is its own: it is given as a whole, and to it alone.
        return "disk" if mount.target else ""
    if source in words["system_folders"] or source.startswith(("/proc/", "/sys/", "/etc/")):
        return "system"
    return "other"


HARD_TO_TELL = {
    "capabilities": "which capabilities it keeps",
    "filtered": "whether its system calls are filtered",
    "calls_blocked": "which system calls its filter blocks",
    "label": "whether a label confines it",
    "image_created": "how old its image is",
    "process_user": "whom its process belongs to",
}


def unknown(isolation: Isolation) -> list[str]:
    """What could not be found out, a sentence each."""
    return [f"{HARD_TO_TELL.get(key, key)} is unknown: {why}" for key, why in isolation.unknown.items()]
