"""The host's CPUs."""

from __future__ import annotations

import os
from pathlib import Path

from triune.domain.limits import parse_cpu_list

_ONLINE = Path("/sys/devices/system/cpu/online")


def online() -> tuple[int, ...]:
    """The numbers of those that are on."""
    try:
        return parse_cpu_list(_ONLINE.read_text().strip())
    except (OSError, ValueError):
        return tuple(range(os.cpu_count() or 1))
