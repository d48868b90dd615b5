"""What is free, and kernel limits that many instances run into."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from triune.domain.finding import Finding
from triune.domain.units import format_size
from triune.host.probe.filesystems import nearest
from triune.host.probe.view import Facts, View, ok, unknown, warning

AREA = "resources"
_LOW_MEMORY = 1 * 2**30
_LOW_DISK = 10 * 2**30

# sysctl key, file name, what it limits, and the value that serves some hundred instances.
LIMITS = (
    ("fs.inotify.max_user_instances", "inotify", "inotify instances a user", 1024),
    ("fs.inotify.max_user_watches", "inotify-watches", "inotify watches a user", 65536),
    ("kernel.pid_max", "pids", "processes", 32768),
    ("kernel.keys.maxkeys", "keys", "kernel keys a user", 2000),
    ("fs.aio-max-nr", "aio", "asynchronous disk requests", 65536),
)


def parse_meminfo(text: str) -> Mapping[str, int]:
    """Parse /proc/meminfo (proc(5)) into bytes by name; lines without a number are skipped. Never raises."""
    sizes = {}
    for line in text.splitlines():
        name, colon, rest = line.partition(":")
        words = rest.split()
        if colon and words and words[0].isascii() and words[0].isdigit():
            sizes[name.strip()] = int(words[0]) * (1024 if words[1:] == ["kB"] else 1)
    return sizes


def probe(view: View) -> Sequence[Finding]:
    """Memory, disk space and kernel limits."""
    return [_memory(view), _disk(view), *_limits(view)]


def _memory(view: View) -> Finding:
    sizes = parse_meminfo(view.files.text("/proc/meminfo") or "")
    total, free = sizes.get("MemTotal"), sizes.get("MemAvailable")
    facts: Facts = {"total_bytes": total, "available_bytes": free, "swap_bytes": sizes.get("SwapTotal")}
    if total is None or free is None:
        return unknown("resources.memory", AREA, "/proc/meminfo does not say how much memory is free.", **facts)
    sentence = f"{format_size(free)} of {format_size(total)} memory are available."
    if free < _LOW_MEMORY:
        return warning("resources.memory", AREA, f"Only {sentence}", **facts)
    return ok("resources.memory", AREA, sentence, **facts)


def _disk(view: View) -> Finding:
    folder = nearest(view.files.path(view.data_dir))
    try:
        status = os.statvfs(folder)
    except OSError as error:
        return unknown("resources.disk", AREA, f"The disk space of {view.data_dir} cannot be read: {error.strerror}.")
    free, total = status.f_bavail * status.f_frsize, status.f_blocks * status.f_frsize
    facts: Facts = {"path": view.data_dir, "free_bytes": free, "total_bytes": total, "free_inodes": status.f_favail}
    sentence = f"{format_size(free)} of {format_size(total)} are free for {view.data_dir}."
    if free < _LOW_DISK:
        return warning("resources.disk", AREA, f"Only {sentence}", **facts)
    if status.f_files and status.f_favail < 50_000:
        return warning("resources.disk", AREA, f"{sentence} But only {status.f_favail} inodes.", **facts)
    return ok("resources.disk", AREA, sentence, **facts)


def _limits(view: View) -> list[Finding]:
    found = []
    low = []
    for key, name, what, wanted in LIMITS:
        value = view.files.number(f"/proc/sys/{key.replace('.', '/')}")
        if value is None or value >= wanted:
            continue
        low.append(key)
        sentence = f"Only {value} {what} are allowed ({key}); many containers run into that."
        fix = f"echo '{key} = {wanted}' | tee /etc/sysctl.d/60-triune-{name}.conf | sysctl -p -"
        found.append(warning(f"resources.{name}", AREA, sentence, fix, value=value, wanted=wanted))
    if not low:
        keys = [key for key, *_ in LIMITS]
        found.append(ok("resources.limits", AREA, "Kernel limits allow some hundred instances.", keys=keys))
    return found
