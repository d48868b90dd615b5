"""The LXC engine: system containers, unprivileged by default, on a shared read-only tree."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from triune.domain.errors import Failed, TriuneError
from triune.domain.image import FormKind
from triune.domain.instance import Instance, InstanceDetail, State, Stats
from triune.domain.operation import Progress
from triune.engines.archiving import Archiving
from triune.engines.auditing import Auditing
from triune.engines.base import (
    Attaching,
    Bridging,
    Cloning,
    Commands,
    Console,
    EventSink,
    Files,
    LaunchPlan,
    Limiting,
    Logs,
    NativePorts,
    OciStore,
    Pausing,
    Probe,
    Renaming,
    Snapshots,
    Templates,
    Watch,
)
from triune.engines.importing import Importing
from triune.engines.lxc import detail, holding, ready, stats
from triune.engines.lxc.archiving import LxcArchiving
from triune.engines.lxc.attaching import LxcAttaching
from triune.engines.lxc.auditing import LxcAuditing
from triune.engines.lxc.client import Client
from triune.engines.lxc.cloning import LxcCloning
from triune.engines.lxc.commands import LxcCommands
from triune.engines.lxc.console import LxcConsole
from triune.engines.lxc.files import LxcFiles
from triune.engines.lxc.inventory import Inventory
from triune.engines.lxc.lifecycle import Lifecycle
from triune.engines.lxc.limits import LxcLimiting
from triune.engines.lxc.logs import LxcLogs
from triune.engines.lxc.oom import LxcEvents
from triune.engines.lxc.snapshots import NO_MEMORY, LxcSnapshots
from triune.host import cgroup, cgroup_limits, idmap, lxcfs

_TOOLS = (
    *("lxc-start", "lxc-stop", "lxc-freeze", "lxc-unfreeze"),
    *("lxc-attach", "lxc-console", "lxc-monitor", "lxc-destroy"),
)
_SEARCH = "/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/bin"
_MISSING = {
    "bridging": "a system container joins any bridge; none has to be announced to LXC",
    "importing": "a container has no firmware and no disks of its own",
    "oci": "LXC has no store of OCI images",
    "templates": "a container starts in a moment: nothing has to be kept warm",
    "ports": "LXC publishes no ports itself; Triune's own rules do it",
}


class LxcEngine:
    """System containers below one LXC path. `state_dir` holds the mounts of shared layers."""

    name = "lxc"
    title = "LXC"
    form_kind = FormKind.TREE

    def __init__(self, lxc_path: Path = Path("/var/lib/lxc"), *, state_dir: Path) -> None:
        self._client = Client(lxc_path)
        self._inventory = Inventory(self._client)
        self._lifecycle = Lifecycle(self._client, state_dir)
        self._commands = LxcCommands(self._client)
        self._limiting = LxcLimiting(self._client)
        self.commands: Commands | None = self._commands
        self.pausing: Pausing | None = _Pausing(self._client)
        self.renaming: Renaming | None = _Renaming(self._lifecycle)
        self.logs: Logs | None = LxcLogs(self._client, self._commands)
        self.console: Console | None = LxcConsole(self._client)
        self.bridging: Bridging | None = None
        self.oci: OciStore | None = None
        self.ports: NativePorts | None = None
        self.limiting: Limiting | None = self._limiting
        self.snapshots: Snapshots | None = LxcSnapshots(self._client)
        self.cloning: Cloning | None = LxcCloning(self._client, self._lifecycle)
        self.templates: Templates | None = None
        self.attaching: Attaching | None = LxcAttaching(self._client)
        self.archiving: Archiving | None = LxcArchiving(self._client, self._lifecycle, state_dir)
        self.files: Files | None = LxcFiles(self._client)
        self.importing: Importing | None = None
        self.auditing: Auditing | None = LxcAuditing(self._client)

    def probe(self) -> Probe:
        """Say what works here."""
        missing = [tool for tool in _TOOLS if shutil.which(tool, path=_SEARCH) is None]
        if missing:
            return Probe(
                available=False,
                reason=f"{', '.join(missing)} can't be found on this host",
                hint="Run: apt-get install lxc",
                missing=_MISSING,
            )
        try:
            version = self._client.version()
        except TriuneError as error:
            return Probe(available=False, reason=error.message, hint=error.hint, missing=_MISSING)
        if os.geteuid() != 0:
            return Probe(
                available=False,
                version=version,
                reason="system containers are started by root",
                hint="Run the daemon as root.",
                missing=_MISSING,
            )
        lacking = {f"limiting.{key}": reason for key, reason in self._limiting.missing.items()}
        lacking["snapshots.memory"] = NO_MEMORY
        return Probe(available=True, version=version, missing={**_MISSING, **lacking}, facts=self._facts())

    def _facts(self) -> Mapping[str, object]:
        granted = idmap.subordinate_range()
        mounted = cgroup.hierarchies()
        return {
            "path": str(self._client.path),
            "subordinate_ids": [granted.base, granted.count] if granted else None,
            "apparmor": detail.apparmor_enabled(),
            "cgroups": {name: mounted.version(name) for name in ("cpu", "memory", "pids")},
            "lxcfs": lxcfs.shown(),
            "disk_limits": cgroup_limits.disk_note(mounted),
        }

    def list(self) -> Sequence[Instance]:
        """All containers below the LXC path."""
        return self._inventory.list()

    def row(self, name: str) -> Instance:
        """One container as in the list."""
        return self._inventory.row(name)

    def get(self, name: str) -> InstanceDetail:
        """One container with everything known of it."""
        return detail.detail(self._client, self._inventory, name)

    def check(self, plan: LaunchPlan) -> None:
        """Raise Invalid or Unsupported if `create` would refuse this plan."""
        self._lifecycle.check(plan)

    def create(self, plan: LaunchPlan, progress: Progress) -> None:
        """Make it, stopped. Steps: lxc-lower, lxc-upper, lxc-mount, lxc-config."""
        self._lifecycle.create(plan, progress)

    def start(self, name: str, progress: Progress) -> None:
        """Start it."""
        progress.step("lxc-start", f"starting {name}")
        self._lifecycle.start(name)

    def stop(self, name: str, *, timeout: float, force: bool, progress: Progress) -> None:
        """Shut it down, or kill it."""
        progress.step("lxc-stop", f"stopping {name}")
        self._lifecycle.stop(name, timeout, force, progress)

    def wait_ready(self, name: str, timeout: float, progress: Progress) -> None:
        """Return once its init has finished starting."""
        ready.wait_ready(self._client, self._commands, name, timeout, progress)

    def delete(self, name: str) -> None:
        """Remove it with everything of it."""
        self._lifecycle.delete(name)

    def stats(self) -> Mapping[str, Stats]:
        """Counters of running containers."""
        return stats.all_stats(self._client)

    def watch(self, sink: EventSink) -> Watch:
        """Deliver events; first, what an earlier daemon held still when it died goes on."""
        holding.let_all_go(self._client)
        return LxcEvents(self._client, sink)


class _Pausing:
    """The `pausing` facet: the freezer."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def pause(self, name: str) -> None:
        """Freeze it; nothing to do when it is frozen."""
        self._client.require_running(name)
        if self._client.state(name) is not State.PAUSED and not self._client.freeze(name):
            raise Failed("pause_failed", f"{name} could not be paused", hint=f"Try: lxc-freeze -n {name}")

    def resume(self, name: str) -> None:
        """Thaw it; nothing to do when it runs."""
        self._client.require_running(name)
        if self._client.state(name) is State.PAUSED and not self._client.unfreeze(name):
            raise Failed("resume_failed", f"{name} could not be resumed", hint=f"Try: lxc-unfreeze -n {name}")


class _Renaming:
    """The `renaming` facet."""

    live = False

    def __init__(self, lifecycle: Lifecycle) -> None:
        self._lifecycle = lifecycle

    def rename(self, name: str, new: str) -> None:
        """Rename a stopped container."""
        self._lifecycle.rename(name, new)
