"""From a launch plan to LXC configuration. Pure: what it needs to know of the host is passed in.

`Items` are (key, value) pairs in order; `serialise` is the only place that makes configuration text of them. The
format is lxc.container.conf(5): one `key = value` per line, no quoting, so control characters are refused.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from triune.domain.errors import Invalid, Unsupported
from triune.domain.image import TreeForm
from triune.domain.instance import VolumeMount
from triune.domain.names import single_line
from triune.domain.network import Nic
from triune.engines.base import LaunchPlan
from triune.engines.lxc import limit_items
from triune.engines.lxc.mark import Bind, Card
from triune.engines.lxc.settings import Settings
from triune.host import cgroup_limits
from triune.host.idmap import IdRange

Items = list[tuple[str, str]]

STRICT = "strict.seccomp"  # the filter of strict confinement, in the container's own folder
# What neither systemd nor the programs of a server need; a user namespace limits most of it anyway.
_STRICT_DROPS = (
    *("audit_control", "audit_read", "block_suspend", "ipc_lock", "lease", "linux_immutable", "mac_admin"),
    *("mac_override", "mknod", "sys_boot", "sys_module", "sys_pacct", "sys_rawio", "sys_time", "syslog", "wake_alarm"),
)
HOOKS = ("pre-start", "destroy")  # each a script NAME.sh in the container's own folder
SHARED_CONFIG = Path("/usr/share/lxc/config")
_KEY = re.compile(r"lxc(?:\.[a-zA-Z0-9_]+)+", re.ASCII)
# Items that may name files in the container's own folder.
_OWN_PATHS = frozenset(
    f"lxc.{key}"
    for key in (
        "rootfs.path",
        "console.logfile",
        "hook.pre-start",
        "hook.destroy",
        "seccomp.profile",
        "mount.entry",
        "mount.fstab",
        "log.file",
    )
)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_SIZES = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}


@dataclass(frozen=True, slots=True, kw_only=True)
class HostFacts:
    """What the configuration depends on: cgroup version (1, 2, None) of each controller, AppArmor, our own paths."""

    cgroups: Mapping[str, int | None]
    apparmor: bool
    folder: Path
    python: Path
    architecture: str


def config_items(plan: LaunchPlan, settings: Settings, ids: IdRange | None, host: HostFacts) -> Items:
    """The whole configuration of one container. Raises Invalid on anything that cannot be said in it."""
    assert isinstance(plan.form, TreeForm)  # noqa: S101 - `lifecycle.check` has refused other forms
    items: Items = [("lxc.include", str(SHARED_CONFIG / "common.conf"))]
    if ids:
        items.append(("lxc.include", str(SHARED_CONFIG / "userns.conf")))
    if settings.nesting:
        items.append(("lxc.include", str(SHARED_CONFIG / "nesting.conf")))
    items += [
        ("lxc.arch", host.architecture),
        *_naming(plan.spec.name, host.folder),
    ]
    items += id_items(ids)
    if plan.form.init != "/sbin/init":
        items.append(("lxc.init.cmd", _init(plan.form.init)))
    items += _confinement(settings, ids, host)
    items += _strictness(settings, host.folder)
    items += _hook(host)
    items += _console(host.folder)
    items += limit_items.items(replace(plan.spec.limits, cpus=plan.spec.cpus, memory=plan.spec.memory), host.cgroups)
    for index, card in enumerate(cards(plan.nics)):
        items += card_items(index, card)
    items += [("lxc.mount.entry", mount_entry(bind, host.folder, ids)) for bind in binds(plan.spec.volumes)]
    items += [("lxc.environment", f"{_variable(key)}={value}") for key, value in sorted(plan.spec.env.items())]
    if settings.autostart:
        items.append(("lxc.start.auto", "1"))
    return items


def _naming(name: str, folder: Path) -> Items:
    """The items that hold the container's name."""
    return [("lxc.uts.name", name), ("lxc.rootfs.path", f"dir:{folder / 'rootfs'}")]


def id_items(ids: IdRange | None) -> Items:
    """The items of an id range."""
    return [("lxc.idmap", f"{kind} 0 {ids.base} {ids.count}") for kind in ("u", "g")] if ids else []


def _init(init: str) -> str:
    # liblxc splits this at white space and knows plain quotes only.
    if not init.startswith("/") or any(char.isspace() or char in "\"'" for char in init):
        raise Invalid(
            "bad_init", f"{init!r} can't be the init of a container", hint="Give an absolute path without spaces."
        )
    return init


def _confinement(settings: Settings, ids: IdRange | None, host: HostFacts) -> Items:
    if not host.apparmor:
        return [("lxc.apparmor.profile", "unconfined")]
    items = [("lxc.apparmor.profile", settings.apparmor or "generated")]
    # systemd of today needs it for its own units' sandboxes; without a user namespace it would weaken the profile.
    if items[0][1] == "generated" and (ids or settings.nesting):
        items.append(("lxc.apparmor.allow_nesting", "1"))
    return items


def _strictness(settings: Settings, folder: Path) -> Items:
    if not settings.strict:
        return []
    return [
        ("lxc.seccomp.profile", str(folder / STRICT)),
        ("lxc.no_new_privs", "1"),
        ("lxc.cap.drop", " ".join(_STRICT_DROPS)),
    ]


def _hook(host: HostFacts) -> Items:
    # liblxc hands the line to a shell and appends arguments of its own, so this one value is quoted for it. Both
    # paths are of our own installation.
    return [
        ("lxc.hook.version", "1"),
        *((f"lxc.hook.{name}", shlex.join([f"{host.folder}/{name}.sh", str(host.python)])) for name in HOOKS),
    ]


def _console(folder: Path) -> Items:
    return [
        ("lxc.console.logfile", str(folder / "console.log")),
        ("lxc.console.size", "1MB"),
        ("lxc.console.rotate", "1"),
    ]


def cards(nics: Iterable[Nic]) -> list[Card]:
    """Network cards; the host's side is named after the MAC address, unique and within the kernel's 15 characters."""
    return [
        Card(
            network=nic.network.name,
            bridge=nic.network.bridge,
            mac=nic.mac,
            address=nic.address,
            prefix=nic.network.prefix,
            gateway=nic.network.gateway,
            domain=nic.network.domain,
            host_interface=f"tl{nic.mac.replace(':', '')}",
        )
        for nic in nics
    ]


def card_items(index: int, card: Card) -> Items:
    """The items of one network card."""
    key = f"lxc.net.{index}"
    items = [
        (f"{key}.type", "veth"),
        (f"{key}.link", card.bridge),
        (f"{key}.flags", "up"),
        (f"{key}.name", f"eth{index}"),
        (f"{key}.veth.pair", card.host_interface),
        (f"{key}.hwaddr", card.mac),
        (f"{key}.ipv4.address", f"{card.address}/{card.prefix}"),
    ]
    if index == 0:
        items.append((f"{key}.ipv4.gateway", card.gateway))
    return items


def binds(volumes: Iterable[VolumeMount]) -> list[Bind]:
    """Checked volumes. Raises Invalid("bad_volume")."""
    checked: list[Bind] = []
    for volume in volumes:
        if volume.format:
            raise Unsupported(
                "disk_volume",
                f"the volume {volume.volume} is a disk, which only virtual machines can use",
                hint="Make a volume that is a folder: triune volume create NAME",
            )
        for what, path in (("source", volume.source), ("target", volume.target)):
            single_line(path, f"The volume's {what}")
            if not path.startswith("/") or ".." in PurePosixPath(path).parts:
                raise Invalid(
                    "bad_volume",
                    f"the volume's {what} {path!r} is not an absolute path",
                    hint="Write it as /host/folder:/path/inside.",
                )
        if PurePosixPath(volume.target) == PurePosixPath("/"):
            raise Invalid("bad_volume", "a volume can't take the place of the root", hint="Name a folder below /.")
        checked.append(
            Bind(
                source=volume.source,
                target=volume.target,
                read_only=volume.read_only,
                place=str(len(checked)),
                volume=volume.volume,
            )
        )
    return checked


def volume_path(folder: Path, place: str) -> Path:
    """Where the host shows a volume to an unprivileged container, id-mapped (see `layers`)."""
    return folder / "volumes" / place


def mount_entry(volume: Bind, folder: Path, ids: IdRange | None) -> str:
    """One fstab(5) line."""
    source = volume_path(folder, volume.place) if ids else Path(volume.source)
    create = "file" if Path(volume.source).is_file() else "dir"
    choices = ["bind", f"create={create}", *(["ro"] if volume.read_only else [])]
    return f"{_fstab(str(source))} {_fstab(volume.target.strip('/'))} none {','.join(choices)} 0 0"


def _fstab(path: str) -> str:
    return path.replace("\\", "\\134").replace(" ", "\\040").replace("#", "\\043")


def _variable(name: str) -> str:
    if not _VARIABLE.fullmatch(name):
        raise Invalid(
            "bad_variable", f"{name!r} is not the name of an environment variable", hint="Use A-Z, 0-9 and '_'."
        )
    return name


def serialise(items: Iterable[tuple[str, str]]) -> str:
    """Configuration text. Raises Invalid on a control character or a key that is not one."""
    lines = ["# Made by Triune. Edit it as you like; it is read at every start."]
    return "\n".join([*lines, *(config_line(key, value) for key, value in items), ""])


def config_line(key: str, value: str) -> str:
    """One line of configuration. Raises Invalid on a control character or a key that is not one."""
    if not _KEY.fullmatch(key.replace("-", "_")):
        raise Invalid("bad_config_key", f"{key!r} is not an LXC configuration key", hint="Report this as a bug.")
    single_line(value, f"The value of {key}")
    if value != value.strip():
        raise Invalid("bad_config_value", f"the value of {key} begins or ends with a space", hint="Remove it.")
    return f"{key} = {value}"


def with_mount(text: str, entry: str) -> str:
    """The configuration with a further mount entry at its end."""
    return f"{text.rstrip()}\n{config_line('lxc.mount.entry', entry)}\n"


def without_mount(text: str, entry: str) -> str:
    """The configuration without this mount entry; all else stays as written."""
    lines = text.splitlines()
    return "\n".join([*(line for line in lines if list(parse(line)) != [("lxc.mount.entry", entry)]), ""])


def parse(text: str) -> Iterator[tuple[str, str]]:
    """The (key, value) pairs of a configuration file, as liblxc reads them; includes are not followed."""
    for line in text.splitlines():
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        key, equals, value = stripped.partition("=")
        if equals:
            yield key.strip(), value.strip()


def renamed(text: str, old: Path, new: Path) -> str:
    """The configuration after its folder moved: name and paths below `old` change, all else stays as written."""
    lines = []
    for line in text.splitlines():
        ((key, value),) = list(parse(line)) or [("", "")]
        if key == "lxc.uts.name" and value == old.name:
            lines.append(config_line(key, new.name))
        elif key in _OWN_PATHS and f"{old}/" in value:
            lines.append(config_line(key, value.replace(f"{old}/", f"{new}/")))
        else:
            lines.append(line)
    return "\n".join([*lines, ""])


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits that a configuration sets, None where it sets none."""

    cpus: float | None = None
    memory_bytes: int | None = None


def limits(items: Iterable[tuple[str, str]]) -> Limits:
    """Read cpu and memory limits of either cgroup version out of a configuration."""
    found = dict(items)
    memory = found.get("lxc.cgroup2.memory.max") or found.get("lxc.cgroup.memory.limit_in_bytes")
    quota, _, period = found.get("lxc.cgroup2.cpu.max", "").partition(" ")
    if not quota:
        quota = found.get("lxc.cgroup.cpu.cfs_quota_us", "")
        period = found.get("lxc.cgroup.cpu.cfs_period_us", "")
    cpus = int(quota) / int(period or cgroup_limits.PERIOD_US) if _whole(quota) and _whole(period or "1") else None
    return Limits(cpus=cpus, memory_bytes=_size(memory) if memory else None)


def _whole(text: str) -> bool:
    return text.isascii() and text.isdigit() and int(text) > 0


def _size(text: str) -> int | None:
    match = re.fullmatch(r"(\d{1,18})([kmgt]?)b?", text.strip().lower(), re.ASCII)
    return int(match[1]) * _SIZES[match[2]] if match else None
