"""The `limiting` facet: a running container's control group, and its configuration for the next start.

Limits of disk traffic name a device by its number, and liblxc does not start a container with a number that is none any
more. So they are never in the configuration: they are `volatile`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from triune.domain.errors import Conflict
from triune.domain.limits import Limits
from triune.engines.lxc import mark as marks
from triune.engines.lxc import spec
from triune.engines.lxc.client import Client
from triune.engines.lxc.limit_items import PREFIXES, items, read_items
from triune.engines.lxc.stats import PAYLOAD
from triune.host import blockdev, cgroup, cgroup_limits
from triune.host.cgroup import Group


def rewritten(text: str, limits: Limits, changed: Collection[str], versions: Mapping[str, int | None]) -> str:
    """The configuration with these keys as in `limits`, of either version; all other lines stay as written."""
    keys = set(changed) - cgroup_limits.DISK
    if keys & {"memory", "swap"}:
        keys |= {"memory", "swap"}
    whole = Limits(cpus=1.0, cpu_weight=1, cpu_pin="0", memory=1, swap=1, pids=1)
    gone = {
        PREFIXES[version] + setting.file
        for key in keys
        for version in (1, 2)
        for setting in cgroup_limits.settings(key, whole, version)
    }
    lines = [line for line in text.splitlines() if not any(key in gone for key, _ in spec.parse(line))]
    kept = Limits().changed({key: limits.get(key) for key in keys})
    return "\n".join([*lines, *(spec.config_line(key, value) for key, value in items(kept, versions)), ""])


class LxcLimiting:
    """Limits of containers below one LXC path."""

    def __init__(self, client: Client) -> None:
        self._client = client
        mounted = cgroup.hierarchies()
        self.versions = cgroup_limits.versions(mounted)
        self.missing = cgroup_limits.missing(mounted)
        self.keys = frozenset(cgroup_limits.CONTROLLERS) - self.missing.keys()
        self.live = self.keys
        self.volatile = cgroup_limits.DISK & self.keys

    def read(self, name: str) -> Limits:
        """Of its control group while it runs, else of its configuration."""
        folder = self._client.require(name)
        group = self._group(name)
        if group is not None:
            return cgroup_limits.read_group(group, self._disk(folder))
        return read_items(spec.parse((folder / "config").read_text(errors="replace")), self.versions)

    def apply(self, name: str, limits: Limits, changed: frozenset[str]) -> frozenset[str]:
        """In its control group and in its configuration; nothing waits for a restart."""
        folder = self._client.require(name)
        cgroup_limits.require_keys(limits, changed, self.missing)
        text = (folder / "config").read_text(errors="surrogateescape")
        fresh = rewritten(text, limits, changed, self.versions)
        group = self._group(name)
        if group is not None:
            before = cgroup_limits.read_group(group, self._disk(folder))
            cgroup_limits.require_room(group, name, limits, changed)
            self._set(group, name, limits, changed, folder)
        try:
            if fresh != text:
                marks.write_file(folder / "config", fresh.encode(errors="surrogateescape"), 0o644)
        except BaseException:
            if group is not None:
                self._set(group, name, before, changed, folder)
            raise
        return frozenset()

    def _set(self, group: Group, name: str, limits: Limits, changed: Collection[str], folder: Path) -> None:
        try:
            cgroup_limits.apply(group, limits, changed, self._disk(folder))
        except Conflict as error:
            raise Conflict(error.code, f"{name}: {error.message}", hint=error.hint) from None

    def _group(self, name: str) -> Group | None:
        """The container's control group; None where it does not run."""
        pid = self._client.init_pid(name)
        if pid is None:
            return None
        try:
            return cgroup.group_of(pid, PAYLOAD)
        except OSError:
            return None

    @staticmethod
    def _disk(folder: Path) -> str | None:
        return blockdev.disk_of(folder / "rootfs")
