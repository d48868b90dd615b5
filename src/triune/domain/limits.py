"""Limits of what an instance may use: the same keys and units for every engine.

Keys as `triune set` and `launch --set` take them, and the field of `Limits` each one sets:

    cpus          cpus          CPUs' worth of time, a fraction allowed (1.5)
    cpu.weight    cpu_weight    share of CPU time under contention, 1 to 10000, 100 is normal (cgroup v2's cpu.weight)
    cpu.pin       cpu_pin       host CPUs it may run on, a list as in cpuset.cpus ("0", "0-3,6")
    memory        memory        bytes
    swap          swap          bytes of swap on top of memory; 0: none
    pids          pids          processes and threads
    io.read       io_read       bytes/s from disk          iops.read     iops_read     reads/s
    io.write      io_write      bytes/s to disk            iops.write    iops_write    writes/s
    net.in        net_in        bits/s towards the instance
    net.out       net_out       bits/s from the instance

Values are written as people do: `512MiB`, `50MiB/s`, `100Mbit/s`, `1.5`; a plain number is in the unit above; `none`,
`-` or nothing lifts the limit.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from triune.domain.errors import Invalid
from triune.domain.names import single_line
from triune.domain.units import format_size, parse_cpus, parse_size

Value = float | int | str

FIELDS: Mapping[str, str] = {
    "cpus": "cpus",
    "cpu.weight": "cpu_weight",
    "cpu.pin": "cpu_pin",
    "memory": "memory",
    "swap": "swap",
    "pids": "pids",
    "io.read": "io_read",
    "io.write": "io_write",
    "iops.read": "iops_read",
    "iops.write": "iops_write",
    "net.in": "net_in",
    "net.out": "net_out",
}
NETWORK = frozenset({"net.in", "net.out"})
"""Those that no engine holds: they are set on the host's end of each card."""

NORMAL_WEIGHT = 100

_LIFTED = frozenset({"", "-", "none"})
_MOST_CPU = 8191  # the largest NR_CPUS of any kernel, less one
_BIT_RATE = re.compile(r"(\d{1,15})(?:\.(\d{1,6}))?\s*([kmgt]?)(i?)(?:bit|b|bps)?", re.IGNORECASE | re.ASCII)
_BYTES = re.compile(r"[\d.]+\s*[kKmMgGtT]?i?B", re.ASCII)
_COUNT = re.compile(r"\d{1,15}", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """One instance's limits, units as above; None is no limit (or the engine's normal, for weight and pinning)."""

    cpus: float | None = None
    cpu_weight: int | None = None
    cpu_pin: str | None = None
    memory: int | None = None
    swap: int | None = None
    pids: int | None = None
    io_read: int | None = None
    io_write: int | None = None
    iops_read: int | None = None
    iops_write: int | None = None
    net_in: int | None = None
    net_out: int | None = None

    def get(self, key: str) -> Value | None:
        """The value of a key like `cpu.weight`."""
        value: Value | None = getattr(self, FIELDS[key])
        return value

    def by_key(self) -> dict[str, Value]:
        """What is limited, by key."""
        return {key: value for key in FIELDS if (value := self.get(key)) is not None}

    def changed(self, changes: Mapping[str, Value | None]) -> Limits:
        """The same with some keys set (None: lifted)."""
        fields: dict[str, Any] = {FIELDS[key]: value for key, value in changes.items()}
        return replace(self, **fields)


def parse(words: Mapping[str, Value | None]) -> dict[str, Value | None]:
    """Read `KEY=VALUE`s into values by key, None where the limit is lifted. Numbers are in the key's own unit.

    Raises Invalid("unknown_limit") with the nearest known key, or Invalid("bad_limit").
    """
    return {key: parse_value(key, value) for key, value in words.items()}


def parse_value(key: str, value: Value | None) -> Value | None:
    """One of them."""
    if key not in FIELDS:
        raise unknown(key)
    if value is None:
        return None
    text = single_line(str(value), f"the limit {key}").strip()
    if text.lower() in _LIFTED:
        return None
    if isinstance(value, float) and value.is_integer():
        text = str(int(value))  # JSON of some clients writes whole numbers as 1e9
    return _READ[key](key, text)


def unknown(key: str, also: Iterable[str] = ()) -> Invalid:
    """The error for a key that is none; `also` are other words that would have been known in its place."""
    near = difflib.get_close_matches(key, [*FIELDS, *also], n=1)
    known = f"Limits are: {', '.join(FIELDS)}."
    return Invalid(
        "unknown_limit",
        f"there is no limit {single_line(key, 'the name of a limit')!r}",
        hint=f"Did you mean {near[0]!r}? {known}" if near else known,
        key=key,
    )


def format_value(key: str, value: Value | None) -> str:
    """For people: `1.5`, `512 MiB`, `50.0 MiB/s`, `100 Mbit/s`; `without limit` for None."""
    if value is None:
        return {"cpu.weight": "as normal", "cpu.pin": "as any"}.get(key, "without limit")
    if isinstance(value, str):
        return value
    if key in ("memory", "swap"):
        return format_size(int(value))
    if key in ("io.read", "io.write"):
        return f"{format_size(int(value))}/s"
    if key in NETWORK:
        return _format_bits(value)
    return f"{value:g}/s" if key.startswith("iops.") else f"{value:.15g}"


def parse_cpu_list(text: str) -> tuple[int, ...]:
    """The CPUs of a list as in cpuset.cpus (cpuset(7), "List format"): `0`, `0-3,6`. Raises ValueError."""
    found: set[int] = set()
    for part in text.split(","):
        first, dash, last = (word.strip() for word in part.strip().partition("-"))
        if not _COUNT.fullmatch(first) or (dash and not _COUNT.fullmatch(last)):
            raise ValueError(text)
        low, high = int(first), int(last or first)
        if not low <= high <= _MOST_CPU:
            raise ValueError(text)
        found.update(range(low, high + 1))
    return tuple(sorted(found))


def format_cpu_list(cpus: Iterable[int]) -> str:
    """The shortest list of them: `0-3,6`."""
    ranges: list[list[int]] = []
    for cpu in sorted(set(cpus)):
        if ranges and cpu == ranges[-1][1] + 1:
            ranges[-1][1] = cpu
        else:
            ranges.append([cpu, cpu])
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in ranges)


def _bad(key: str, text: str, expected: str) -> Invalid:
    return Invalid(
        "bad_limit",
        f"{text!r} is not a value for the limit {key}",
        hint=f"Write it like {expected}, or {key}=none to lift the limit.",
        key=key,
    )


def _cpus(key: str, text: str) -> float:
    try:
        return parse_cpus(text)
    except Invalid:
        raise _bad(key, text, "cpus=2 or cpus=1.5") from None


def _pin(key: str, text: str) -> str:
    try:
        return format_cpu_list(parse_cpu_list(text))
    except ValueError:
        raise _bad(key, text, "cpu.pin=0 or cpu.pin=0-3,6") from None


def _size(key: str, text: str) -> int:
    return _within(key, text, _bytes, 0, 2**60, f"{key}=512MiB")


def _disk_rate(key: str, text: str) -> int:
    return _within(key, _per_second(text), _bytes, 1024, 2**60, f"{key}=50MiB/s (bytes a second, at least 1KiB/s)")


def _net_rate(key: str, text: str) -> int:
    expected = f"{key}=100Mbit/s (bits a second, at least 8kbit/s) or {key}=12MB/s"
    return _within(key, _per_second(text), _bits, 8000, 10**15, expected)


def _count(least: int, most: int, expected: str) -> Callable[[str, str], int]:
    def read(key: str, text: str) -> int:
        words = _per_second(text) if key.startswith("iops.") else text
        return _within(key, words, _whole, least, most, f"{key}={expected}")

    return read


def _within(key: str, text: str, read: Callable[[str], int], least: int, most: int, expected: str) -> int:
    try:
        value = read(text)
    except (Invalid, ValueError):
        raise _bad(key, text, expected) from None
    if not least <= value <= most:
        raise _bad(key, text, expected)
    return value


def _per_second(text: str) -> str:
    return text[:-2].rstrip() if text.lower().endswith("/s") else text


def _whole(text: str) -> int:
    if not _COUNT.fullmatch(text):
        raise ValueError(text)
    return int(text)


def _bytes(text: str) -> int:
    # Numbers of JSON may be longer than what a person would write: too large for this host is said elsewhere.
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else parse_size(text)


def _bits(text: str) -> int:
    """Bits for `100Mbit`, `1gbit`, `100M`; bytes where a capital B says so (`12MB`, `1MiB`). Prefixes as in units."""
    if _BYTES.fullmatch(text):
        return parse_size(text) * 8
    match = _BIT_RATE.fullmatch(text)
    if not match:
        raise ValueError(text)
    whole, fraction, prefix, binary = match.groups()
    if binary and not prefix:
        raise ValueError(text)
    scale = int((1024 if binary else 1000) ** " kmgt".index(prefix.lower() or " "))
    return int(whole) * scale + (int(fraction) * scale // 10 ** len(fraction) if fraction else 0)


def _format_bits(rate: float) -> str:
    value = float(rate)
    for unit in ("bit/s", "kbit/s", "Mbit/s", "Gbit/s"):
        if value < 1000 or unit == "Gbit/s":
            return f"{value:.4g} {unit}" if value < 1000 else f"{value:.0f} {unit}"
        value /= 1000
    raise AssertionError


_READ: Mapping[str, Callable[[str, str], Value]] = {
    "cpus": _cpus,
    "cpu.weight": _count(1, 10000, "200 (1 to 10000; 100 is normal)"),
    "cpu.pin": _pin,
    "memory": _size,
    "swap": _size,
    "pids": _count(1, 2**22, "500 (1 to 4194304)"),
    "io.read": _disk_rate,
    "io.write": _disk_rate,
    "iops.read": _count(1, 2**32 - 1, "1000"),
    "iops.write": _count(1, 2**32 - 1, "1000"),
    "net.in": _net_rate,
    "net.out": _net_rate,
}
