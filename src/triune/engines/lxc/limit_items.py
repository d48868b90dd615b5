"""Limits as items of LXC's configuration, for control groups v1 and v2. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from triune.domain.limits import Limits
from triune.host import cgroup_limits

PREFIXES = {1: "lxc.cgroup.", 2: "lxc.cgroup2."}
# What a limit's value is where there is none: never written down.
_LIFTED = frozenset({"-1", "max", ""})


def items(limits: Limits, versions: Mapping[str, int | None]) -> list[tuple[str, str]]:
    """Configuration items of all limits that outlive a stop. `versions` has 1 or 2 by controller, 2 where unknown."""
    found: list[tuple[str, str]] = []
    for key, controller in cgroup_limits.CONTROLLERS.items():
        if key in cgroup_limits.DISK or limits.get(key) is None:
            continue
        version = versions.get(controller) or 2
        if key == "swap" and version == 1 and limits.memory is not None:
            continue  # said along with the memory
        for setting in cgroup_limits.settings(key, limits, version):
            if setting.value not in _LIFTED:
                found.append((PREFIXES[version] + setting.file, setting.value))
    return found


def read_items(configured: Iterable[tuple[str, str]], versions: Mapping[str, int | None]) -> Limits:
    """The limits of a configuration, of whichever version says them; the one that is in use here wins."""
    found = dict(configured)

    def read(version: int) -> Limits:
        return cgroup_limits.read(lambda _, file: found.get(PREFIXES[version] + file, ""), lambda _: version)

    first, second = read(1), read(2)
    used = versions.get("memory") or 2
    return first.changed(second.by_key()) if used == 2 else second.changed(first.by_key())
