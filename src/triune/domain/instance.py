"""An instance: a VM, a system container or an app container. What was asked for, and what is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from triune.domain.limits import Limits
from triune.domain.network import Publish


class State(StrEnum):
    """What an instance is doing now."""

    RUNNING = "running"
    STOPPED = "stopped"
    PAUSED = "paused"
    ERROR = "error"


class Origin(StrEnum):
    """Whether Triune made it (`managed`) or found it on the host (`adopted`)."""

    MANAGED = "managed"
    ADOPTED = "adopted"


class WaitFor(StrEnum):
    """How long a launch waits: until it is `ready` for work, just `running`, or not at all."""

    READY = "ready"
    RUNNING = "running"
    NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeMount:
    """A host folder or a named volume seen inside the instance.

    As asked for, `source` is a folder's path or a volume's name. Engines get it resolved: `source` is the folder or the
    disk's file, `volume` the volume's name ("" for a host folder), `format` a disk's (qcow2, raw, vmdk; "" for a
    folder). A disk has no `target`: it is a block device.
    """

    source: str
    target: str
    read_only: bool = False
    volume: str = ""
    format: str = ""


HOST_NETWORK = "host"
"""In the place of a network's name: the host's own interfaces, addresses and ports."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceSpec:
    """What a launch asks for. Sizes in bytes; None means the engine's default (often: no limit).

    `network` "" is the host's default network, None is no network at all, `HOST_NETWORK` the host's own. `limits` has
    all but `cpus` and `memory`. `pool` names where the root goes, None is the engine's own place.
    """

    name: str
    image: str
    engine: str
    cpus: float | None = None
    memory: int | None = None
    disk: int | None = None
    network: str | None = ""
    publish: tuple[Publish, ...] = ()
    volumes: tuple[VolumeMount, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    command: tuple[str, ...] = ()
    settings: Mapping[str, str] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)
    pool: str | None = None

    @property
    def networked(self) -> bool:
        """Whether it has a card in a network of ours."""
        return self.network not in (None, HOST_NETWORK)


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """One row of the inventory: live state, read from the engine.

    `cpus` and `memory_bytes` are the limits, None where there is none. `accelerated` is True under KVM, False
    when emulated, None for containers (they run on the host's CPU directly). `error` says why state is `error`.
    """

    name: str
    engine: str
    state: State
    origin: Origin
    image: str | None = None
    addresses: tuple[str, ...] = ()
    created: datetime | None = None
    cpus: float | None = None
    memory_bytes: int | None = None
    accelerated: bool | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceDetail:
    """Everything `show` tells. `instance` is the row; the rest is None or empty where the engine can't know.

    - `isolation`: `kernel` ("own" | "shared"), `boundary` (one phrase for people, e.g. "user namespace"),
      `privileged` (bool), and engine-specific keys (`id_map`, `seccomp`, `apparmor`, `capabilities`, `runtime`).
    - `network`: one per card: `network`, `interface` (host side), `mac`, `addresses`, `published`.
    - `devices`: one per device: `type` (disk | mount | serial | ...), `source`, `target`, and more.
    """

    instance: Instance
    restarts: int | None = None
    uptime_s: float | None = None
    memory_used_bytes: int | None = None
    disk_used_bytes: int | None = None
    kernel: str | None = None
    isolation: Mapping[str, Any] = field(default_factory=dict)
    network: tuple[Mapping[str, Any], ...] = ()
    devices: tuple[Mapping[str, Any], ...] = ()
    settings: Mapping[str, str] = field(default_factory=dict)
    command: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """Counters since the instance started; `memory_limit_bytes` None where unlimited. CPU time in seconds."""

    cpu_time_s: float = 0.0
    memory_bytes: int = 0
    memory_limit_bytes: int | None = None
    disk_read_bytes: int = 0
    disk_write_bytes: int = 0
    net_rx_bytes: int = 0
    net_tx_bytes: int = 0
    pids: int | None = None
