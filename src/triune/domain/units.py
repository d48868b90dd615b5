"""Sizes, CPU counts and durations as people write them."""

from __future__ import annotations

import re

from triune.domain.errors import Invalid

_BINARY = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40, "p": 2**50}
_SIZE = re.compile(r"(\d{1,15})(?:\.(\d{1,6}))?\s*([kmgtp]?)(i?)(b?)", re.IGNORECASE | re.ASCII)
_DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,3})?)\s*(ms|s|m|h|d)?", re.ASCII)
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_size(text: str) -> int:
    """Return bytes for `512MiB`, `10GB`, `1.5g` or `4096`.

    `KiB`/`K` are 1024; `KB` is 1000, as in IEC 80000-13. Raises Invalid.
    """
    match = _SIZE.fullmatch(text.strip())
    if not match:
        raise Invalid("bad_size", f"{text!r} is not a size", hint="Write it like 512MiB, 10GiB or 4096.")
    whole, fraction, prefix, binary, byte = match.groups()
    if binary and not prefix:
        raise Invalid("bad_size", f"{text!r} is not a size", hint="Write it like 512MiB, 10GiB or 4096.")
    scale = _BINARY[prefix.lower()]
    if prefix and byte and not binary:
        scale = int(1000 ** (" kmgtp".index(prefix.lower())))
    value = int(whole) * scale
    if fraction:
        value += int(fraction) * scale // 10 ** len(fraction)
    return value


def format_size(size: int | None) -> str:
    """Return `1.5 GiB` for people; `-` for None."""
    if size is None:
        return "-"
    value = float(size)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(value) < 1024 or unit == "TiB":
            return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"
        value /= 1024
    raise AssertionError


def parse_cpus(text: str) -> float:
    """Return CPUs for `2` or `1.5`; between 0.01 and 4096. Raises Invalid."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.01 <= value <= 4096:
        raise Invalid("bad_cpus", f"{text!r} is not a number of CPUs", hint="Write it like 2 or 1.5.")
    return value


def parse_duration(text: str) -> float:
    """Return seconds for `90`, `1.5s`, `10m`, `1h`, `7d`. Raises Invalid."""
    match = _DURATION.fullmatch(text.strip())
    if not match:
        raise Invalid("bad_duration", f"{text!r} is not a duration", hint="Write it like 30s, 10m or 1h.")
    return float(match.group(1)) * _SECONDS[match.group(2) or "s"]


def format_duration(seconds: float | None) -> str:
    """Return `412 ms`, `3.2 s`, `5m 10s`, `3h 4m` or `2d 3h`; `-` for None."""
    if seconds is None:
        return "-"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes}m {rest}s"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours}h {minutes}m"
    return f"{hours // 24}d {hours % 24}h"


def format_period(seconds: float) -> str:
    """Return `90s`, `30m`, `1h` or `1d`: the largest unit that leaves nothing over, as `parse_duration` reads it."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size and seconds % size == 0:
            return f"{seconds / size:.0f}{unit}"
    return f"{seconds:.3f}".rstrip("0").rstrip(".") + "s"
