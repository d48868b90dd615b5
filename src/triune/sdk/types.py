"""The shapes of the API's JSON. The command line's `--format json` prints the same."""

from __future__ import annotations

from typing import Any, TypedDict


class ErrorFields(TypedDict, total=False):
    """An error inside another object: `kind` names the class of `domain.errors`."""

    kind: str
    code: str
    message: str
    hint: str
    details: dict[str, Any]


class InstanceRow(TypedDict):
    """One instance in a list. Sizes in bytes, `created` RFC 3339; None where there is no limit, or nothing known."""

    name: str
    engine: str
    state: str
    addresses: list[str]
    image: str | None
    origin: str
    created: str | None
    cpus: float | None
    memory_bytes: int | None
    accelerated: bool | None
    error: str | None


class InstanceDetail(InstanceRow):
    """Everything known of one instance; see `domain.instance.InstanceDetail`."""

    restarts: int | None
    uptime_s: float | None
    memory_used_bytes: int | None
    disk_used_bytes: int | None
    kernel: str | None
    isolation: dict[str, Any]
    network: list[dict[str, Any]]
    devices: list[dict[str, Any]]
    settings: dict[str, str]
    command: list[str]
    limits: dict[str, float | int | str | None]


class EngineProblem(TypedDict):
    """An engine that could not be read."""

    engine: str
    error: ErrorFields


class InstanceList(TypedDict):
    """A page of instances, the cursor of the next one, and the engines that could not be read."""

    items: list[InstanceRow]
    next: str | None
    unreachable: list[EngineProblem]


class Step(TypedDict):
    """A named step of an operation; `name` is stable."""

    name: str
    text: str
    time: str


class OperationRow(TypedDict):
    """One operation. `fraction` is 0 to 1 of the current step, or None."""

    id: str
    kind: str
    resource: str
    state: str
    created: str
    started: str | None
    ended: str | None
    steps: list[Step]
    text: str
    fraction: float | None
    may_cancel: bool
    result: Any
    error: ErrorFields | None
    data: dict[str, Any]


class EventRow(TypedDict):
    """One event. `type` resync (without a number) means: some were lost, read everything anew."""

    sequence: int
    time: str
    type: str
    subject: str
    data: dict[str, Any]


class StatsRow(TypedDict):
    """Counters of one running instance since it started."""

    name: str
    engine: str
    cpu_time_s: float
    memory_bytes: int
    memory_limit_bytes: int | None
    disk_read_bytes: int
    disk_write_bytes: int
    net_rx_bytes: int
    net_tx_bytes: int
    pids: int | None


class StatsSample(TypedDict):
    """Counters of every running instance; `time` is RFC 3339, of the daemon's clock."""

    items: list[StatsRow]
    time: str


class TemplateRow(TypedDict):
    """What instances of an image start warm from; `why` says why it is not ready."""

    engine: str
    image: str
    size: int
    created: str
    ready: bool
    why: str


class FileStat(TypedDict):
    """What is at a path inside: `kind` is file, folder, link or other; `folder` also for a link to one."""

    path: str
    kind: str
    size: int
    mode: int
    mtime: str
    target: str | None
    folder: bool


class ImageRow(TypedDict):
    """One image; `forms` maps the kind of form (disk, tree, oci) to its facts."""

    name: str
    digest: str
    created: str
    source: str
    size: int
    forms: dict[str, dict[str, Any]]
    used_by: list[str]
    sha256: str
    packages: int
    notes: list[str]
    templates: list[TemplateRow]


class NetworkRow(TypedDict):
    """One network; `members` are the instances that hold an address in it."""

    name: str
    bridge: str
    subnet: str
    gateway: str
    domain: str
    default: bool
    members: list[str]


class PoolRow(TypedDict):
    """One pool; sizes in bytes, None where it is unavailable (then `reason` says why)."""

    name: str
    driver: str
    path: str
    created: str
    size: int | None
    free: int | None
    available: bool
    reason: str
    loop: str | None
    dataset: str
    reflink: bool
    quota: bool
    quota_reason: str
    used_by: list[str]


class VolumeRow(TypedDict):
    """One volume; `size` is its limit or a disk's size, `used` what it takes, in bytes."""

    name: str
    pool: str
    kind: str
    path: str
    created: str
    size: int | None
    used: int | None
    format: str
    reason: str
    used_by: list[str]


class SnapshotRow(TypedDict):
    """One snapshot. `size` is what it alone costs in bytes, None where that can't be known cheaply."""

    name: str
    instance: str
    created: str
    consistency: str
    memory: bool
    size: int | None
    parent: str | None
    expires: str | None
    schedule: str
    comment: str


class ScheduleRow(TypedDict):
    """One schedule: `every` seconds, or daily `at` HH:MM, of the instance `subject`, "": of every one.

    `last_result` is empty, running, done, or what went wrong.
    """

    name: str
    action: str
    subject: str
    every: float | None
    at: str | None
    keep: dict[str, int]
    options: dict[str, Any]
    created: str
    next_run: str
    last_run: str | None
    last_operation: str
    last_result: str


class BackupRow(TypedDict):
    """One backup. Sizes in bytes where the daemon's host made it, else None; `added` before compression."""

    id: str
    instance: str
    engine: str
    time: str
    consistency: str
    host: str
    size: int | None
    added: int | None
