"""Limits of control groups, v1 and v2: which file takes what, reading them back, and setting them live.

Sources: the kernel's admin-guide/cgroup-v1 and admin-guide/cgroup-v2.

A weight of w is `cpu.weight` w in v2, and `cpu.shares` 1024 w / 100 in v1: both kernels' normal is our 100.
Swap is what comes on top of memory: `memory.swap.max` in v2, the difference of two limits in v1.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from triune.domain.errors import Conflict, Failed, Invalid, TriuneError, Unsupported
from triune.domain.limits import NORMAL_WEIGHT, Limits, Value, format_cpu_list, format_value, parse_cpu_list
from triune.host.cgroup import V1_UNLIMITED, Group, Hierarchies

PERIOD_US = 100_000
_SHARES = 1024
CONTROLLERS: Mapping[str, str] = {
    "cpus": "cpu",
    "cpu.weight": "cpu",
    "cpu.pin": "cpuset",
    "memory": "memory",
    "swap": "memory",
    "pids": "pids",
    "io.read": "blkio",
    "io.write": "blkio",
    "iops.read": "blkio",
    "iops.write": "blkio",
}
DISK = frozenset({"io.read", "io.write", "iops.read", "iops.write"})
_THROTTLES = {
    "io.read": ("blkio.throttle.read_bps_device", "rbps"),
    "io.write": ("blkio.throttle.write_bps_device", "wbps"),
    "iops.read": ("blkio.throttle.read_iops_device", "riops"),
    "iops.write": ("blkio.throttle.write_iops_device", "wiops"),
}
_MEMORY, _MEMSW = "memory.limit_in_bytes", "memory.memsw.limit_in_bytes"

Read = Callable[[str, str], str]
"""(controller, file) -> its text, "" where there is none."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One write: into this file of this controller's folder, in this version."""

    version: int
    controller: str
    file: str
    value: str


def versions(mounted: Hierarchies) -> dict[str, int | None]:
    """1, 2 or None of each controller that limits something; `blkio` is called `io` in v2."""
    found = {controller: mounted.version(controller) for controller in CONTROLLERS.values()}
    return {**found, "blkio": found["blkio"] or mounted.version("io")}


def missing(mounted: Hierarchies) -> dict[str, str]:
    """By key, why it can't be limited by the control groups of this host."""
    reasons, there = {}, versions(mounted)
    for key, controller in CONTROLLERS.items():
        version = there[controller]
        if version is None:
            reasons[key] = f"this host's control groups have no {controller} controller"
        elif version == 1 and key == "swap" and not (mounted.v1["memory"] / _MEMSW).exists():
            reasons[key] = "the kernel does not count swap; boot it with swapaccount=1"
        elif version == 1 and key in DISK and not (mounted.v1["blkio"] / _THROTTLES[key][0]).exists():
            reasons[key] = "the kernel has no throttling of block devices (CONFIG_BLK_DEV_THROTTLING)"
    return reasons


def disk_note(mounted: Hierarchies) -> str:
    """What limits of disk traffic cover on this host, in one sentence."""
    if versions(mounted)["blkio"] == 1:
        return "reads and direct writes; writes through the page cache are not limited (control groups v1)"
    return "reads and writes; those through the page cache where the file system supports it (ext4, btrfs, xfs)"


def settings(key: str, limits: Limits, version: int, device: str | None = None) -> list[Setting]:
    """What sets a key to its value in `limits`, or lifts it. `device` is `MAJOR:MINOR`, for keys of the disk."""
    controller, value = CONTROLLERS[key], limits.get(key)
    pairs = _v1(key, value, limits, device) if version == 1 else _v2(key, value, device)
    return [Setting(version, controller, file, text) for file, text in pairs]


def _v1(key: str, value: Value | None, limits: Limits, device: str | None) -> Iterator[tuple[str, str]]:
    match key:
        case "cpus":
            yield "cpu.cfs_period_us", str(PERIOD_US)
            yield "cpu.cfs_quota_us", "-1" if value is None else str(_quota(value))
        case "cpu.weight":
            yield "cpu.shares", str(max(2, round(float(value or NORMAL_WEIGHT) * _SHARES / NORMAL_WEIGHT)))
        case "cpu.pin":
            yield "cpuset.cpus", "" if value is None else str(value)
        case "memory" | "swap":
            # The sum may never be below the memory: it makes room first, and is set last.
            if limits.swap is not None and limits.memory is None:
                raise Invalid(
                    "swap_without_memory",
                    "swap can only be limited along with memory on this host (control groups v1)",
                    hint="Set memory too, or lift the limit: swap=none",
                )
            yield _MEMSW, "-1"
            yield _MEMORY, str(-1 if limits.memory is None else limits.memory)
            if limits.memory is not None and limits.swap is not None:
                yield _MEMSW, str(limits.memory + limits.swap)
        case "pids":
            yield "pids.max", "max" if value is None else str(value)
        case _:
            yield _THROTTLES[key][0], f"{device} {value or 0}"


def _v2(key: str, value: Value | None, device: str | None) -> Iterator[tuple[str, str]]:
    match key:
        case "cpus":
            yield "cpu.max", f"{'max' if value is None else _quota(value)} {PERIOD_US}"
        case "cpu.weight":
            yield "cpu.weight", str(value or NORMAL_WEIGHT)
        case "cpu.pin":
            yield "cpuset.cpus", "" if value is None else str(value)
        case "memory" | "swap" | "pids":
            file = {"memory": "memory.max", "swap": "memory.swap.max", "pids": "pids.max"}[key]
            yield file, "max" if value is None else str(value)
        case _:
            yield "io.max", f"{device} {_THROTTLES[key][1]}={'max' if value is None else value}"


def _quota(value: Value) -> int:
    return max(1000, round(float(value) * PERIOD_US))


# Reading


def read(text: Read, version: Callable[[str], int | None], device: str | None = None) -> Limits:
    """The limits that files say; what has the normal value is None."""
    found: dict[str, Value | None] = {}
    for key, controller in CONTROLLERS.items():
        number = version(controller)
        if number is not None:
            found[key] = (_read_v1 if number == 1 else _read_v2)(key, partial(text, controller), device)
    return Limits().changed(found)


def _read_v1(key: str, text: Callable[[str], str], device: str | None) -> Value | None:
    match key:
        case "cpus":
            quota, period = _whole(text("cpu.cfs_quota_us")), _whole(text("cpu.cfs_period_us")) or PERIOD_US
            return quota / period if quota else None
        case "cpu.weight":
            shares = _whole(text("cpu.shares"))
            return _normal(round(shares * NORMAL_WEIGHT / _SHARES)) if shares else None
        case "cpu.pin":
            return text("cpuset.cpus").strip() or None
        case "memory":
            return _below_v1(_whole(text(_MEMORY)))
        case "swap":
            memory, both = _below_v1(_whole(text(_MEMORY))), _below_v1(_whole(text(_MEMSW)))
            return max(0, both - memory) if both is not None and memory is not None else None
        case "pids":
            return _whole(text("pids.max"))
    lines = (line.split() for line in text(_THROTTLES[key][0]).splitlines())
    return next((_whole(words[1]) for words in lines if len(words) == 2 and words[0] == device), None)


def _read_v2(key: str, text: Callable[[str], str], device: str | None) -> Value | None:
    match key:
        case "cpus":
            quota, _, period = text("cpu.max").strip().partition(" ")
            return int(quota) / (_whole(period) or PERIOD_US) if quota.isdecimal() else None
        case "cpu.weight":
            weight = _whole(text("cpu.weight"))
            return _normal(weight) if weight else None
        case "cpu.pin":
            return text("cpuset.cpus").strip() or None
        case "memory" | "swap" | "pids":
            file = {"memory": "memory.max", "swap": "memory.swap.max", "pids": "pids.max"}[key]
            return _whole(text(file), zero=key == "swap")
    for line in text("io.max").splitlines():
        number, *words = line.split() or [""]
        if number == device:
            values = dict(word.partition("=")[::2] for word in words)
            return _whole(values.get(_THROTTLES[key][1], ""))
    return None


_UNITS = {"k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}


def _whole(text: str, *, zero: bool = False) -> int | None:
    """A number of bytes or others, None for "max", "-1" and nonsense; configuration may say 512M."""
    text = text.strip().lower()
    scale = _UNITS.get(text[-1:], 1)
    digits = text[:-1] if scale > 1 else text
    if not (digits.isascii() and digits.isdecimal() and len(digits) < 20):
        return None
    return int(digits) * scale or (0 if zero else None)


def _below_v1(value: int | None) -> int | None:
    return value if value is not None and value < V1_UNLIMITED else None


def _normal(weight: int) -> int | None:
    return None if weight == NORMAL_WEIGHT else max(1, weight)


# Live


def read_group(group: Group, device: str | None) -> Limits:
    """What is in force in a group. A set of CPUs that is all its parent has is no limit."""
    found = read(lambda controller, file: _file(group, controller, file), lambda name: _version(group, name), device)
    place = group.folder("cpuset")
    if found.cpu_pin is not None and place is not None:
        above = _text(place[1].parent / "cpuset.cpus").strip()
        if above and _same_cpus(found.cpu_pin, above):
            return found.changed({"cpu.pin": None})
    return found


def apply(group: Group, limits: Limits, keys: Collection[str], device: str | None) -> None:
    """Set these keys of a running group. What it had is put back when it raises Unsupported or Failed."""
    if DISK & set(keys) and device is None:
        raise Unsupported(
            "no_disk_to_limit",
            "its files lie on no block device of their own, so traffic to disk can't be limited",
            hint="Leave out io.* and iops.*, or put it on a file system that lies on one disk.",
        )
    before = read_group(group, device)
    try:
        _write_all(group, limits, keys, device)
    except TriuneError:
        try:
            _write_all(group, before, keys, device)
        except TriuneError as error:
            raise Failed(
                "limits_half_set", f"limits could not be put back: {error.message}", hint="Set them again."
            ) from error
        raise


def _write_all(group: Group, limits: Limits, keys: Collection[str], device: str | None) -> None:
    for key in CONTROLLERS:
        if key not in keys or (key == "swap" and "memory" in keys and _version(group, "memory") == 1):
            continue
        version = _version(group, CONTROLLERS[key])
        if version is None:
            raise _lacking(key)
        for setting in settings(key, limits, version, device):
            _write(group, setting, key)


def _write(group: Group, setting: Setting, key: str) -> None:
    place = group.folder(setting.controller)
    assert place is not None  # noqa: S101 - its version is known
    path = place[1] / setting.file
    try:
        if setting.file == "cpuset.cpus":
            _pin(place[1], setting)
        elif path.exists():
            path.write_text(f"{setting.value}\n")
        elif setting.file != _MEMSW:  # where swap is not counted, there is none to make room for
            raise _lacking(key)
    except OSError as error:
        if error.errno == errno.EBUSY and setting.controller == "memory":
            raise Conflict(
                "limit_below_use",
                f"the kernel could not free enough memory to get below {format_value('memory', int(setting.value))}",
                hint="Set a higher limit, or end something inside first.",
            ) from None
        raise Failed(
            "limit_failed", f"{setting.value!r} could not be written to {path}: {error.strerror}", hint="See: dmesg"
        ) from None


def _pin(folder: Path, setting: Setting) -> None:
    """In v1 a group's CPUs must be among its parent's, and hold its children's: it grows from the top, then shrinks."""
    if setting.version == 2:
        (folder / setting.file).write_text(f"{setting.value}\n")
        return
    value = setting.value or _text(folder.parent / setting.file).strip()
    groups = [folder, *sorted(path for path in folder.rglob("*") if path.is_dir())]
    for one in groups:
        now = _text(one / setting.file).strip()
        both = format_cpu_list({*(parse_cpu_list(now) if now else ()), *parse_cpu_list(value)})
        (one / setting.file).write_text(f"{both}\n")
    for one in reversed(groups):
        (one / setting.file).write_text(f"{value}\n")


def require_keys(limits: Limits, keys: Collection[str], reasons: Mapping[str, str]) -> None:
    """Raise Unsupported for a limit that this host can't set; `reasons` as `missing` returns them."""
    for key in sorted(keys):
        if key in reasons and limits.get(key) is not None:
            raise Unsupported(
                "limit_unsupported", f"{key} can't be limited here: {reasons[key]}", hint=f"Leave {key} out.", key=key
            )


def require_room(group: Group, name: str, limits: Limits, keys: Collection[str]) -> None:
    """Raise Conflict("limit_below_use") where it uses more now than it would be allowed.

    Memory counts without the page cache: the kernel drops that by itself.
    """
    for key, used in (("memory", group.memory_kept()), ("pids", group.pids() or 0)):
        limit = limits.get(key)
        if key in keys and isinstance(limit, int) and used > limit:
            said = f"{format_value(key, used)} of memory" if key == "memory" else f"{used} processes and threads"
            raise Conflict(
                "limit_below_use",
                f"{name} uses {said} now, more than {format_value(key, limit)}",
                hint=f"Set at least {key}={_above(key, used)}, or end something inside first.",
                used=used,
                limit=limit,
            )


def _above(key: str, used: int) -> str:
    return f"{used // 2**20 + 16}MiB" if key == "memory" else str(used + 8)


def _lacking(key: str) -> Unsupported:
    return Unsupported(
        "limit_unsupported", f"the control groups of this host can't limit {key}", hint=f"Leave {key} out.", key=key
    )


def _version(group: Group, controller: str) -> int | None:
    place = group.folder(controller)
    return place[0] if place else None


def _file(group: Group, controller: str, file: str) -> str:
    place = group.folder(controller)
    return _text(place[1] / file) if place else ""


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _same_cpus(one: str, other: str) -> bool:
    try:
        return parse_cpu_list(one) == parse_cpu_list(other)
    except ValueError:
        return False
