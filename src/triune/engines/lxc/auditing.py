"""What holds a system container apart: of a running one as the kernel has it, else as it is configured.

Configuration is asked of liblxc, which follows includes (lxc.container.conf(5)); bind mounts are those of the
container's own file and mark, as the includes that come with LXC add harmless ones.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from triune.domain import capabilities, seccomp, secrets
from triune.domain.errors import Failed
from triune.domain.instance import State
from triune.domain.isolation import Exposure, HostMount, IdRange, Isolation
from triune.engines.lxc import layers, seed, spec
from triune.engines.lxc import mark as marks
from triune.engines.lxc.client import Client
from triune.engines.lxc.mark import Mark
from triune.host import beneath, confinement, packages
from triune.host.mounted import shown

Items = Callable[[str], Sequence[str]]

_MOST_USER_DATA = 1 << 20
_NAMESPACES = ("pid", "net", "ipc", "uts")
_GUARDED = frozenset({"proc", "proc:mixed", "proc:ro"})
_PACKAGES = ("liblxc1", "liblxc1t64", "lxc")


class LxcAuditing:
    """The facet."""

    hardened: Mapping[str, str] = {"confinement": "strict", "idmap": "isolated"}
    hardened_limits: Mapping[str, str] = {"pids": "1024"}

    def __init__(self, client: Client) -> None:
        self._client = client

    def isolation(self, name: str) -> Isolation:
        """Read its configuration, its mark and its first process."""
        folder = self._client.require(name)
        own = list(spec.parse((folder / "config").read_text(errors="replace")))
        try:
            mark = marks.read(folder)
        except Failed:
            mark = None
        pid = self._client.init_pid(name) if self._client.state(name) is not State.STOPPED else None
        process = None
        if pid is not None:
            try:
                process = confinement.of(pid)
            except OSError:
                pid = None
        shared = mark is not None and mark.id_map is not None and self._sharers(mark) > 1
        found = facts(own, self._items(name), mark, process, folder=folder, shared=shared)
        return replace(found, secrets=(*found.secrets, *_in_user_data(mark.own(folder)))) if mark else found

    def _items(self, name: str) -> Items:
        def items(key: str) -> Sequence[str]:
            return self._client.config(name, key)

        return items

    def _sharers(self, mark: Mark) -> int:
        return sum(other.id_map == mark.id_map for other in layers.all_marks(self._client.path))

    def exposure(self) -> Exposure:
        """liblxc; it has no daemon."""
        return Exposure(components=(packages.component("LXC", self._client.version(), _PACKAGES),))


def facts(
    own: Sequence[tuple[str, str]],
    items: Items,
    mark: Mark | None,
    process: confinement.Confinement | None,
    *,
    folder: Path,
    shared: bool,
) -> Isolation:
    """The facts. `own` are the lines of the container's own file, `items` asks liblxc for all values of a key."""
    id_map = process.id_map if process else _id_map(items("lxc.idmap"))
    mapped = bool(id_map) and all(line.outside != 0 for line in id_map)
    unknown: dict[str, str] = {}
    filtered, blocked = _filter(items("lxc.seccomp.profile"), process, unknown)
    values = dict(own)
    profile = values.get("lxc.apparmor.profile", "")
    return Isolation(
        running=process is not None,
        own_kernel=False,
        boundary="user namespace" if mapped else "namespaces only (privileged)",
        runtime="liblxc",
        privileged=not mapped,
        user_namespace=mapped,
        id_map=id_map,
        id_map_shared=shared if mark else None,
        capabilities=process.capabilities if process else _kept(items),
        filtered=filtered,
        calls_blocked=blocked,
        label=process.label if process else "" if profile == "unconfined" else profile,
        labels_available=confinement.labels_available(),
        no_new_privileges=process.no_new_privileges if process else items("lxc.no_new_privs")[-1:] == ["1"],
        read_only_root="ro" in ",".join(items("lxc.rootfs.options")).split(","),
        # Within a user namespace the kernel itself refuses them to anyone but the host's root.
        proc_guarded=mapped or any(word in _GUARDED for line in items("lxc.mount.auto") for word in line.split()),
        root_inside=True,
        nesting=(mark is not None and mark.settings.get("nesting") == "true")
        or any(key == "lxc.include" and value.endswith("nesting.conf") for key, value in own),
        mounts=tuple(_mounts(own, mark, folder)),
        devices=_devices(own),
        shared_namespaces=tuple(kind for kind in _NAMESPACES if kind in process.shared)
        if process
        else _kept_spaces(own),
        ports=mark.publish if mark else (),
        memory_limited=spec.limits(own).memory_bytes is not None,
        image=mark.image if mark else None,
        secrets=tuple(
            secrets.in_variables(secrets.as_variables(value for key, value in own if key == "lxc.environment"))
        ),
        unknown=unknown,
    )


def _in_user_data(root: Path) -> tuple[str, ...]:
    """Names of secrets in cloud-init's seed, which lies in the container's own layer and is in the guest's hands."""
    try:
        with beneath.Root(root) as tree:
            fd = tree.open(f"{seed.CLOUD_SEED}/user-data", os.O_RDONLY | os.O_NONBLOCK)
        with os.fdopen(fd, "rb") as file:
            text = file.read(_MOST_USER_DATA).decode(errors="replace")
    except OSError:
        return ()
    return tuple(f"user data: {name}" for name in secrets.in_text(text))


def _id_map(lines: Sequence[str]) -> tuple[IdRange, ...]:
    fields = [line.split() for line in lines if line.startswith("u ")]
    return tuple(IdRange(*(int(word) for word in words[1:4])) for words in fields if len(words) >= 4)


def _kept(items: Items) -> frozenset[str]:
    """What lxc.cap.keep or lxc.cap.drop leave."""
    if keep := [word for line in items("lxc.cap.keep") for word in line.split()]:
        return capabilities.plain(keep) - {"none"}
    return capabilities.ALL - capabilities.plain(word for line in items("lxc.cap.drop") for word in line.split())


def _filter(
    paths: Sequence[str], process: confinement.Confinement | None, unknown: dict[str, str]
) -> tuple[bool | None, frozenset[str] | None]:
    """Whether there is a filter, and which of the reference's calls it takes away."""
    path = paths[-1] if paths else ""
    filtered = process.filtered if process else bool(path)
    if not filtered:
        return False, frozenset()
    try:
        return True, seccomp.blocked_by_list(Path(path).read_text())
    except (OSError, ValueError) as error:
        unknown["calls_blocked"] = f"the seccomp profile {path} can't be read: {error}"
        return True, None


def _mounts(own: Sequence[tuple[str, str]], mark: Mark | None, folder: Path) -> list[HostMount]:
    found = (
        [
            shown(volume.source, volume.target, read_only=volume.read_only)
            for volume in mark.volumes
            if not volume.volume
        ]
        if mark
        else []
    )
    for key, value in own:
        fields = value.split()
        if key != "lxc.mount.entry" or len(fields) < 4 or fields[0].startswith(f"{folder}/"):
            continue
        if fields[2] == "none" and "bind" in fields[3]:
            source, target = (part.replace("\\040", " ") for part in fields[:2])
            read_only = "ro" in fields[3].split(",")
            if not any(one.source == source for one in found):
                found.append(shown(source, f"/{target.lstrip('/')}", read_only=read_only))
    return found


def _devices(own: Sequence[tuple[str, str]]) -> tuple[str, ...]:
    keys = ("lxc.cgroup.devices.allow", "lxc.cgroup2.devices.allow")
    rules = dict.fromkeys(value for key, value in own if key in keys and value)
    return tuple(f"cgroup rule {rule}" for rule in rules)


def _kept_spaces(own: Sequence[tuple[str, str]]) -> tuple[str, ...]:
    kept = {word for key, value in own if key == "lxc.namespace.keep" for word in value.split()}
    kept |= {"net"} if ("lxc.net.0.type", "none") in own else set()
    return tuple(kind for kind in _NAMESPACES if kind in kept)
