"""How an instance is isolated: facts in the same words for every engine. None is "unknown", and `unknown` says why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime


@dataclass(frozen=True, slots=True)
class IdRange:
    """A line of a user namespace's map (user_namespaces(7))."""

    inside: int
    outside: int
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HostMount:
    """Something of the host's that is seen inside. `kind` is folder, file, socket, device or disk."""

    source: str
    target: str
    read_only: bool
    kind: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """Where a daemon takes orders, or an instance shows its screen.

    `kind` is unix or tcp; `address` a path or IP:PORT. `mode` are a socket file's permission bits, `owners` its group's
    members. `guarded`: it asks for a password or a certificate; None: unknown.
    """

    kind: str
    address: str
    mode: int | None = None
    group: str = ""
    owners: tuple[str, ...] = ()
    guarded: bool | None = None

    @property
    def local(self) -> bool:
        """Whether only this host gets there."""
        return self.kind == "unix" or self.address.startswith(("127.", "[::1]", "localhost"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """A program that holds instances apart, as installed. `package` and `package_version` are the distribution's, ""
    where it did not bring it; `told` are the CVE ids of known escapes that its changelog says are mended."""

    name: str
    version: str
    package: str = ""
    package_version: str = ""
    told: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Isolation:
    """Everything that stands between one instance and the host.

    - `own_kernel`: it does not run on the host's kernel; `boundary` says in a few words what holds it. `user_space`:
      that kernel is a program of the host (gVisor). `accelerated`: the processor holds it; None for containers.
    - `capabilities`: what its root keeps (the bounding set), within its user namespace where it has one.
    - `calls_blocked`: of `domain.seccomp.REFERENCE`, the calls that its filter takes away; `filtered`: it has a filter.
    - `label`: the AppArmor or SELinux label, "" for none; `labels_available`: this host could give one.
    - `proc_guarded`: the dangerous files of /proc and /sys are hidden or read-only.
    - `id_map_shared`: other instances have the same range. `root_inside`: what runs in it is root there.
    - `secrets`: names of what looks like a password or key in its environment and user data; never a value.
    - `devices` are the host's; `emulated` are a virtual machine's beyond disk, card, serial port, agent, rng.
    - `process_user`: whom its process on the host belongs to. `runtime`: the program that runs it.
    - `image`: as this command line names it; `image_origin`: a registry's digest or a sum, "" where it is unknown.
    """

    running: bool
    own_kernel: bool
    boundary: str
    accelerated: bool | None = None
    user_space: bool = False
    runtime: str = ""
    privileged: bool | None = None
    user_namespace: bool | None = None
    id_map: tuple[IdRange, ...] = ()
    id_map_shared: bool | None = None
    capabilities: frozenset[str] | None = None
    filtered: bool | None = None
    calls_blocked: frozenset[str] | None = None
    label: str | None = None
    labels_available: bool = True
    no_new_privileges: bool | None = None
    read_only_root: bool | None = None
    proc_guarded: bool | None = None
    root_inside: bool | None = None
    nesting: bool | None = None
    mounts: tuple[HostMount, ...] = ()
    devices: tuple[str, ...] = ()
    emulated: tuple[str, ...] = ()
    shared_namespaces: tuple[str, ...] = ()
    ports: tuple[str, ...] = ()
    displays: tuple[Door, ...] = ()
    process_user: str | None = None
    memory_limited: bool | None = None
    image: str | None = None
    image_created: datetime | None = None
    image_origin: str | None = None
    secrets: tuple[str, ...] = ()
    unknown: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Exposure:
    """What an engine's own daemon and programs add: `components` by name, and `doors` to its daemon."""

    components: tuple[Component, ...] = ()
    doors: tuple[Door, ...] = ()
