"""What no instance of this host may be given, whatever its engine."""

from __future__ import annotations

import os

from triune.domain.errors import Invalid
from triune.domain.limits import Limits, format_cpu_list, parse_cpu_list
from triune.domain.units import format_size
from triune.host import cpus

_SMALLEST_MEMORY = 4 * 2**20
_MOST_CPUS = 16  # times those of the host


def check(limits: Limits) -> None:
    """Raise Invalid if these limits make no sense on this host."""
    _check_memory(limits)
    _check_cpus(limits)


def _check_memory(limits: Limits) -> None:
    if limits.memory is None:
        return
    host = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if limits.memory > host:
        raise Invalid(
            "memory_exceeds_host",
            f"{format_size(limits.memory)} of memory is more than this host has ({format_size(host)})",
            hint="Ask for less memory.",
        )
    if limits.memory < _SMALLEST_MEMORY:
        raise Invalid(
            "memory_too_small",
            f"{format_size(limits.memory)} of memory is too little for any instance",
            hint="Ask for at least 4 MiB; a size without a unit is in bytes.",
        )


def _check_cpus(limits: Limits) -> None:
    if limits.cpus is not None and limits.cpus > (os.cpu_count() or 1) * _MOST_CPUS:
        raise Invalid(
            "cpus_exceed_host",
            f"{limits.cpus:g} CPUs are far more than this host has ({os.cpu_count()})",
            hint="Ask for fewer CPUs.",
        )
    if limits.cpu_pin is not None:
        there = cpus.online()
        absent = set(parse_cpu_list(limits.cpu_pin)) - set(there)
        if absent:
            raise Invalid(
                "no_such_cpu",
                f"this host has no CPU {format_cpu_list(absent)}",
                hint=f"It has {format_cpu_list(there)}: cpu.pin={there[0]}",
            )
