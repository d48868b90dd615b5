"""What a new container takes for itself: its folder, an id range, its hooks, and facts of the host."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from triune.domain.errors import Conflict, Unsupported
from triune.engines.lxc import detail, layers, spec
from triune.host import cgroup, cgroup_limits, idmap
from triune.host.idmap import IdRange

_RANGE = 65536


def claim(folder: Path) -> None:
    """Make the container's folder. Raises Conflict("folder_taken")."""
    try:
        folder.mkdir(parents=True, mode=0o700)
    except FileExistsError:
        raise Conflict(
            "folder_taken", f"{folder} exists and is not a container", hint="Move it away, or choose another name."
        ) from None


def require_free(folder: Path) -> None:
    """Raise Conflict("instance_exists") where a container has this folder."""
    if (folder / "config").exists():
        raise Conflict(
            "instance_exists", f"there is a system container {folder.name!r} already", hint="Choose another name."
        )


def write_hooks(folder: Path) -> None:
    """Put the hooks' scripts and the strict filter beside the configuration that names them: they outlive Triune."""
    for hook in spec.HOOKS:
        script = folder / f"{hook}.sh"
        shutil.copyfile(Path(__file__).with_name(script.name), script)
        script.chmod(0o755)
    shutil.copyfile(Path(__file__).with_name(spec.STRICT), folder / spec.STRICT)


def host_facts(folder: Path) -> spec.HostFacts:
    """What the configuration of the container in this folder depends on."""
    return spec.HostFacts(
        cgroups=cgroup_limits.versions(cgroup.hierarchies()),
        apparmor=detail.apparmor_enabled(),
        folder=folder,
        python=Path(sys.executable),
        architecture=os.uname().machine,
    )


def _granted() -> IdRange:
    granted = idmap.subordinate_range()
    if granted is None or granted.count < _RANGE:
        raise Unsupported(
            "no_subordinate_ids",
            "root has no range of 65536 subordinate ids in /etc/subuid and /etc/subgid",
            hint="Run: usermod --add-subuids 1000000-1000999999 --add-subgids 1000000-1000999999 root",
        )
    return granted


def shared_range() -> IdRange:
    """The range that containers share. Raises Unsupported("no_subordinate_ids")."""
    return IdRange(_granted().base, _RANGE)


def own_range(lxc_path: Path) -> IdRange:
    """The first range nobody has; the lock (`layers.locked`) must be held until it is in a mark."""
    granted = _granted()
    taken = {mark.id_map for mark in layers.all_marks(lxc_path)}
    for index in range(1, granted.count // _RANGE):
        candidate = IdRange(granted.base + index * _RANGE, _RANGE)
        if candidate not in taken:
            return candidate
    raise Unsupported(
        "no_free_id_range",
        "every range of root's subordinate ids is taken",
        hint="Give root more in /etc/subuid and /etc/subgid, or leave out idmap=isolated.",
    )
